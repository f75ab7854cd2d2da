# SPDX-License-Identifier: MIT
"""Every way a connection can fail: its log line, and what is done next.

The log names the broker, the change of state, what was said, the class
and what follows; the scripted brokers see whether that is what follows.
"""

import time

import pytest
from harness import TIME_FACTOR, Database, wait_until
from harness import mqttwire as wire
from harness.fakebroker import OnLasting, accept, serve
from harness.steps import (
    count_lines,
    failure,
    feed,
    payload,
    payloads,
    step,
    use_brokers,
    wait_all,
)

#: Waits without jitter, so that the log can be asked for them.
RETRY = {
    "base": 0.1,
    "multiplier": 1.0,
    "max": 0.3,
    "jitter": "none",
    "timeout_attempts": 2,
    "heartbeat_attempts": 1,
    "heartbeat_delay": 0.1,
    "set_aside": 0.6,
    "failback": 60.0,
}

#: Longer than a test: who is set aside is not asked again.
FOREVER = {**RETRY, "set_aside": 120.0}

# What the log says is to follow, with one broker ...
SAME = r"next attempt in 0\.1 s"
QUICKLY = r"next attempt in 0\.[01] s"
LONGEST = r"next attempt in 0\.3 s"
ASIDE = r"set aside; next attempt in 0\.6 s"
# ... and with another one.
NEXT = r"next attempt now, with 127\.0\.0\.1:"
NEXT_LATER = r"next attempt in 0\.1 s, with 127\.0\.0\.1:"

ADVICE = {
    "auth": "check user name, password",
    "protocol": "check host, port, mqtt.version",
    "moved": "the broker asks for a new address",
    "taken-over": "another client uses our client id",
}


def then(plan, kind):
    """The end of a log line: the plan, and what a person can do."""
    return plan + (f".*; {ADVICE[kind]}" if kind in ADVICE else "")


def start(make_daemon, *brokers, version="5", retry=None, **mqtt):
    daemon = make_daemon(
        brokers[0],
        mqtt={"version": version, "client_id": "gw", **mqtt},
        retry=retry or RETRY,
    )
    return use_brokers(daemon, *brokers).start()


# --- ways to fail before CONNACK --------------------------------------------


def stall(conn):
    conn.expect_connect()
    conn.read(60)


def hang_up(conn):
    conn.expect_connect()
    conn.finish()


def reset(conn):
    conn.expect_connect()
    conn.close(rst=True)


def speak_http(conn):
    conn.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 60\r\n\r\n")
    conn.send(b"<html><body>This is a web server, go away</body></html>")
    conn.expect_connect()
    conn.finish()


def hang_up_inside(conn):
    """The end of the connection in the middle of a packet."""
    conn.expect_connect()
    conn.send(wire.connack(conn.version)[:3])
    conn.finish()


def refusing(code):
    def script(conn):
        conn.expect_connect()
        conn.connack(code=code)
        conn.finish()

    return script


def refuse_with_words(conn):
    """The library lets us read them in CONNACK, not in DISCONNECT."""
    conn.expect_connect()
    conn.connack(
        code=0x9D, reason="moved house", server_reference="b.example:1883"
    )
    conn.finish()


def refuse_at_length(conn):
    conn.expect_connect()
    conn.connack(code=0x9D, reason="x" + 60 * "ü")
    conn.finish()


def refused(version, code, kind):
    return pytest.param(
        version, refusing(code), f"broker refused.*CONNACK 0x{code:02x}: ",
        kind, id=f"{version}-{code:#04x}",
    )


