# SPDX-License-Identifier: MIT
"""A connected daemon with nothing to do sleeps until something is due."""

import time
from pathlib import Path

import pytest
from harness import TIME_FACTOR, Database, wait_until
from harness import mqttwire as wire
from harness.fakebroker import OnLasting
from harness.steps import feed

UP = r"connecting -> connected"

#: Seconds: more than the longest wait between two looks at a connection.
IDLE = 12


def wakeups(daemon):
    """How often the two threads of the daemon's own went to sleep so far."""
    pid = daemon.process.pid
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        name = (task / "comm").read_text().strip()
        if task.name != str(pid) and name != "uplink":
            continue  # a name look-up's, or a sanitizer's
        status = (task / "status").read_text()
        count = status.split("voluntary_ctxt_switches:")[1].split()[0]
        found["uplink" if name == "uplink" else "gateway"] = int(count)
    assert set(found) == {"gateway", "uplink"}
    return found


def written(daemon):
    """Bytes: to descriptors of any kind, and to disk."""
    text = Path(f"/proc/{daemon.process.pid}/io").read_text()
    fields = dict(line.split(": ") for line in text.splitlines())
    return int(fields["wchar"]), int(fields["write_bytes"])


def settle(daemon):
    """What the last message leaves to do is done: three quiet seconds."""
    last = {"counts": wakeups(daemon), "since": time.monotonic()}

    def quiet():
        counts = wakeups(daemon)
        if counts != last["counts"]:
            last.update(counts=counts, since=time.monotonic())
        return time.monotonic() - last["since"] > 3

    wait_until(quiet, 30, "three seconds without a wake-up")


def sleep_for(seconds):
    end = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() > end, 2 * seconds, "time to pass")


@pytest.mark.long
@pytest.mark.timeout(90)
def test_idle_and_connected_costs_nothing(make_daemon, mosquitto, measured):
    """No thread wakes, and nothing is written, before a PINGREQ is due."""
    daemon = make_daemon(mosquitto.port, mqtt={"keepalive": 60}).start()
    daemon.wait_output(UP)
    connected = time.monotonic()
    feed(daemon, 10)
    Database(daemon.queue_path).wait_empty()
    settle(daemon)
    before, bytes_before = wakeups(daemon), written(daemon)
    sleep_for(IDLE)
    after, bytes_after = wakeups(daemon), written(daemon)
    assert time.monotonic() - connected < 58, "too slow: a PINGREQ was due"
    woken = {name: after[name] - before[name] for name in after}
    measured(f"idle: {IDLE} s connected: wake-ups {woken}")
    assert woken == {"gateway": 0, "uplink": 0}
    assert bytes_after == bytes_before


@pytest.mark.long
@pytest.mark.timeout(60)
@pytest.mark.parametrize("version", ["3.1.1", "5"])
def test_pings_come_when_they_are_due(
    make_daemon, make_fake, measured, version
):
    """Each a keepalive after the packet before it, by few wake-ups."""
    keepalive = 5
    pings = []

    def watched(conn):
        conn.connack()
        while True:
            packet = conn.read(60)
            if packet.kind == wire.PINGREQ:
                pings.append(time.monotonic())
            conn.take(packet)

    broker = make_fake(OnLasting(watched))
    daemon = make_daemon(
        broker.port, mqtt={"keepalive": keepalive, "version": version}
    ).start()
    daemon.wait_output(UP)
    wait_until(lambda: len(pings) >= 1, 30, "the first PINGREQ")
    before = wakeups(daemon)["uplink"]
    wait_until(lambda: len(pings) >= 4, 60, "three more")
    woken = wakeups(daemon)["uplink"] - before
    waits = [b - a for a, b in zip(pings, pings[1:])]
    measured(
        f"idle: MQTT {version}, keepalive {keepalive} s: PINGREQ after "
        f"{', '.join(f'{w:.2f}' for w in waits)} s, {woken} wake-ups for "
        f"{len(waits)}"
    )
    for wait in waits:
        # The library counts whole seconds.
        assert keepalive - 1.1 < wait < keepalive + 0.5 * TIME_FACTOR
    # The timer and the answer, three times; the last answer may be late.
    assert woken <= 2 * len(waits) + 2
