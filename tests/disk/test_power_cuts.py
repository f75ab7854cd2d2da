# SPDX-License-Identifier: MIT
"""Power cuts of real file systems, which replay their journals after.

The shutdown ioctl stops a file system between two writes to its disk: what
was not written by then is gone, as the memory is when the power fails.
"""

import random
import time

import pytest
from disks import LOGFLUSH, NOLOGFLUSH, leftovers
from feed import Account, Stream
from harness import Database, env_int

CUTS = env_int("MQTTGW_POWER_CUTS", 5)
SEED = env_int("MQTTGW_SEED", 1)

#: A start is cut after at most so many seconds.
START = 0.15

#: At most so many answers between a start and a cut.
STEP = 3000


class Rounds:
    """Feeds a daemon at full speed and takes its power, again and again."""

    def __init__(self, disk, daemon, broker, rng):
        self.disk = disk
        self.daemon = daemon
        self.broker = broker
        self.rng = rng
        self.account = Account(broker)
        self.connected = 0
        self.starting = 0

    def run(self, cuts, how=None):
        for number in range(cuts):
            if number % 2:
                self.broker.up()
                self.connected += 1
            if number % 5 == 3:
                self.cut_starting(number, how)
            else:
                self.cut_running(number, how)
            if number % 2:
                self.broker.down()

    def how(self, wanted):
        return wanted or self.rng.choice([LOGFLUSH, NOLOGFLUSH, NOLOGFLUSH])

    def cut_running(self, number, how):
        """Under load from two clients, after any number of answers."""
        self.daemon.start()
        streams = [
            Stream(self.daemon.socket_path, f"r{number}c{client}",
                   size=self.rng.choice([20, 200, 2000]))
            for client in range(2)
        ]
        self.account.streams += streams
        streams[0].wait_queued(self.rng.randint(1, STEP) // 2)
        self.power_off(how, *streams)

    def cut_starting(self, number, how):
        """While it opens the queue that the last cut has left."""
        self.starting += 1
        self.daemon.spawn()
        stream = Stream(self.daemon.socket_path, f"r{number}c0")
        self.account.streams.append(stream)
        time.sleep(self.rng.uniform(0, START))
        self.power_off(how, stream)

    def power_off(self, how, *streams):
        self.account.power_off(
            self.daemon, self.disk, self.how(how), *streams
        )

    def finish(self):
        """The power stays; everything goes out."""
        self.broker.up()
        self.daemon.start()
        self.account.wait_delivered(self.daemon, 120)


@pytest.fixture
def rounds(make_disk, make_gateway, make_fake):
    def make(kind, sync="full"):
        disk = make_disk(kind, 128 << 20)
        broker = make_fake()
        broker.down()
        daemon = make_gateway(disk, broker.port, sync=sync)
        return Rounds(disk, daemon, broker, random.Random(SEED))

    return make


@pytest.mark.long
@pytest.mark.timeout(120 + 10 * CUTS)
@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_power_cuts_lose_nothing(rounds, measured, kind):
    """All that was acknowledged before a cut is delivered after it."""
    r = rounds(kind)
    try:
        r.run(CUTS)
        r.finish()
    finally:
        measured(
            f"power cuts of {kind}: {CUTS} cuts, {r.connected} with a "
            f"broker, {r.starting} during a start: {r.account.summary()}"
        )
    database = Database(r.daemon.queue_path)
    database.wait_empty(60)
    assert database.value("PRAGMA integrity_check") == "ok"
    assert leftovers(r.disk.point) is None
    r.account.judge(cut=True)


@pytest.mark.timeout(120)
def test_the_same_without_syncs_is_found_out(rounds, measured):
    """With sync = "normal" rows are lost, or the test above proves nothing."""
    r = rounds("ext4", sync="normal")
    for number in range(10):
        r.cut_running(number, NOLOGFLUSH)
        r.daemon.start()
        names = {
            bytes(row[2]).split(b" ")[0].decode()
            for row in Database(r.daemon.queue_path).rows()
        }
        r.daemon.stop()
        lost = len(r.account.queued() - names)
        if lost:
            break
    measured(
        f"power cuts of ext4, sync = normal: {number + 1} cuts, "
        f"{len(r.account.queued())} acknowledged, {lost} lost"
    )
    assert lost > 0
