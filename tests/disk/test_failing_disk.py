# SPDX-License-Identifier: MIT
"""The disk answers with errors, under load, and recovers.

Calls of the daemon fail in a library before it (faultshim.c), on the files of
the queue alone. Whatever fails: no line is acknowledged that is not on disk,
none that was refused is kept, the daemon stays, and goes on by itself.
"""

import errno
import time

import pytest
from conftest import RECOVERY
from disks import NOLOGFLUSH, leftovers
from feed import Account, Stream
from harness import Database
from telling import (
    probe,
    wait_accepts,
    wait_status,
    wait_told,
    wait_works_again,
    works_again,
)

LOG = "queue.db-wal"

# What fails, in which files, with what; all of them refuse lines.
REFUSING = {
    "EIO on write": (["write"], "any", errno.EIO),
    "EIO on write to the log": (["write"], LOG, errno.EIO),
    "ENOSPC on write": (["write", "allocate"], "any", errno.ENOSPC),
    "EDQUOT on write": (["write", "allocate"], "any", errno.EDQUOT),
    "EROFS on write": (
        ["write", "truncate", "allocate", "open"], "any", errno.EROFS
    ),
    "EIO on fsync": (["sync"], "any", errno.EIO),
    "EIO on fsync of the log": (["sync"], LOG, errno.EIO),
    "EIO on everything": (
        ["read", "write", "sync", "truncate", "allocate", "open"], "any",
        errno.EIO,
    ),
}

# What the lines need not notice: the log takes them.
HARMLESS = {
    "EIO on fsync of the database": (["sync"], "queue.db", errno.EIO),
    "EIO on write to the database": (["write"], "queue.db", errno.EIO),
    "ENOSPC on write to the database": (["write"], "queue.db", errno.ENOSPC),
    "EIO on truncate": (["truncate"], "any", errno.EIO),
}


class Trial:
    """A daemon that can be made to fail, with a stream of lines to it."""

    def __init__(self, disk, daemon, broker, rules):
        self.disk = disk
        self.daemon = daemon
        self.broker = broker
        self.rules = rules
        self.account = Account(broker)
        self.stream = None

    def feed(self, tag, **options):
        self.stream = Stream(self.daemon.socket_path, tag, **options)
        self.account.streams.append(self.stream)
        return self.stream

    def finish(self):
        """The rest of the lines, then a kill: all that is owed arrives."""
        # A new process would count the calls anew.
        self.rules.clear()
        self.stream.stop()
        self.account.wait_delivered(self.daemon)
        Database(self.daemon.queue_path).wait_empty(30)
        self.broker.down()
        last = self.feed("last")
        last.wait_queued(300)
        self.daemon.kill9()
        last.stop()
        self.daemon.start()
        self.broker.up()
        self.account.wait_delivered(self.daemon)
        database = Database(self.daemon.queue_path)
        database.wait_empty(30)
        assert database.value("PRAGMA integrity_check") == "ok"
        assert leftovers(self.disk.point) is None
        return self.account.judge()


@pytest.fixture
def trial(make_disk, make_gateway, make_fake, make_rules):
    """A daemon that runs, connected; most of the time in memory."""

    def make(kind="tmpfs", size=64 << 20):
        disk = make_disk(kind, size)
        broker = make_fake()
        daemon = make_gateway(disk, broker.port)
        rules = make_rules(daemon)
        daemon.start()
        broker.wait_connections(1)
        return Trial(disk, daemon, broker, rules)

    return make


@pytest.mark.timeout(150)
@pytest.mark.parametrize("name", list(REFUSING))
def test_lines_are_refused(trial, measured, name):
    """Twice: for good, until the fault ends; and for three calls only."""
    operations, suffix, error = REFUSING[name]
    t = trial()
    stream = t.feed("line")
    stream.wait_queued(300)

    told = works_again(t.daemon)
    t.rules.set(*operations, suffix=suffix, error=error)
    stream.wait_refused(300)
    # It tries again by itself, whatever lines come.
    t.rules.wait_hits(3)
    wait_told(t.daemon, error)
    wait_status(t.daemon)
    t.daemon.check_alive()
    t.rules.clear()
    stream.wait_queued(300, RECOVERY)
    wait_works_again(t.daemon, told)

    t.rules.set(*operations, suffix=suffix, error=error, count=3)
    t.rules.wait_hits(3)
    stream.wait_queued(300, RECOVERY)
    measured(f"{name}: {t.finish()}")


