# SPDX-License-Identifier: MIT
"""The file system is full: lines are refused, all accepted ones get out.

Deliveries free their rows though there is no room to write, and once there
is room again lines are accepted again, all without help.
"""

import errno

import pytest
from conftest import RECOVERY
from disks import leftovers
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

MIB = 1 << 20

KINDS = {
    "ext4": {"kind": "ext4", "size": 16 * MIB},
    "tmpfs": {"kind": "tmpfs", "size": 12 * MIB},
    "xfs": {"kind": "xfs"},
}

each_kind = pytest.mark.parametrize("name", list(KINDS))


@pytest.mark.timeout(180)
@each_kind
def test_another_file_takes_the_room(
    make_disk, make_gateway, make_fake, measured, name
):
    """A log file grows over everything while lines come in."""
    disk = make_disk(**KINDS[name])
    broker = make_fake()
    broker.down()
    daemon = make_gateway(disk, broker.port).start()
    stream = Stream(daemon.socket_path, "first")
    account = Account(broker, stream)
    stream.wait_queued(500)

    disk.fill()
    stream.wait_refused(300)
    # What the daemon itself may have given back is taken as well.
    disk.fill()
    stream.wait_refused(300)
    wait_told(daemon, errno.ENOSPC)
    wait_status(daemon)
    told = works_again(daemon)

    # The lines go on while the backlog goes out, on the full disk.
    broker.up()
    account.wait_delivered(daemon)
    stream.stop()
    account.wait_delivered(daemon)
    Database(daemon.queue_path).wait_empty(30)

    disk.free()
    second = Stream(daemon.socket_path, "second")
    account.streams.append(second)
    second.wait_queued(300, RECOVERY)
    wait_works_again(daemon, told)
    second.stop()
    account.wait_delivered(daemon)
    daemon.check_alive()
    measured(f"disk full, {name}: {account.judge()}")
    check_after_restart(daemon, disk)


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("name", "size"),
    [("ext4", 16), ("tmpfs", 9), ("tmpfs", 10), ("tmpfs", 11), ("tmpfs", 12)],
)
def test_the_backlog_takes_the_room(
    make_disk, make_gateway, make_fake, measured, name, size
):
    """An outage that is longer than the disk is large.

    Where the log and the database are when the last page is gone is another
    matter with each size.
    """
    disk = make_disk(name, size * MIB)
    broker = make_fake()
    broker.down()
    daemon = make_gateway(disk, broker.port).start()
    stream = Stream(daemon.socket_path, "big", size=4000)
    account = Account(broker, stream)
    stream.wait_refused(500, 60)
    assert len(stream.queued) > 500
    waiting = len(stream.queued)
    assert Database(daemon.queue_path).count() >= waiting

    # Nobody but the backlog itself can make room here.
    broker.up()
    account.wait_delivered(daemon)
    stream.wait_queued(100, RECOVERY)
    stream.stop()
    account.wait_delivered(daemon)
    Database(daemon.queue_path).wait_empty(30)
    measured(
        f"backlog fills the disk, {name}, {size} MiB: {waiting} fitted; "
        f"{account.judge()}"
    )
    check_after_restart(daemon, disk)


@pytest.mark.timeout(120)
def test_a_disk_smaller_than_the_reserve(
    make_disk, make_gateway, make_fake, measured
):
    """Hardly a reserve fits: yet lines are taken again once some can be."""
    disk = make_disk("tmpfs", 3 * MIB)
    broker = make_fake()
    broker.down()
    daemon = make_gateway(disk, broker.port).start()
    stream = Stream(daemon.socket_path, "line", rate=1000)
    account = Account(broker, stream)
    stream.wait_queued(300)
    for _ in range(2):
        disk.fill()
        stream.wait_refused(300)
        disk.free()
        stream.wait_queued(300, RECOVERY)
    stream.stop()
    broker.up()
    account.wait_delivered(daemon)
    Database(daemon.queue_path).wait_empty(30)
    measured(f"disk full, too small for a reserve: {account.judge()}")
    check_after_restart(daemon, disk)