EARLY = [
    pytest.param("5", stall, "no connection within mqtt.connect_timeout: "
                 "waiting for the broker's CONNACK", "timeout", id="stall"),
    pytest.param("5", hang_up, "broker hung up before its CONNACK",
                 "timeout", id="hang-up"),
    pytest.param("3.1.1", reset, "broker hung up before its CONNACK: "
                 "Connection reset", "timeout", id="reset"),
    pytest.param("5", hang_up_inside, "broker hung up before its CONNACK",
                 "timeout", id="half-connack"),
    pytest.param("5", speak_http, "broker does not speak MQTT: it begins with "
                 '"HTTP/1.1 400 Bad Request"', "protocol", id="http"),
    refused("3.1.1", 1, "protocol"),
    refused("3.1.1", 2, "protocol"),
    refused("3.1.1", 3, "busy"),
    refused("3.1.1", 4, "auth"),
    refused("3.1.1", 5, "auth"),
    refused("5", 0x80, "protocol"),
    refused("5", 0x81, "protocol"),
    refused("5", 0x84, "protocol"),
    refused("5", 0x86, "auth"),
    refused("5", 0x87, "auth"),
    refused("5", 0x88, "busy"),
    refused("5", 0x89, "busy"),
    refused("5", 0x8A, "auth"),
    refused("5", 0x97, "busy"),
    refused("5", 0x9C, "moved"),
    refused("5", 0x9D, "moved"),
    refused("5", 0x9F, "busy"),
    pytest.param("5", refuse_with_words, 'broker refused.*0x9d: .*; it says '
                 '"moved house"; it names the server "b.example:1883"',
                 "moved", id="words"),
    pytest.param("5", refuse_at_length,
                 'broker refused.*; it says "x' + 39 * "ü" + '"',
                 "moved", id="long-words"),
]


@pytest.mark.parametrize("version,script,text,kind", EARLY)
def test_refused_by_the_only_broker(
    make_daemon, make_fake, version, script, text, kind
):
    """The line in the log; the same broker after the wait it names."""
    broker = make_fake(script, serve)
    daemon = start(
        make_daemon, broker.port, version=version, connect_timeout=0.3
    )
    state, plan = {
        "timeout": ("disconnected", SAME),
        "busy": ("offline", SAME),
        "moved": ("offline", SAME),
        "auth": ("error", ASIDE),
        "protocol": ("error", ASIDE),
    }[kind]
    daemon.wait_output(
        failure(
            broker.port, "connecting", state, text, kind, then(plan, kind)
        )
    )
    feed(daemon, 10)
    broker.wait_delivered(10)
    assert broker.payloads() == payloads(10)
    first, second = broker.connections[:2]
    waited = 0.6 if plan is ASIDE else 0.1
    assert second.accepted - first.accepted >= waited


@pytest.mark.parametrize("version,script,text,kind", EARLY)
def test_refused_by_the_first_of_two_brokers(
    make_daemon, make_fake, version, script, text, kind
):
    """The line in the log; what the first did not take, the second gets."""
    first, second = make_fake(script), make_fake()
    daemon = start(
        make_daemon, first.port, second.port, version=version,
        connect_timeout=0.3, retry=FOREVER,
    )
    feed(daemon, 10)
    plan = {"timeout": NEXT, "busy": NEXT_LATER}.get(kind, NEXT)
    daemon.wait_output(
        failure(
            first.port, "connecting", "disconnected", text, kind,
            then(plan + str(second.port), kind),
        )
    )
    second.wait_delivered(10)
    assert second.payloads() == payloads(10)
    attempts = {"timeout": 2}.get(kind, 1)
    assert len(first.connections) == attempts
    if kind == "busy":
        waited = second.connections[0].accepted - first.connections[0].accepted
        assert waited >= 0.1


def test_connection_refused(make_daemon, make_fake):
    """Nobody listens: two attempts, then the other broker."""
    first, second = make_fake(), make_fake()
    first.down()
    daemon = start(make_daemon, first.port, second.port)
    text = "Connection refused"
    for plan in (SAME, NEXT + str(second.port)):
        daemon.wait_output(
            failure(first.port, "connecting", "disconnected", text,
                    "timeout", plan)
        )
    feed(daemon, 10)
    second.wait_delivered(10)


# --- ways to fail with a connection that stands ------------------------------


def close_over_publish(conn):
    conn.connack()
    conn.expect(wire.PUBLISH)
    conn.finish()


def reset_over_publish(conn):
    conn.connack()
    conn.expect(wire.PUBLISH)
    conn.close(rst=True)


