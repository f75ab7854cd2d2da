# SPDX-License-Identifier: MIT
"""The soak's own proof: its ledger and its schedule can fail."""

import errno
import subprocess
import sys
import time

import pytest
from ledger import Ledger, parse_payload, payload
from schedule import BROKEN_START, GROUPS, INSTANT, KINDS, make_schedule
from shim import Disk, Shim


class Script:
    """Writes a ledger: messages are m1, m2, ... with their number as id."""

    def __init__(self):
        self.ledger = Ledger()

    def queue(self, *numbers, qos=1):
        for number in numbers:
            self.ledger.sent(f"m{number}", qos)
            self.ledger.queued(f"m{number}", number)

    def deliver(self, *numbers, qos=1, connection=0, clearings=0):
        for number in numbers:
            self.ledger.delivered(
                payload(f"m{number}", 3).encode(), qos, number, connection,
                clearings,
            )

    def problems(self, dead=()):
        return self.ledger.judge(dead).problems


@pytest.fixture
def script():
    return Script()


def test_a_good_run_has_no_problem(script):
    script.queue(1, 2, 3)
    script.deliver(1, 2, 3)
    verdict = script.ledger.judge()
    assert verdict.problems == []
    assert (verdict.acknowledged, verdict.lost) == (3, 0)
    assert script.ledger.owed() == 0


def test_a_lost_message_is_told(script):
    script.queue(1, 2, 3)
    script.deliver(1, 3)
    assert script.problems() == ["lost: 1 messages, e.g. m2"]
    assert script.problems(dead=[2]) == []
    assert script.ledger.owed() == 1


def test_qos_0_may_be_lost_and_is_counted(script):
    script.queue(1, 2, qos=0)
    script.deliver(2, qos=0)
    verdict = script.ledger.judge()
    assert verdict.problems == []
    assert verdict.lost_qos0 == 1


def test_qos_2_is_doubled_only_over_a_cleared_session(script):
    script.queue(1, 2, qos=2)
    script.deliver(1, 2, qos=2)
    script.deliver(2, qos=2, connection=1, clearings=1)
    verdict = script.ledger.judge()
    assert verdict.problems == [] and verdict.doubled[2] == 1
    script.deliver(2, qos=2, connection=2, clearings=1)
    assert script.problems() == ["doubled within a session: 1 messages, "
                                 "e.g. m2"]


def test_qos_1_is_repeated_only_on_a_new_connection(script):
    script.queue(1, 2)
    script.deliver(1, 2)
    script.deliver(1, connection=1)
    assert script.problems() == []
    script.deliver(2, connection=1)
    script.deliver(2, connection=1)
    assert script.problems() == ["twice on one connection: 1 messages, "
                                 "e.g. m2"]


def test_first_deliveries_ascend_within_a_qos(script):
    script.queue(1, 2, 4)
    script.queue(3, qos=2)
    script.deliver(1, 4)
    script.deliver(3, qos=2)
    script.deliver(1, connection=1)
    assert script.problems() == ["lost: 1 messages, e.g. m2"]
    script.deliver(2, connection=1)
    assert script.problems() == ["out of order: QoS 1, m2 (2, queued) "
                                 "after m4 (4)"]


def test_qos_0_may_come_late_after_a_cleared_session(script):
    script.queue(1, 2, 3, qos=0)
    script.deliver(3, qos=0)
    script.deliver(1, qos=0, connection=1, clearings=1)
    assert script.problems() == []
    script.deliver(2, qos=0, connection=2, clearings=1)
    script.queue(4, 5, qos=0)
    script.deliver(5, 4, qos=0, connection=2, clearings=1)
    assert script.problems() == ["out of order: QoS 0, m4 (4, queued) "
                                 "after m5 (5)"]


def test_what_was_refused_must_not_arrive(script):
    script.ledger.sent("m1", 1)
    script.ledger.refused("m1", "storage")
    script.deliver(1)
    assert script.problems() == ["delivered, though refused: 1 messages, "
                                 "e.g. m1"]


def test_what_was_refused_may_outlive_a_kill(script):
    script.ledger.sent("m1", 1)
    script.ledger.refused("m1", "storage")
    script.ledger.killed()
    script.deliver(1)
    verdict = script.ledger.judge()
    assert verdict.problems == [] and verdict.revived == 1


def test_a_stop_leaves_nothing_unanswered_behind(script):
    script.ledger.sent("m1", 1)
    script.ledger.sent("m2", 1)
    script.ledger.unanswered(["m1"], stopped=False)
    script.ledger.unanswered(["m2"], stopped=True)
    script.deliver(1)
    assert script.problems() == []
    script.deliver(2)
    assert script.problems() == ["delivered, though not accepted: 1 "
                                 "messages, e.g. m2"]


def test_a_line_that_nobody_answered_is_told(script):
    script.ledger.sent("m1", 1)
    assert script.problems() == ["without an answer: 1 messages, e.g. m1"]


def test_each_id_means_one_message(script):
    script.queue(1)
    script.ledger.sent("other", 1)
    script.ledger.queued("other", 1)
    script.deliver(1)
    script.ledger.delivered(payload("other", 3).encode(), 1, 1, 0, 0)
    assert "1 ids were given twice" in script.problems()