def start_full(daemon, disk, broker, account):
    """Start on the full disk: what is there goes out, then lines come in."""
    daemon.start()
    second = Stream(daemon.socket_path, "after")
    account.streams.append(second)
    second.wait_refused(100)
    wait_status(daemon)
    broker.up()
    account.wait_delivered(daemon)
    disk.free()
    second.wait_queued(100, RECOVERY)
    second.stop()
    account.wait_delivered(daemon)
    Database(daemon.queue_path).wait_empty(30)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", ["ext4", "tmpfs"])
def test_kill_and_restart_while_full(
    make_disk, make_gateway, make_fake, measured, name
):
    """It starts on the full disk, and delivers what is there."""
    disk = make_disk(**KINDS[name])
    broker = make_fake()
    broker.down()
    daemon = make_gateway(disk, broker.port).start()
    stream = Stream(daemon.socket_path, "before")
    account = Account(broker, stream)
    stream.wait_queued(500)
    disk.fill()
    stream.wait_refused(300)
    daemon.kill9()
    stream.stop()
    disk.fill()

    start_full(daemon, disk, broker, account)
    measured(f"killed on the full disk, {name}: {account.judge()}")
    check_after_restart(daemon, disk)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", ["ext4", "tmpfs"])
def test_starts_on_a_full_disk(
    make_disk, make_gateway, make_fake, measured, name
):
    """With the queue and what belongs to it from an orderly stop."""
    disk = make_disk(**KINDS[name])
    broker = make_fake()
    broker.down()
    daemon = make_gateway(disk, broker.port).start()
    stream = Stream(daemon.socket_path, "before")
    account = Account(broker, stream)
    stream.wait_queued(1000)
    stream.stop()
    daemon.stop()
    disk.fill()

    start_full(daemon, disk, broker, account)
    measured(f"started on the full disk, {name}: {account.judge()}")
    check_after_restart(daemon, disk)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", ["ext4", "tmpfs"])
def test_first_start_of_all_on_a_full_disk(
    make_disk, make_gateway, make_fake, name
):
    """There is not even a database: it waits for room and refuses lines."""
    disk = make_disk(**KINDS[name])
    broker = make_fake()
    disk.fill()
    daemon = make_gateway(disk, broker.port).start()
    for _ in range(3):
        assert probe(daemon)["error"] == "storage"
    wait_status(daemon)
    disk.free()
    wait_accepts(daemon, RECOVERY)
    assert broker.wait_delivered(1)[0].payload == b"probe "
    check_after_restart(daemon, disk)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("database", ["a queue", "no queue"])
def test_starts_without_inodes(
    make_disk, make_gateway, make_fake, measured, database
):
    """Room enough, but no file can be made: no log, no lock, no reserve."""
    disk = make_disk("ext4", 16 * MIB, mkfs=["-N", "64"])
    broker = make_fake()
    broker.down()
    daemon = make_gateway(disk, broker.port)
    account = Account(broker)
    if database == "a queue":
        daemon.start()
        stream = Stream(daemon.socket_path, "before")
        account.streams.append(stream)
        stream.wait_queued(500)
        stream.stop()
        daemon.stop()
    disk.fill_inodes()

    daemon.start()
    second = Stream(daemon.socket_path, "after")
    account.streams.append(second)
    second.wait_refused(100)
    wait_status(daemon)
    broker.up()
    disk.free_inodes()
    second.wait_queued(100, RECOVERY)
    second.stop()
    account.wait_delivered(daemon)
    Database(daemon.queue_path).wait_empty(30)
    measured(f"no inodes, {database}: {account.judge()}")
    check_after_restart(daemon, disk)


def check_after_restart(daemon, disk):
    """Nothing was set aside, and what is there is sound."""
    daemon.restart()
    assert probe(daemon)["status"] == "queued"
    assert Database(daemon.queue_path).value("PRAGMA integrity_check") == "ok"
    assert leftovers(disk.point) is None
