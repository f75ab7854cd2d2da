# SPDX-License-Identifier: MIT
"""Bad links to a real mosquitto, with traffic: all noticed, nothing lost.

Times to notice a fault and to be back are reported; their bounds here are wide
enough for a slow machine.
"""

import re
import signal
import subprocess
import time

import pytest
from harness import Client, Database, env_int, wait_until
from harness.client import all_queued
from harness.subscriber import duplicates, first_deliveries
from harness.traffic import (
    FAILED,
    LOST,
    RATE,
    UP,
    Clock,
    Traffic,
    judge,
    numbers,
)

#: Messages over the slow link.
SLOW = env_int("MQTTGW_LINK_SLOW", 1000)
#: Size of the message that takes several ack_timeouts, KiB.
BULK = env_int("MQTTGW_LINK_BULK_KIB", 128)

ACK_TIMEOUT = 1.5
#: What a connection may take over ACK_TIMEOUT to be given up; the aim is 2 s.
GRACE = 8.0
#: A good link is found again within this; the longest wait is 0.5 s.
BACK = 10.0

MQTT = {"ack_timeout": ACK_TIMEOUT, "connect_timeout": 1.0}

def begin(make_daemon, port, version="5", **groups):
    daemon = make_daemon(
        port, mqtt={"version": version, "client_id": "gw", **MQTT}, **groups
    ).start()
    daemon.wait_output(UP)
    return daemon