@pytest.mark.timeout(150)
@pytest.mark.parametrize("name", list(HARMLESS))
def test_lines_need_not_notice(trial, measured, name):
    """A checkpoint fails; whether lines are refused is the daemon's to say.

    Accepted ones are safe in any case, and nothing remains once it is over.
    """
    operations, suffix, error = HARMLESS[name]
    t = trial()
    stream = t.feed("line", size=2000)
    stream.wait_queued(300)
    t.rules.set(*operations, suffix=suffix, error=error)
    t.rules.wait_hits(3)
    handled = len(stream.queued) + len(stream.refused)
    # Answers go on coming, of whatever kind.
    while len(stream.queued) + len(stream.refused) < handled + 1000:
        t.daemon.check_alive()
        stream.check()
        time.sleep(0.01)
    t.rules.clear()
    stream.wait_queued(300, RECOVERY)
    measured(f"{name}: {t.finish()}")


@pytest.mark.timeout(150)
def test_reads_fail(trial, measured):
    """EIO on read: rows are not taken for rot, nor passed over.

    SQLite calls a database malformed whose file gives EIO. It is not, and
    must not be set aside: what is there can be read later.
    """
    t = trial()
    t.broker.down()
    stream = t.feed("line", size=2000)
    # More than fits into any cache of the library's.
    stream.wait_queued(6000, 60)
    stream.stop()
    t.feed("other", rate=200)
    t.rules.set("read", error=errno.EIO)
    t.broker.up()
    t.rules.wait_hits(5)
    t.daemon.wait_output("Input/output error|malformed", 20)
    t.daemon.check_alive()
    t.rules.clear()
    t.stream.wait_queued(300, RECOVERY)
    measured(f"EIO on read: {t.finish()}")
    names = t.account.delivered()
    for qos in (0, 1):
        numbers = [
            int(name.split("-")[1]) for name in dict.fromkeys(names)
            if name.startswith("line-")
        ]
        ordered = [number for number in numbers if number % 2 == qos]
        assert ordered == sorted(ordered), "first deliveries out of order"


@pytest.mark.timeout(150)
def test_fsync_takes_seconds(trial, measured):
    """Lines wait for the slow disk; deliveries and the daemon go on."""
    t = trial()
    stream = t.feed("line")
    stream.wait_queued(300)
    t.rules.set("sync", delay_msec=2000)
    t.rules.wait_hits(2)
    begin = time.monotonic()
    assert probe(t.daemon)["status"] == "queued"
    assert time.monotonic() - begin >= 1.5, "acknowledged before the fsync"
    t.rules.clear()
    stream.wait_queued(300, RECOVERY)
    assert not stream.refused
    measured(f"slow fsync: {t.finish()}")


@pytest.mark.timeout(120)
@pytest.mark.parametrize("operation", ["open", "read", "write", "sync"])
def test_start_on_a_failing_disk(trial, measured, operation):
    """It starts all the same, says `storage`, and goes on once it can."""
    t = trial()
    t.broker.down()
    stream = t.feed("before")
    stream.wait_queued(500)
    t.daemon.kill9()
    stream.stop()

    t.rules.set(operation, error=errno.EIO)
    t.daemon.start()
    for _ in range(3):
        assert probe(t.daemon)["error"] == "storage"
    wait_told(t.daemon, errno.EIO)
    wait_status(t.daemon)
    t.broker.up()
    t.rules.clear()
    wait_accepts(t.daemon, RECOVERY)
    t.feed("after").wait_queued(300, RECOVERY)
    measured(f"start with EIO on {operation}: {t.finish()}")


@pytest.mark.timeout(150)
@pytest.mark.parametrize("times", [1, 5])
def test_refused_rows_hide_none(trial, measured, times):
    """fsync fails; the lines after that survive a power cut.

    The refused frames are in the log file, as the kernel sees it, but not
    acknowledged. What is appended later must not stand behind them: a power
    cut may take them, and with them all that follows.
    """
    t = trial("ext4", 64 << 20)
    t.broker.down()
    stream = t.feed("before")
    stream.wait_queued(300)
    t.rules.set("sync", suffix=LOG, error=errno.EIO, count=times)
    t.rules.wait_hits(times)
    stream.wait_queued(500, RECOVERY)
    assert stream.refused
    refused = set(stream.refused)
    t.rules.clear()
    t.account.power_off(t.daemon, t.disk, NOLOGFLUSH, stream)

    t.daemon.start()
    names = {
        bytes(row[2]).split(b" ")[0].decode()
        for row in Database(t.daemon.queue_path).rows()
    }
    assert not set(stream.queued) - names, "acknowledged rows are gone"
    assert not names & refused, "refused rows are kept"
    t.broker.up()
    t.account.wait_delivered(t.daemon)
    t.feed("after").wait_queued(100)
    measured(f"fsync fails {times} times, power cut: {t.finish()}")