def close_inside_puback(conn):
    conn.connack()
    publish = conn.expect(wire.PUBLISH)
    conn.send(wire.acknowledgement(conn.version, wire.PUBACK, publish.mid)[:3])
    conn.finish()


def garbage(conn):
    conn.connack()
    conn.expect(wire.PUBLISH)
    conn.send(b"\xff\xff\xff\xff\xff" * 20)
    conn.finish()


def leaving(reason):
    def script(conn):
        conn.connack()
        conn.expect(wire.PUBLISH)
        conn.disconnect(reason)
        conn.finish()

    return script


def left(reason, kind):
    return pytest.param(
        leaving(reason), f"broker sent DISCONNECT 0x{reason:02x}: ", kind,
        id=f"{reason:#04x}",
    )


LATE = [
    pytest.param(close_over_publish, "connection closed by the broker",
                 "heartbeat", id="close"),
    # What it is called depends on whether a read or a write meets it.
    pytest.param(reset_over_publish, "(Connection reset by peer|Broken pipe|"
                 "connection closed by the broker)", "heartbeat", id="reset"),
    pytest.param(leaving(0), "broker ended the connection",
                 "heartbeat", id="0x00"),
    pytest.param(close_inside_puback, "connection closed by the broker",
                 "heartbeat", id="half-puback"),
    pytest.param(garbage, "broker sent an AUTH", "protocol", id="garbage"),
    left(0x82, "protocol"),
    left(0x87, "heartbeat"),
    left(0x8B, "busy"),
    left(0x8E, "taken-over"),
    left(0x97, "busy"),
    left(0x98, "heartbeat"),
    left(0x9C, "moved"),
    left(0x9D, "moved"),
]


@pytest.mark.parametrize("script,text,kind", LATE)
def test_lost_with_the_only_broker(
    make_daemon, make_fake, script, text, kind
):
    broker = make_fake(OnLasting(script, accept))
    daemon = start(make_daemon, broker.port)
    feed(daemon, 10)
    state, plan = {
        "heartbeat": ("disconnected", QUICKLY),
        "busy": ("offline", SAME),
        "moved": ("offline", SAME),
        "taken-over": ("error", LONGEST),
        "auth": ("error", ASIDE),
        "protocol": ("error", ASIDE),
    }[kind]
    daemon.wait_output(
        failure(
            broker.port, "connected", state, text, kind, then(plan, kind)
        )
    )
    wait_all([broker], payloads(10))
    Database(daemon.queue_path).wait_empty()
    assert count_lines(daemon, step(broker.port, "connected", state)) == 1


@pytest.mark.parametrize("script,text,kind", LATE)
def test_lost_with_the_first_of_two_brokers(
    make_daemon, make_fake, script, text, kind
):
    """Who is asked next; the order holds, nothing is lost."""
    first = make_fake(OnLasting(script))
    if kind == "taken-over":
        first.scripts = [OnLasting(script, accept)]
    second = make_fake()
    daemon = start(make_daemon, first.port, second.port, retry=FOREVER)
    feed(daemon, 10)
    state, plan = {
        "taken-over": ("error", LONGEST),
        "busy": ("disconnected", NEXT_LATER + str(second.port)),
    }.get(kind, ("disconnected", NEXT + str(second.port)))
    daemon.wait_output(
        failure(
            first.port, "connected", state, text, kind, then(plan, kind)
        )
    )
    taker = first if kind == "taken-over" else second
    taker.wait_delivered(10)
    Database(daemon.queue_path).wait_empty()
    assert taker.payloads() == payloads(10)
    # A connection that is lost is tried for once more at once, then as
    # often as any.
    attempts = {"heartbeat": 3, "taken-over": 2}.get(kind, 1)
    assert len(first.lasting()) == attempts
    if kind == "taken-over":
        assert not second.connections
        one, two = first.lasting()
        assert two.accepted - one.accepted >= 0.3