def test_the_id_is_the_one_that_was_told(script):
    script.queue(1)
    script.ledger.delivered(payload("m1", 3).encode(), 1, 5, 0, 0)
    assert script.problems() == ["with id 5: 1 messages, e.g. m1"]


def test_strangers_and_damage_are_told(script):
    script.deliver(7)
    script.ledger.delivered(b"m1 3 xx", 1, 1, 0, 0)
    problems = script.problems()
    assert "never sent: 1 messages, e.g. m7" in problems
    assert "damaged: b'm1 3 xx'" in problems


def test_payloads_tell_whether_they_are_whole():
    assert parse_payload(payload("a-1", 0).encode()) == "a-1"
    whole = payload("a-1", 50).encode()
    assert parse_payload(whole) == "a-1"
    assert parse_payload(whole[:-1]) is None
    assert parse_payload(whole[:-1] + b"\0") is None
    assert parse_payload(b"") is None


# --- the schedule ------------------------------------------------------------


def test_the_same_seed_makes_the_same_schedule():
    assert make_schedule(3, 100) == make_schedule(3, 100)
    assert make_schedule(3, 100) != make_schedule(4, 100)


@pytest.mark.parametrize("seed", range(5))
def test_all_kinds_come_up_and_end_in_time(seed):
    events = make_schedule(seed, 60)
    assert {event.kind for event in events} == KINDS
    assert all(0 < event.at <= event.end < 60 for event in events)
    for kinds in GROUPS.values():
        group = [event for event in events if event.kind in kinds]
        for before, after in zip(group, group[1:]):
            assert before.end < after.at
    assert all(
        (event.seconds == 0) == (event.kind in INSTANT) for event in events
    )


def test_broken_starts_meet_a_failing_disk():
    events = make_schedule(1, 600)
    faults = [event for event in events if event.kind in GROUPS["disk"]]
    broken = [event for event in events if event.kind == BROKEN_START]
    assert broken
    for event in broken:
        assert any(f.at < event.at < f.end for f in faults)


def test_only_chosen_kinds_come_up():
    chosen = frozenset(["kill", "cut"])
    events = make_schedule(1, 60, chosen)
    assert {event.kind for event in events} == chosen
    with pytest.raises(AssertionError, match="no such events"):
        make_schedule(1, 60, frozenset(["earthquake"]))


# --- the shim ----------------------------------------------------------------

#: Prints the time, and the errno of each way to use a file.
PROGRAM = """
import os, sys, time
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o600)
def attempt(function, *arguments):
    try:
        function(*arguments)
        return 0
    except OSError as error:
        return error.errno
print(
    int(time.time()),
    attempt(os.pwrite, fd, b"x", 0), attempt(os.write, fd, b"x"),
    attempt(os.posix_fallocate, fd, 0, 10), attempt(os.ftruncate, fd, 20),
    attempt(os.fsync, fd), attempt(os.fdatasync, fd),
    attempt(os.pread, fd, 1, 0),
)
"""


@pytest.fixture
def try_shim(shim_library, tmp_path):
    """The shim, and what a program sees that runs with it."""
    disk = tmp_path / "disk"
    disk.mkdir()
    shim = Shim(shim_library, tmp_path / "control", disk)

    def run(directory=disk):
        return [int(word) for word in subprocess.run(
            [sys.executable, "-c", PROGRAM, str(directory / "file")],
            env=shim.environment, check=True, capture_output=True, text=True,
        ).stdout.split()]

    yield shim, run
    shim.close()


def test_a_shim_at_rest_changes_nothing(try_shim):
    shim, run = try_shim
    now, *errors = run()
    assert abs(now - time.time()) < 5
    assert errors == [0] * 7
    assert shim.failed == 0


@pytest.mark.parametrize(
    "what, error, expected",
    [
        ("write", errno.ENOSPC, [errno.ENOSPC] * 4 + [0] * 3),
        ("sync", errno.EIO, [0] * 4 + [errno.EIO] * 2 + [0]),
        ("read", errno.EIO, [0] * 6 + [errno.EIO]),
    ],
)
def test_a_shim_makes_calls_fail(try_shim, tmp_path, what, error, expected):
    """Of files below its directory, and of no others, until it is healed."""
    shim, run = try_shim
    shim.fail(what, error)
    assert run()[1:] == expected
    assert shim.failed == sum(each != 0 for each in expected)
    assert run(tmp_path)[1:] == [0] * 7
    shim.heal()
    assert run()[1:] == [0] * 7


@pytest.mark.parametrize("days", [-300, 4])
def test_a_shim_moves_the_clock(try_shim, days):
    shim, run = try_shim
    shim.shift_clock(days * 86400)
    assert abs(run()[0] - time.time() - days * 86400) < 5


def test_a_full_disk_takes_nothing(try_shim, tmp_path):
    shim, run = try_shim
    disk = Disk(tmp_path / "disk", shim)
    try:
        disk.fill()
        assert errno.ENOSPC in run()[1:]
        disk.free()
        assert run()[1:] == [0] * 7
    finally:
        disk.close()
