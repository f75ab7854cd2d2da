# SPDX-License-Identifier: MIT
"""A power cut at any moment loses nothing that was answered `queued`.

Runs of the daemon are recorded; phases.py tells of them. From a recording
every image is built that a power cut could have left, and each is opened.
"""

import os
import shutil
import tempfile
from pathlib import Path

import phases
import pytest
from checker import QueueChecker
from harness import Client, FakeBroker, wait_until
from images import Report, write_image
from phases import PHASES, SEED, name_of

IMAGES = os.environ.get("MQTTGW_CRASH_IMAGES", "5000")

#: Of so many images one is handed to the daemon itself.
DAEMON_EVERY = 100


@pytest.fixture
def scratch():
    """A directory for images, in memory where there is some."""
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    path = Path(tempfile.mkdtemp(prefix="crash-", dir=base))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def record(make_daemon, make_fake, make_proxy, recorder, tmp_path):
    """Makes the run of a phase with a ``queue.sync``."""

    def make(kind, sync):
        broker = make_fake()
        phase = phases.make(
            kind, make_daemon, broker, make_proxy(broker.port), recorder,
            tmp_path / "log", sync,
        )
        phase.run()
        return phase, phase.recording()

    return make


class DaemonCheck:
    """Hands some of the images to the daemon: it starts and delivers.

    Those that hold a database to be set aside are all handed to it.
    """

    def __init__(self, checker, make_daemon):
        self.checker = checker
        self.make_daemon = make_daemon
        self.images = 0
        self.started = 0
        self.delivered = 0

    def __call__(self, directory, moment):
        self.images += 1
        problems = self.checker(directory, moment)
        chosen = (
            self.images % DAEMON_EVERY == 0 or self.checker.undecided
        )
        if chosen and not problems:
            problems = self._start(moment)
        return problems

    def _owed(self, moment):
        """What the daemon has to deliver from the image."""
        if self.checker.max_messages is not None:
            # With this bound some are gone, which the checker has judged.
            return set(self.checker.kept)
        return set(self.checker.missing(moment, set()))

    def _start(self, moment):
        owed = self._owed(moment) | {"new-0"}
        broker = FakeBroker()
        daemon = self.make_daemon(broker.port)
        try:
            write_image(moment.image, daemon.state)
            daemon.start()
            with Client(daemon.socket_path) as client:
                reply = client.ask(
                    {"id": "new-0", "topic": "t", "payload": "new-0 "}
                )
            told = max(moment.acknowledged.values(), default=0)
            if reply["status"] != "queued" or reply["seq"] <= told:
                return [f"daemon: {reply} after {told}"]

            def paid():
                daemon.check_alive()
                return owed <= {name_of(p) for p in broker.payloads()}

            try:
                wait_until(paid, 10, f"{len(owed)} are delivered")
            except TimeoutError:
                lost = owed - {name_of(p) for p in broker.payloads()}
                self.checker.lost |= lost
                return [f"lost: {len(lost)} messages by the daemon's start"]
            daemon.stop()
            self.started += 1
            self.delivered += len(owed)
            return []
        except AssertionError as error:
            self.checker.unopenable += 1
            return [f"unopenable: the daemon does not start: {error}"]
        finally:
            daemon.verdict()
            daemon.close()
            broker.close()


#: Of the phases that have run in this process: name -> Report.
reports = {}


def wanted(kind):
    """So many images of a phase; None: all there are."""
    return None if IMAGES == "all" else round(int(IMAGES) * kind.share)


@pytest.mark.long
@pytest.mark.timeout(3600 if IMAGES != "all" else 36000)
@pytest.mark.parametrize("kind", PHASES, ids=lambda kind: kind.name)
def test_no_power_cut_loses_what_was_acknowledged(
    kind, record, make_daemon, scratch, measured
):
    """Each image opens, is sound, and holds all that is owed."""
    phase, recording = record(kind, "full")
    assert phases.complete(phase, recording), "the recorder missed something"
    phase.examine(recording)

    checker = QueueChecker(
        phase.taken(),
        strict=True,
        max_messages=kind.queue.get("max_messages"),
        rotten=kind.rotten,
    )
    judge = DaemonCheck(checker, make_daemon)
    report = recording.check(judge, scratch / "image", wanted(kind), SEED)
    reports[kind.name] = (report, len(checker.lost), checker.unopenable)
    dropped = f", {len(checker.dropped)} dropped" if checker.dropped else ""
    measured(
        f"power cuts, {kind.name}: {report}; lost {len(checker.lost)}"
        f"{dropped}, not openable {checker.unopenable}; {judge.started} "
        f"images opened by the daemon, which delivered {judge.delivered} "
        f"messages"
    )
    for example in report.examples:
        measured(f"  {example}")
    # In the recording is at least all that the clients were answered.
    assert set(phase.answered) <= set(recording.acknowledged())
    assert checker.lost == set()
    assert checker.unopenable == 0
    assert report.problems == {}
    assert judge.started > 0


def test_all_phases_together(measured):
    """As many different images as were asked for, over all phases."""
    if set(reports) != {kind.name for kind in PHASES}:
        pytest.skip("not all phases have run")
    total = Report()
    lost = unopenable = 0
    for report, missing, damaged in reports.values():
        total.records += report.records
        total.syncs += report.syncs
        total.failed_syncs += report.failed_syncs
        total.acknowledged += report.acknowledged
        total.images += report.images
        total.repeats += report.repeats
        lost += missing
        unopenable += damaged
    images = ", ".join(
        f"{name} {report.images}" for name, (report, *_) in reports.items()
    )
    measured(
        f"power cuts in all: {total}; lost {lost}, not openable "
        f"{unopenable}; images by phase: {images}"
    )
    if IMAGES != "all":
        assert total.images >= 0.9 * int(IMAGES)


@pytest.mark.timeout(300)
def test_the_same_without_syncs_is_found_out(record, scratch, measured):
    """With sync = "normal" the same run must show losses, or the test
    above would prove nothing. The database stays sound even so."""
    phase, recording = record(phases.Traffic, "normal")
    checker = QueueChecker(phase.taken())
    report = recording.check(checker, scratch / "image", 600, SEED)
    measured(f"power cuts, sync = normal: {report}")
    assert len(checker.lost) > 0
    assert checker.unopenable == 0