def test_acknowledgement_of_nothing(make_daemon, make_fake):
    """A PUBACK for a message never sent is passed over."""

    def wrong_first(conn):
        conn.connack()
        publish = conn.expect(wire.PUBLISH)
        conn.puback(publish.mid + 1000)
        conn.take(publish)
        conn.serve()

    broker = make_fake(OnLasting(wrong_first))
    daemon = start(make_daemon, broker.port)
    feed(daemon, 10)
    broker.wait_delivered(10)
    Database(daemon.queue_path).wait_empty()
    assert broker.payloads() == payloads(10)
    assert len(broker.lasting()) == 1


# --- nobody is left -----------------------------------------------------------


def test_all_brokers_set_aside(make_daemon, make_fake):
    """State error; clients queue messages all the time; then again."""
    brokers = [make_fake(refusing(0x87), serve) for _ in range(2)]
    first, second = brokers
    daemon = start(make_daemon, first.port, second.port)
    feed(daemon, 10)
    daemon.wait_output(
        failure(first.port, "connecting", "disconnected", ".*0x87", "auth",
                NEXT + str(second.port))
    )
    daemon.wait_output(
        failure(second.port, "connecting", "error", ".*0x87", "auth",
                r"set aside; next attempt in 0\.[56] s")
    )
    feed(daemon, 10, first=10)
    wait_all(brokers, payloads(20))
    one, two = first.connections[:2]
    assert two.accepted - one.accepted >= 0.6


def test_every_broker_tried(make_daemon, make_fake):
    """State offline, round for round, until one of them is back."""
    first, second = make_fake(), make_fake()
    first.down()
    second.down()
    daemon = start(make_daemon, first.port, second.port)
    offline = failure(
        second.port, "connecting", "offline", "Connection refused", "timeout",
        r"every broker was tried; next attempt in 0\.1 s",
    )
    for number in range(4):
        wait_until(
            lambda: count_lines(daemon, offline) > number, 10, "a round"
        )
        feed(daemon, 5, first=5 * number)
    # The first round has two attempts at each, all later ones have one.
    begun = count_lines(daemon, rf":{first.port}: \w+ -> connecting")
    rounds = count_lines(daemon, offline)
    assert rounds + 1 <= begun <= rounds + 2
    second.up()
    second.wait_delivered(20)
    assert second.payloads() == payloads(20)


# --- heartbeat ------------------------------------------------------------------


def deaf(conn):
    """Takes nothing, closes nothing."""
    conn.connack()
    while True:
        conn.read(60)


def only_alive(conn):
    """Answers PINGREQ, and nothing else."""
    conn.connack()
    while True:
        packet = conn.read(60)
        if packet.kind == wire.PINGREQ:
            conn.take(packet)


@pytest.mark.parametrize("script", [deaf, only_alive])
def test_no_acknowledgement(make_daemon, make_fake, measured, script):
    """Noticed by ack_timeout, long before the keepalive."""
    broker = make_fake(OnLasting(script, accept))
    daemon = start(make_daemon, broker.port, ack_timeout=1.5, keepalive=60)
    broker.wait_connections(2)
    began = time.monotonic()
    feed(daemon, 10)
    line = failure(
        broker.port, "connected", "disconnected",
        r"no acknowledgement and no byte taken by the broker for \d+\.\d s, "
        r"with \d+ messages in flight", "heartbeat", QUICKLY,
    )
    daemon.wait_output(line, 20)
    noticed = time.monotonic() - began
    measured(f"ack_timeout 1.5 s: {script.__name__}: noticed in {noticed:.1f} s")
    assert 1.5 <= noticed < 1.5 + 5 * TIME_FACTOR
    broker.wait_delivered(10)
    assert broker.payloads() == payloads(10)


def test_idle_is_no_failure(make_daemon, make_fake):
    """Nothing in flight, nothing to wait for: ack_timeout passes by."""
    broker = make_fake()
    daemon = start(make_daemon, broker.port, ack_timeout=0.5)
    feed(daemon, 1)
    broker.wait_delivered(1)
    quiet = time.monotonic() + 1.5
    wait_until(lambda: time.monotonic() > quiet, 10, "three ack_timeouts")
    feed(daemon, 1, first=1)
    broker.wait_delivered(2)
    assert len(broker.lasting()) == 1
    assert broker.payloads() == [payload(0), payload(1)]
