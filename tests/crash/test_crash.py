# SPDX-License-Identifier: MIT
"""A power cut at any moment loses nothing that was answered `queued`.

A run of the daemon is recorded: outages and deliveries, orderly stops and
kills, checkpoints and log restarts. From the recording every image is built
that a power cut could have left, and each is opened.
"""

import os
import random
import shutil
import tempfile
from pathlib import Path

import pytest
from checker import QueueChecker
from harness import Client, FakeBroker, env_int, wait_until
from images import Kind, Recording, read_directory, write_image

SEED = env_int("MQTTGW_SEED", 1)
MESSAGES = env_int("MQTTGW_CRASH_MESSAGES", 150)
IMAGES = os.environ.get("MQTTGW_CRASH_IMAGES", "5000")

#: Of so many images one is handed to the daemon itself.
DAEMON_EVERY = 50


def name_of(payload):
    """The id that a message's payload begins with."""
    return payload.split(b" ")[0].decode()


class RecordedRun:
    """Drives a daemon under the recorder through its phases."""

    def __init__(self, daemon, broker, proxy, recorder, log):
        self.daemon = daemon
        self.broker = broker
        self.proxy = proxy
        self.rng = random.Random(SEED)
        self.answered = {}
        self.feeds = 0
        state = os.path.realpath(daemon.state)
        options = os.environ.get("ASAN_OPTIONS", "")
        daemon.extra_env = {
            "LD_PRELOAD": str(recorder),
            "RECORD_DIR": state,
            "RECORD_LOG": str(log),
            # The recorder stands in front of the sanitizer's library.
            "ASAN_OPTIONS": f"{options}:verify_asan_link_order=0",
        }

    def start(self, kill_after=None):
        """Start; optionally to be killed behind so many records."""
        self.daemon.extra_env.pop("RECORD_KILL", None)
        if kill_after:
            self.daemon.extra_env["RECORD_KILL"] = str(kill_after)
        self.daemon.start()

    def messages(self, count):
        """New messages of mixed size; names ascend within a feed."""
        self.feeds += 1
        for number in range(count):
            name = f"feed{self.feeds}-{number}"
            size = self.rng.choice([0, 20, 200, 900, 5000])
            yield {
                "id": name,
                "topic": f"crash/{self.feeds}",
                "payload": name + " " + "x" * size,
                "qos": self.rng.choice([1, 2]),
            }

    def note(self, replies):
        for reply in replies:
            assert reply["status"] == "queued", reply
            self.answered[reply["id"]] = reply["seq"]

    def feed(self, count, batch):
        """So many messages, ``batch`` at a time in flight."""
        with Client(self.daemon.socket_path) as client:
            waiting = list(self.messages(count))
            while waiting:
                now, waiting = waiting[:batch], waiting[batch:]
                self.note(client.feed(now))

    def feed_until_killed(self, batch):
        """Feed until the recorder ends the daemon."""
        self.daemon.expect_exit = True
        with Client(self.daemon.socket_path) as client:
            waiting = self.messages(100_000)
            try:
                while True:
                    now = [next(waiting) for _ in range(batch)]
                    self.note(client.feed(now))
            except ConnectionError:
                self.note(client.replies(client.pending()))
        assert self.daemon.wait() == -9

    def drain(self):
        """Wait until the broker has everything that was answered."""

        def delivered():
            self.daemon.check_alive()
            taken = {name_of(p) for p in self.broker.payloads()}
            return set(self.answered) <= taken

        wait_until(delivered, 60, "everything is delivered", interval=0.05)

    def taken(self):
        """When the broker took over which message, at first."""
        times = {}
        for message in self.broker.delivered:
            times.setdefault(name_of(message.payload), message.time_ns)
        return times

    def run(self):
        """All phases; at the end the queue has been emptied once more."""
        # The first start of all, without a broker, and a kill.
        self.start(kill_after=self.rng.randint(400, 900))
        self.feed_until_killed(batch=1)
        # One at a time, then many: an outage that ends in order.
        self.start()
        self.feed(MESSAGES, batch=1)
        self.feed(MESSAGES, batch=25)
        self.daemon.stop()
        # The backlog goes out while new messages come in, and a kill.
        self.proxy.resume()
        self.start(kill_after=self.rng.randint(800, 1600))
        self.feed_until_killed(batch=3)
        # Removals and additions together, down to an empty queue.
        self.start()
        self.feed(MESSAGES, batch=1)
        self.drain()
        self.feed(MESSAGES, batch=10)
        self.drain()
        self.daemon.stop()
        # A kill while nothing but the drain is at work.
        self.proxy.refuse()
        self.start()
        self.feed(MESSAGES, batch=50)
        self.daemon.stop()
        self.proxy.resume()
        self.start()
        self.broker.wait_delivered(len(self.broker.delivered) + 10)
        self.daemon.kill9()
        # The last one sets everything right.
        self.start()
        self.feed(10, batch=1)
        self.drain()
        self.daemon.stop()


