# SPDX-License-Identifier: MIT
"""The network goes and comes: two hosts in network namespaces.

The daemon runs in one, mosquitto in the other; a pair of virtual links is the
cable between them. Takes root.
"""

import os
import re
import subprocess
import time

import pytest
from harness import Client, Database, Subscriber, env_int, wait_until
from harness.broker import MOSQUITTO
from harness.hosts import BEYOND, BROKER, GATEWAY, Cable
from harness.ports import LOOPBACK
from harness.process import Process
from harness.traffic import BEGUN, LOST, RATE, UP, Clock, Traffic, judge

#: Seconds that the cable stays pulled.
OUTAGE = env_int("MQTTGW_LINK_OUTAGE", 4)
PORT = 1883
#: A wait so long that whoever waits it out fails the test.
STANDING = {"base": 60.0, "max": 60.0, "jitter": "none", "stable": 1.0,
            "timeout_attempts": 1, "heartbeat_attempts": 1,
            "heartbeat_delay": 0.1}


@pytest.fixture
def cable(tmp_path):
    if os.geteuid() != 0 or subprocess.run(
        ["unshare", "-n", "true"], capture_output=True
    ).returncode:
        pytest.skip("NOT TESTED: network namespaces take root")
    made = Cable(tmp_path)
    yield made
    made.close()


@pytest.fixture
def far_broker(cable, tmp_path):
    """A mosquitto on the other host."""
    config = tmp_path / "mosquitto.conf"
    config.write_text(
        f"listener {PORT} {BROKER}\nlistener {PORT} {BEYOND}\n"
        f"listener {PORT} {LOOPBACK}\nallow_anonymous true\nuser root\n"
        "max_queued_messages 0\nmax_inflight_messages 0\n"
        "log_dest stdout\nlog_type all\n"
    )
    process = Process("mosquitto", tmp_path / "mosquitto.log")
    process.spawn(cable.broker.command(str(MOSQUITTO), "-c", str(config)))
    # It keeps its log to itself until it ends.
    probe = cable.broker.command(
        "bash", "-c", f"exec 3<>/dev/tcp/{BROKER}/{PORT}"
    )
    wait_until(
        lambda: subprocess.run(probe, capture_output=True).returncode == 0,
        10,
        "mosquitto accepts connections",
        interval=0.05,
    )
    yield process
    process.end()


@pytest.fixture
def near_daemon(cable, far_broker, make_daemon, tmp_path):
    """A daemon on this host (not started yet)."""
    daemon = make_daemon(
        PORT,
        broker={"host": BROKER},
        retry=STANDING,
        mqtt={"connect_timeout": 1.0, "ack_timeout": 2.0, "keepalive": 5},
    )
    program = tmp_path / "on-host"
    command = " ".join(cable.gateway.command(daemon.binary))
    program.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    program.chmod(0o755)
    daemon.binary = str(program)
    return daemon


@pytest.fixture
def far_subscriber(cable, far_broker):
    """On the broker's host: the cable does not matter to it."""
    made = cable.broker.inside(lambda: Subscriber(PORT))
    yield made
    made.close()


def set_up(daemon, **groups):
    """Start it with other settings and wait for its connection."""
    for name, members in groups.items():
        daemon.settings[name] = {**daemon.settings[name], **members}
    daemon.write_config()
    daemon.start()
    daemon.wait_output(UP)
    return Clock(daemon)


def publish(daemon, payload):
    with Client(daemon.socket_path) as client:
        client.publish(topic="t", payload=payload, id=1)
        assert client.reply()["status"] == "queued"


def waits(daemon):
    """How often a long wait has begun."""
    return len(
        re.findall(r"next attempt .*in (?:5\d|60)\.\d s", daemon.output())
    )


def delivered_after_plugging(cable, daemon):
    """Plug in; seconds until the queue is empty. The wait stands at 60 s."""
    before = len(daemon.output())
    begin = time.monotonic()
    cable.plug()
    Database(daemon.queue_path).wait_empty(30)
    took = time.monotonic() - begin
    # Not because the wait was over: the log names the network.
    assert re.search(r"gw0: (carrier|address|default route)",
                     daemon.output()[before:])
    return took


@pytest.mark.timeout(120)
def test_network_comes_up_after_the_start(cable, near_daemon, measured):
    """Started without a network, the gateway delivers once there is one."""
    cable.pull()
    daemon = near_daemon.start()
    publish(daemon, "m1")
    wait_until(lambda: waits(daemon) >= 1, 30, "the daemon waits for long")
    took = delivered_after_plugging(cable, daemon)
    measured(f"network: delivered {took:.2f} s after the link came up, "
             "first connection (a wait of 60 s stood)")


@pytest.mark.timeout(180)
def test_network_goes_and_comes(cable, near_daemon, measured):
    """A connection is cut for a while; what was queued then is delivered."""
    daemon = near_daemon.start()
    publish(daemon, "m1")
    Database(daemon.queue_path).wait_empty()
    cable.pull()
    publish(daemon, "m2")
    wait_until(lambda: waits(daemon) >= 1, 60, "the daemon waits for long")
    took = delivered_after_plugging(cable, daemon)
    measured(f"network: delivered {took:.2f} s after the link came back "
             "(a wait of 60 s stood)")