#: fault, what it does, failed attempts to wait for before the link heals
FAULTS = [
    ("stall", lambda link: link.stall(), 1),
    ("stall up", lambda link: link.stall(up=True, down=False), 1),
    ("stall down", lambda link: link.stall(up=False, down=True), 1),
    ("RST", lambda link: link.reset(), 0),
    ("half-open", lambda link: link.half_open(), 0),
    ("black hole", lambda link: link.black_hole(), 2),
    ("refuse", lambda link: link.refuse(), 3),
    ("accept, then silence", lambda link: link.mute(), 2),
]
CASES = [
    pytest.param(*fault, version, id=f"{fault[0]}, MQTT {version}")
    for fault in FAULTS
    for version in (["3.1.1", "5"] if fault[0] in ("stall", "half-open")
                    else ["5"])
]


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name, fault, failures, version", CASES)
def test_fault_under_traffic(
    make_daemon, mosquitto, make_link, make_subscriber, measured,
    name, fault, failures, version,
):
    """It is noticed, and over when the link is good again."""
    subscriber = make_subscriber(mosquitto.port)
    link = make_link(mosquitto.port)
    daemon = begin(make_daemon, link.port, version)
    clock = Clock(daemon)
    traffic = Traffic(daemon)
    traffic.wait_more(RATE)
    lost, up, failed = (clock.count(p) for p in (LOST, UP, FAILED))
    start = time.monotonic()
    fault(link)
    noticed = clock.wait(LOST, lost, ACK_TIMEOUT + GRACE)
    healed = noticed
    if failures:
        clock.wait(FAILED, failed + failures - 1, 60)
        link.heal()
        healed = time.monotonic()
    back = clock.wait(UP, up, BACK)
    traffic.wait_more(RATE // 2)
    count = traffic.end()
    summary = judge(subscriber, count)
    measured(
        f"links: {name}, MQTT {version}: noticed {noticed - start:.2f} s "
        f"(ack_timeout {ACK_TIMEOUT} s), back {back - healed:.2f} s after "
        f"{'the link' if failures else 'that'}; {summary}"
    )
    assert clock.count(LOST) == lost + 1


@pytest.mark.timeout(60)
def test_half_open_without_traffic(
    make_daemon, mosquitto, make_link, measured
):
    """Nothing in flight: a PINGREQ tells, and not a keepalive later."""
    link = make_link(mosquitto.port)
    daemon = make_daemon(
        link.port, mqtt={"client_id": "gw", "keepalive": 5, **MQTT}
    ).start()
    daemon.wait_output(UP)
    clock = Clock(daemon)
    start = time.monotonic()
    assert link.half_open() == 1
    noticed = clock.wait(LOST, 0, 30)
    back = clock.wait(UP, 1, BACK)
    assert "PINGREQ is not answered" in daemon.output()
    measured(
        f"links: half-open and idle, keepalive 5 s: noticed "
        f"{noticed - start:.2f} s, back {back - noticed:.2f} s after that"
    )


@pytest.mark.long
@pytest.mark.timeout(60 + SLOW // 5)
@pytest.mark.parametrize("version", ["3.1.1", "5"])
def test_slow_link(
    make_daemon, mosquitto, make_link, make_subscriber, measured, version
):
    """256 kbit/s, 600 ms there and back: no fault, and the window opens.

    The link's near end closes its TCP window now and then, as a proxy for
    satellite links does: no fault either.
    """
    subscriber = make_subscriber(mosquitto.port)
    link = make_link(mosquitto.port, buffer=16384)
    link.slow(256000, round_trip=0.6)
    daemon = make_daemon(
        link.port,
        mqtt={"version": version, "client_id": "gw", "ack_timeout": 2.0},
    ).start()
    daemon.wait_output(UP, 20)
    start = time.monotonic()
    with Client(daemon.socket_path) as client:
        all_queued(
            client.feed(
                {"topic": "t", "payload": f"{n} ".ljust(100, "."),
                 "qos": n % 3, "id": n}
                for n in range(SLOW)
            ),
            range(SLOW),
        )
    Database(daemon.queue_path).wait_empty(30 + SLOW / 10)
    took = time.monotonic() - start
    summary = judge(subscriber, SLOW)
    assert len(re.findall(LOST, daemon.output())) == 0
    assert len(subscriber.records) == SLOW
    measured(
        f"links: 256 kbit/s, 600 ms, MQTT {version}: drained in {took:.1f} s "
        f"({SLOW * 100 / took / 32000:.0%} of the line in payload); {summary}"
    )


@pytest.mark.long
@pytest.mark.timeout(60 + BULK // 4)
def test_large_message_is_no_fault(
    make_daemon, mosquitto, make_link, make_subscriber, measured
):
    """It takes several ack_timeouts on the line, and that is all right.

    It also takes more than two keepalives: a PINGREQ waits behind it.
    """
    ack_timeout, keepalive, qos = 3.0, 5, 2
    size = BULK * 1024
    subscriber = make_subscriber(mosquitto.port)
    link = make_link(mosquitto.port, buffer=2048)
    daemon = make_daemon(
        link.port,
        socket={"max_message_bytes": "4M"},
        mqtt={"client_id": "gw", "ack_timeout": ack_timeout,
              "keepalive": keepalive},
    ).start()
    daemon.wait_output(UP, 20)
    link.slow(64000)
    start = time.monotonic()
    with Client(daemon.socket_path) as client:
        for payload in ("0 ", "1 ".ljust(size, "x"), "2 "):
            client.publish(topic="t", payload=payload, qos=qos, id=1)
            assert client.reply()["status"] == "queued"
    records = subscriber.wait_for(3, 30 + size / 4000, daemon.check_alive)
    Database(daemon.queue_path).wait_empty()
    took = time.monotonic() - start
    assert [len(r.payload) for r in records] == [2, size, 2]
    assert len(re.findall(LOST, daemon.output())) == 0
    measured(
        f"links: {BULK} KiB at 64 kbit/s: {took:.1f} s, ack_timeout "
        f"{ack_timeout} s, keepalive {keepalive} s, no connection lost"
    )


@pytest.mark.long
@pytest.mark.timeout(120)
def test_failover_under_load(
    make_daemon, make_mosquitto, make_subscriber, measured
):
    """The first of two brokers dies and comes back; nothing is lost.

    The subscribers take QoS 1: at QoS 2, what a dead broker has not yet
    finished with them would be its loss, and look like the gateway's.
    """
    failback = 2.0
    brokers = [make_mosquitto().start(), make_mosquitto().start()]
    first, second = brokers
    subscribers = [make_subscriber(b.port, qos=1) for b in brokers]
    daemon = make_daemon(
        first.port,
        retry={"timeout_attempts": 1, "heartbeat_attempts": 1,
               "stable": 1.0, "failback": failback},
        mqtt=MQTT,
    )
    daemon.settings["brokers"] = [
        {"host": "127.0.0.1", "port": broker.port} for broker in brokers
    ]
    daemon.write_config()
    daemon.start()
    to_first, to_second = (f":{broker.port}: .*{UP}" for broker in brokers)
    clock = Clock(daemon)
    clock.wait(to_first, 0, 10)
    traffic = Traffic(daemon)
    traffic.wait_more(RATE)
    killed = time.monotonic()
    first.kill9()
    over = clock.wait(to_second, 0, 20)
    traffic.wait_more(RATE)
    # What it gave this subscriber before was for a session now forgotten.
    first.start()
    risen = time.monotonic()
    home = clock.wait(to_first, 1, failback + 20)
    traffic.wait_more(RATE)
    count = traffic.end()
    wanted = {number for number in range(count) if number % 3}

    def complete():
        for subscriber in subscribers:
            wanted.difference_update(
                int(r.payload.split()[0]) for r in list(subscriber.records)
            )
        return not wanted

    wait_until(complete, 30, "every message of QoS 1 and 2", interval=0.1)
    doubled = {1: 0, 2: 0}
    for qos in doubled:
        arrived = [numbers(list(s.records), qos) for s in subscribers]
        for each in arrived:
            distinct = first_deliveries(each)
            assert distinct == sorted(distinct)
        doubled[qos] = duplicates(arrived[0] + arrived[1])
    measured(
        f"links: first broker killed: at the second after "
        f"{over - killed:.2f} s, back at the first {home - risen:.2f} s after "
        f"its return (failback {failback} s); {count} messages, 0 lost of QoS "
        f"1 and 2, {doubled[1]} and {doubled[2]} doubled between the brokers"
    )


# --- clocks -----------------------------------------------------------------


@pytest.fixture
def slept_for_days(tmp_path):
    """A time namespace in which the machine was suspended for ten days.

    CLOCK_REALTIME has no such thing, and setting it would be the whole
    machine's business: that it does not matter is not shown here.
    """
    holder = subprocess.Popen(
        ["unshare", "--time", "--boottime", "864000", "--fork",
         "--kill-child", "sleep", "600"],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    children = f"/proc/{holder.pid}/task/{holder.pid}/children"

    def child():
        if holder.poll() is not None:
            pytest.skip("NOT TESTED: time namespaces take root: "
                        f"{holder.stderr.read().decode()}")
        with open(children) as listed:
            return listed.read().split()

    pid = wait_until(child, 10, "the namespace is there")[0]
    yield ["nsenter", f"--time=/proc/{pid}/ns/time", "--"]
    holder.kill()
    holder.wait()


@pytest.mark.timeout(120)
def test_clocks_that_differ_by_days(
    make_daemon, mosquitto, make_link, make_subscriber, measured, tmp_path,
    slept_for_days,
):
    """After a long suspend the clocks disagree; no wait is mistaken."""
    program = tmp_path / "after-suspend"
    subscriber = make_subscriber(mosquitto.port)
    link = make_link(mosquitto.port)
    daemon = make_daemon(link.port, mqtt={"client_id": "gw", **MQTT})
    command = " ".join([*slept_for_days, daemon.binary])
    program.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    program.chmod(0o755)
    daemon.binary = str(program)
    daemon.start()
    daemon.wait_output(UP)
    clock = Clock(daemon)
    traffic = Traffic(daemon)
    traffic.wait_more(RATE // 2)
    link.stall()
    start = time.monotonic()
    noticed = clock.wait(LOST, 0, ACK_TIMEOUT + GRACE)
    clock.wait(FAILED, 1, 60)
    # Waits are over when they should be, neither at once nor in ten days.
    assert clock.count(FAILED) <= 3 + (time.monotonic() - noticed) / 0.5
    link.heal()
    healed = time.monotonic()
    back = clock.wait(UP, 1, BACK)
    summary = judge(subscriber, traffic.end())
    measured(
        f"links: clocks ten days apart: stall noticed {noticed - start:.2f} "
        f"s, back {back - healed:.2f} s after the link; {summary}"
    )


@pytest.mark.timeout(90)
def test_standing_still_is_no_fault_of_the_broker(
    make_daemon, mosquitto, make_subscriber, measured
):
    """The whole gateway stops for longer than ack_timeout, and goes on."""
    subscriber = make_subscriber(mosquitto.port)
    daemon = begin(make_daemon, mosquitto.port)
    clock = Clock(daemon)
    traffic = Traffic(daemon)
    for _ in range(3):
        traffic.wait_more(RATE // 2)
        daemon.process.signal(signal.SIGSTOP)
        # The pause itself is what is tested.
        time.sleep(ACK_TIMEOUT + 0.5)
        daemon.process.signal(signal.SIGCONT)
    traffic.wait_more(RATE // 2)
    summary = judge(subscriber, traffic.end())
    measured(
        f"links: stopped three times for {ACK_TIMEOUT + 0.5} s: "
        f"{clock.count(LOST)} connections lost; {summary}"
    )