@pytest.fixture
def scratch():
    """A directory for images, in memory where there is some."""
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    path = Path(tempfile.mkdtemp(prefix="crash-", dir=base))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def record(make_daemon, make_fake, make_proxy, recorder, tmp_path):
    """Makes the run with a ``queue.sync``: (RecordedRun, Recording)."""

    def make(sync):
        broker = make_fake()
        proxy = make_proxy(broker.port)
        proxy.refuse()
        daemon = make_daemon(
            proxy.port,
            queue={"sync": sync},
            retry={"base": 0.02, "max": 0.1, "stable": 0.5},
        )
        log = tmp_path / "log"
        run = RecordedRun(daemon, broker, proxy, recorder, log)
        run.run()
        return run, Recording(log, Path(os.path.realpath(daemon.state)))

    return make


def stretches(recording, suffix):
    """How often writes to such a file began anew after writes to others."""
    paths = [
        each.path for each in recording.records if each.kind == Kind.WRITE
    ]
    return sum(
        path.endswith(suffix) and not before.endswith(suffix)
        for before, path in zip([""] + paths, paths)
    )


def log_restarts(recording):
    """How often the write-ahead log was written from its start."""
    return sum(
        each.kind == Kind.WRITE and each.offset == 0
        and each.path.endswith("-wal")
        for each in recording.records
    )


class DaemonCheck:
    """Hands some of the images to the daemon: it starts and delivers."""

    def __init__(self, checker, make_daemon):
        self.checker = checker
        self.make_daemon = make_daemon
        self.images = 0
        self.started = 0
        self.delivered = 0

    def __call__(self, directory, moment):
        self.images += 1
        chosen = self.images % DAEMON_EVERY == 0
        image = read_directory(directory) if chosen else {}
        problems = self.checker(directory, moment)
        if chosen and not problems:
            problems = self._start(image, moment)
        return problems

    def _start(self, image, moment):
        broker = FakeBroker()
        daemon = self.make_daemon(broker.port)
        try:
            write_image(image, daemon.state)
            daemon.start()
            with Client(daemon.socket_path) as client:
                reply = client.ask(
                    {"id": "new-0", "topic": "t", "payload": "new-0 "}
                )
            told = max(moment.acknowledged.values(), default=0)
            if reply["status"] != "queued" or reply["seq"] <= told:
                return [f"daemon: {reply} after {told}"]
            owed = set(self.checker.missing(moment, set())) | {"new-0"}

            def paid():
                daemon.check_alive()
                return owed <= {name_of(p) for p in broker.payloads()}

            wait_until(paid, 30, f"{moment}: {len(owed)} are delivered")
            daemon.stop()
            self.started += 1
            self.delivered += len(owed)
            return []
        finally:
            daemon.verdict()
            daemon.close()
            broker.close()


@pytest.mark.long
@pytest.mark.timeout(3600 if IMAGES != "all" else 36000)
def test_no_power_cut_loses_what_was_acknowledged(
    record, make_daemon, scratch, measured
):
    """Each image opens, is sound, and holds all that is owed."""
    run, recording = record("full")
    assert recording.final_image() == read_directory(run.daemon.state), \
        "the recorder has missed something"
    assert stretches(recording, "queue.db") >= 5, "no checkpoints inside"
    assert log_restarts(recording) >= 5, "no log restarts inside"

    checker = QueueChecker(run.taken(), strict=True)
    judge = DaemonCheck(checker, make_daemon)
    report = recording.check(
        judge,
        scratch / "image",
        None if IMAGES == "all" else int(IMAGES),
        SEED,
    )
    measured(
        f"power cuts: {report}; lost {len(checker.lost)}, unopenable "
        f"{checker.unopenable}; {judge.started} images opened by the "
        f"daemon, which delivered {judge.delivered} messages"
    )
    for example in report.examples:
        measured(f"  {example}")
    # In the recording is at least all that the clients were answered.
    assert report.acknowledged >= len(run.answered)
    assert checker.lost == set()
    assert checker.unopenable == 0
    assert report.problems == {}
    assert judge.started > 0


@pytest.mark.timeout(300)
def test_the_same_without_syncs_is_found_out(record, scratch, measured):
    """With sync = "normal" the same run must show losses, or the test
    above would prove nothing. The database stays sound even so."""
    run, recording = record("normal")
    checker = QueueChecker(run.taken())
    report = recording.check(checker, scratch / "image", 600, SEED)
    measured(f"power cuts, sync = normal: {report}")
    assert len(checker.lost) > 0
    assert checker.unopenable == 0