@pytest.mark.long
@pytest.mark.timeout(120 + 2 * OUTAGE)
@pytest.mark.parametrize("version", ["3.1.1", "5"])
def test_outage_under_traffic(
    cable, near_daemon, far_subscriber, measured, version
):
    """The cable is pulled while messages flow, for longer than it matters.

    Without a network nothing is tried; with it, at once, though the backoff
    stands at 60 s; and all that was accepted arrives.
    """
    clock = set_up(near_daemon, mqtt={"version": version})
    traffic = Traffic(near_daemon)
    traffic.wait_more(RATE // 2)
    pulled = time.monotonic()
    cable.pull()
    noticed = clock.wait(LOST, 0, 20)
    begun, up = clock.count(BEGUN), clock.count(UP)
    # All that time messages are accepted.
    traffic.wait_more(RATE * OUTAGE)
    attempts = clock.count(BEGUN) - begun
    assert attempts <= 2 + OUTAGE // 30
    start = time.monotonic()
    cable.plug()
    back = clock.wait(UP, up, 10)
    down = start - pulled
    traffic.wait_more(RATE // 2)
    summary = judge(far_subscriber, traffic.end())
    assert back - start < 10
    measured(
        f"network: cable pulled for {down:.1f} s, MQTT {version}: noticed "
        f"{noticed - pulled:.2f} s, {attempts} attempts meanwhile, connected "
        f"{back - start:.2f} s after link up (a wait of 60 s stood); {summary}"
    )


@pytest.mark.timeout(120)
def test_address_goes_and_comes(
    cable, near_daemon, far_subscriber, measured
):
    clock = set_up(near_daemon)
    traffic = Traffic(near_daemon)
    traffic.wait_more(RATE // 2)
    removed = time.monotonic()
    cable.gateway.ip(f"addr del {GATEWAY}/24 dev gw0")
    noticed = clock.wait(LOST, 0, 20)
    begun, up = clock.count(BEGUN), clock.count(UP)
    traffic.wait_more(RATE)
    attempts = clock.count(BEGUN) - begun
    assert attempts <= 2
    start = time.monotonic()
    cable.gateway.ip(f"addr add {GATEWAY}/24 dev gw0")
    back = clock.wait(UP, up, 10)
    summary = judge(far_subscriber, traffic.end())
    measured(
        f"network: address removed: noticed {noticed - removed:.2f} s, "
        f"{attempts} attempts meanwhile, connected {back - start:.2f} s after "
        f"it came back (a wait of 60 s stood); {summary}"
    )


@pytest.mark.timeout(120)
def test_default_route_is_replaced(
    cable, near_daemon, far_subscriber, measured
):
    """The way to the broker leads nowhere, then there is another one."""
    cable.gateway.ip(f"route add default via {BROKER}")
    near_daemon.settings["brokers"] = [{"host": BEYOND, "port": PORT}]
    clock = set_up(near_daemon)
    traffic = Traffic(near_daemon)
    traffic.wait_more(RATE // 2)
    broken = time.monotonic()
    cable.gateway.ip("route replace default via 10.99.0.77")
    noticed = clock.wait(LOST, 0, 20)
    wait_until(lambda: waits(near_daemon) >= 1, 30, "it waits for long")
    up = clock.count(UP)
    start = time.monotonic()
    cable.gateway.ip(f"route replace default via {BROKER}")
    back = clock.wait(UP, up, 10)
    summary = judge(far_subscriber, traffic.end())
    measured(
        f"network: default route leads nowhere: noticed "
        f"{noticed - broken:.2f} s (ack_timeout 2 s), connected "
        f"{back - start:.2f} s after the right one (a wait of 60 s stood); "
        f"{summary}"
    )


@pytest.mark.timeout(120)
@pytest.mark.parametrize("busy", [True, False], ids=["busy", "idle"])
def test_half_open(cable, near_daemon, far_subscriber, measured, busy):
    """The other host falls silent: no error, no news of the network."""
    clock = set_up(near_daemon, retry={"base": 0.1, "max": 0.5})
    if busy:
        traffic = Traffic(near_daemon)
        traffic.wait_more(RATE // 2)
    else:
        # Its acknowledgement tells that nothing is on its way any more.
        publish(near_daemon, "1")
        Database(near_daemon.queue_path).wait_empty()
    start = time.monotonic()
    cable.swallow(True)
    noticed = clock.wait(LOST, 0, 30)
    up = clock.count(UP)
    cable.swallow(False)
    healed = time.monotonic()
    back = clock.wait(UP, up, 10)
    if busy:
        what = f"busy: {judge(far_subscriber, traffic.end())}"
    else:
        what = "idle, keepalive 5 s"
    measured(
        f"network: half-open: noticed {noticed - start:.2f} s (ack_timeout "
        f"2 s), connected {back - healed:.2f} s after it was over; {what}"
    )
