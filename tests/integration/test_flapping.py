# SPDX-License-Identifier: MIT
"""What the log says of an outage and of a broker that flaps: little, and
all of it; and of a connection that stands: nothing."""

import re
import time

import pytest
from harness import Database, wait_until
from harness.fakebroker import OnLasting, accept
from harness.ports import free_port
from harness.steps import feed, step, use_brokers

#: How many of a run are told in full.
FULL = 5

QUICK = {"base": 0.02, "max": 0.1, "heartbeat_delay": 0.02, "stable": 30.0}


def hang_up(conn):
    conn.expect_connect()
    conn.finish()


def refuse(conn):
    conn.expect_connect()
    conn.connack(code=0x87)
    conn.finish()


def drop(conn):
    """Lets the gateway in, and out."""
    conn.connack()
    time.sleep(0.01)
    conn.finish()


def sleep_for(seconds):
    end = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() > end, 2 * seconds, "time to pass")


def lines(daemon, pattern=""):
    return [line for line in daemon.output().splitlines()
            if re.search(pattern, line)]


def lost(daemon):
    return lines(daemon, r": connected -> \w+: ")


def failed(daemon):
    return lines(daemon, r": connecting -> (disconnected|offline): ")


@pytest.mark.long
@pytest.mark.timeout(120)
def test_quiet_connection(make_daemon, mosquitto):
    """PINGREQ, probes of a better broker that is down, messages."""
    daemon = make_daemon(
        mosquitto.port,
        mqtt={"keepalive": 5},
        retry={"failback": 0.5, "stable": 1.0, "timeout_attempts": 1},
    )
    use_brokers(daemon, free_port(), mosquitto.port).start()
    daemon.wait_output(step(mosquitto.port, "connecting", "connected"))
    before = daemon.output()
    feed(daemon, 100)
    Database(daemon.queue_path).wait_empty()
    sleep_for(16)
    assert daemon.output() == before


@pytest.mark.timeout(60)
def test_outage(make_daemon, make_fake):
    """The first attempts in full, then none; its end says how many."""
    broker = make_fake(*[hang_up] * 40, OnLasting(accept))
    daemon = make_daemon(broker.port, retry=QUICK).start()
    daemon.wait_output(step(broker.port, "connecting", "connected"), 30)
    assert len(failed(daemon)) == FULL
    # The last of them was told before it failed.
    assert len(lines(daemon, "-> connecting")) == FULL + 1
    connected, = lines(daemon, "-> connected")
    more = re.search(r"; (\d+) more attempts had failed before$", connected)
    assert int(more.group(1)) == 40 - FULL
    # The next outage is told from its beginning.
    broker.scripts = [hang_up]
    broker.connections[-1].cut()
    wait_until(lambda: len(failed(daemon)) == 2 * FULL, 20,
               "the first attempts of another outage")
    assert len(lost(daemon)) == 1


@pytest.mark.timeout(60)
def test_news_at_once(make_daemon, make_fake):
    """Another class of failure, and another broker, in the midst of it."""
    first = make_fake(hang_up)
    daemon = make_daemon(first.port, retry=QUICK).start()
    wait_until(lambda: len(first.connections) > 20, 30, "20 attempts")
    assert len(failed(daemon)) == FULL
    first.scripts = [refuse]
    daemon.wait_output(
        rf"error: .*:{first.port}: connecting -> error: .*\(auth\); set aside")
    daemon.wait_output("no broker is left to be tried: every one is set aside")
    second = make_fake(OnLasting(accept))
    use_brokers(daemon, first.port, second.port)
    daemon.restart()
    daemon.wait_output(step(second.port, "connecting", "connected"))


@pytest.mark.timeout(60)
def test_debug_tells_each(make_daemon, make_fake):
    broker = make_fake(hang_up)
    daemon = make_daemon(
        broker.port, retry=QUICK, log={"level": "debug"}).start()
    wait_until(lambda: len(failed(daemon)) > 30, 30, "30 attempts in the log")
    told = failed(daemon)
    assert all(line.startswith("warning: ") for line in told[:FULL])
    assert all(line.startswith("debug: ") for line in told[FULL:])


@pytest.mark.long
@pytest.mark.timeout(150)
def test_flapping(make_daemon, make_fake, measured):
    """One line after a minute stands for all that had none."""
    broker = make_fake(OnLasting(drop))
    daemon = make_daemon(broker.port, retry=QUICK).start()
    summary = r"; \d+ times in \d+ s, well for less than 1 s at the longest$"
    wait_until(lambda: any(re.search(summary, line) for line in lost(daemon)),
               100, "a summary")
    said = lines(daemon)
    told = lost(daemon)
    connections = len(broker.connections)
    assert len(told) == FULL + 1
    assert len(lines(daemon, "-> connected")) == FULL + 1
    times, span = re.search(
        r"; (\d+) times in (\d+) s", told[-1]).groups()
    measured(f"flapping: {connections} connections, {len(said)} lines; "
             f"the last stands for {times} in {span} s")
    assert 60 <= int(span) <= 66
    assert connections > 100
    # Some were made since, and the first had cleared the session.
    assert 0 <= connections - FULL - int(times) <= 20
    assert len(said) < 40
