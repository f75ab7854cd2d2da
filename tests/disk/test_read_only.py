# SPDX-License-Identifier: MIT
"""The file system takes no writes: mounted read-only, or turned so."""

import pytest
from conftest import RECOVERY
from disks import leftovers
from feed import Account, Stream
from harness import Database
from telling import (
    probe,
    wait_status,
    wait_works_again,
    works_again,
)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("database", ["a queue", "no queue"])
@pytest.mark.parametrize("kind", ["ext4", "tmpfs"])
def test_starts_on_a_read_only_file_system(
    make_disk, make_gateway, make_fake, measured, kind, database
):
    """Mounted so by mistake, or after errors; later read-write again."""
    disk = make_disk(kind)
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
    disk.remount("ro")

    daemon.start()
    broker.up()
    for _ in range(3):
        assert probe(daemon)["error"] == "storage"
    second = Stream(daemon.socket_path, "after")
    account.streams.append(second)
    second.wait_refused(100)
    wait_status(daemon)
    disk.remount("rw")
    second.wait_queued(100, RECOVERY)
    second.stop()
    account.wait_delivered(daemon)
    measured(f"read-only start, {kind}, {database}: {account.judge()}")
    assert leftovers(disk.point) is None


@pytest.mark.timeout(120)
def test_ext4_turns_read_only_under_load(
    make_disk, make_gateway, make_fake, measured
):
    """As ext4 does by itself after an error in its own data; the way back
    is a new mount, for which the daemon must be stopped."""
    disk = make_disk("ext4")
    broker = make_fake()
    broker.down()
    daemon = make_gateway(disk, broker.port).start()
    stream = Stream(daemon.socket_path, "before")
    account = Account(broker, stream)
    stream.wait_queued(500)

    # A plain remount is refused while files are open for writing.
    disk.remount("abort")
    stream.wait_refused(300)
    wait_status(daemon)
    # The backlog can be read, hence delivered, though no row can leave.
    broker.up()
    account.wait_delivered(daemon)
    stream.stop()
    daemon.check_alive()
    daemon.terminate()
    daemon.wait()
    disk.revive()

    daemon.start()
    second = Stream(daemon.socket_path, "after")
    account.streams.append(second)
    second.wait_queued(100, RECOVERY)
    second.stop()
    account.wait_delivered(daemon)
    Database(daemon.queue_path).wait_empty(30)
    measured(f"ext4 aborts: {account.judge(cut=True)}")
    assert Database(daemon.queue_path).value("PRAGMA integrity_check") == "ok"
    assert leftovers(disk.point) is None


@pytest.mark.timeout(120)
def test_files_become_immutable_under_load(
    make_disk, make_gateway, make_fake, measured
):
    """`chattr +i`: the kernel refuses writes through open descriptors."""
    disk = make_disk("ext4")
    broker = make_fake()
    daemon = make_gateway(disk, broker.port).start()
    stream = Stream(daemon.socket_path, "line")
    account = Account(broker, stream)
    stream.wait_queued(500)

    for _ in range(2):
        told = works_again(daemon)
        disk.set_immutable("queue.db-wal", True)
        try:
            stream.wait_refused(300)
        finally:
            disk.set_immutable("queue.db-wal", False)
        stream.wait_queued(300, RECOVERY)
        wait_works_again(daemon, told)
    stream.stop()
    account.wait_delivered(daemon)
    Database(daemon.queue_path).wait_empty(30)
    measured(f"immutable log: {account.judge()}")
    assert leftovers(disk.point) is None
