# SPDX-License-Identifier: MIT
"""The orderly stop, step by step: what the log tells, what the broker sees,
and what a second signal does."""

import re
import signal
import time

import pytest
from harness import mqttwire as wire
from harness.client import Client, encode
from harness.database import Database
from harness.fakebroker import OnLasting
from harness.ports import LOOPBACK, free_port
from harness.steps import feed, numbered, payloads
from harness.waiting import TIME_FACTOR, wait_until

#: What debug tells of a stop with a broker, in this order.
STEPS = [
    r"stopping$",
    r"stop: no more clients and lines, what was read is answered: ",
    r"stop: replies are written, clients' connections closed: ",
    r"stop: waiting for the uplink",
    rf"{re.escape(LOOPBACK)}:\d+: leaving: \d+ messages in flight are "
    r"finished first",
    rf"{re.escape(LOOPBACK)}:\d+: leaving: DISCONNECT, with 0 messages in "
    r"flight",
    r"stop: the uplink has ended: ",
    r"stop: control is closed, what the uplink wanted written is committed, the queue is "
    r"closed: ",
    r"stop: metrics and the local socket are closed: ",
    r"stopped$",
]


def assert_in_order(text, patterns):
    at = 0
    for pattern in patterns:
        match = re.compile(pattern, re.MULTILINE).search(text, at)
        assert match, f"{pattern!r} is missing, or too early, in\n{text}"
        at = match.end()


def silent(conn):
    """Takes the connection, and acknowledges nothing."""
    conn.connack()
    while True:
        conn.read(60)


def make_stuck(make_daemon, make_fake):
    """A daemon with messages in flight to a broker that never answers."""
    broker = make_fake(OnLasting(silent))
    daemon = make_daemon(broker.port, log={"level": "debug"}).start()
    feed(daemon, 10)
    wait_until(
        lambda: any(conn.received for conn in broker.lasting()),
        10,
        "a PUBLISH without an answer",
    )
    return broker, daemon


def test_each_step_is_told(make_daemon, make_fake):
    """In order, with times; the broker sees DISCONNECT behind the last
    acknowledgement."""

    def late(conn):
        conn.connack()
        packet = conn.read(20)
        time.sleep(0.5)
        conn.take(packet)
        conn.serve()

    broker = make_fake(OnLasting(late))
    daemon = make_daemon(broker.port, log={"level": "debug"}).start()
    with Client(daemon.socket_path) as client:
        client.send(b"".join(encode(m) for m in numbered(20)))
        assert len(client.replies(20)) == 20
        wait_until(
            lambda: any(conn.received for conn in broker.lasting()),
            10,
            "a PUBLISH",
        )
        daemon.terminate()
        assert client.until_closed()[0]["error"] == "stopping"
    assert daemon.wait() == 0
    log = daemon.output()
    assert_in_order(log, STEPS)
    times = re.findall(r"stop: .*: (\d+\.\d+) s, (\d+\.\d+) s in all", log)
    assert len(times) == 5
    totals = [float(total) for _, total in times]
    assert totals == sorted(totals)
    assert totals[-1] == pytest.approx(
        sum(float(step) for step, _ in times), abs=0.01
    )
    conn = broker.lasting()[-1]
    kinds = [packet.kind for packet in conn.received]
    assert kinds[-1] == wire.DISCONNECT
    assert kinds.count(wire.DISCONNECT) == 1
    assert kinds.count(wire.PUBLISH) == 20
    assert broker.payloads() == payloads(20)
    assert Database(daemon.queue_path).count() == 0


def test_steps_without_a_broker(make_daemon):
    daemon = make_daemon(free_port(), log={"level": "debug"}).start()
    feed(daemon, 5)
    daemon.stop()
    assert_in_order(
        daemon.output(),
        [step for step in STEPS if "leaving" not in step],
    )
    assert Database(daemon.queue_path).count() == 5


def test_nothing_of_it_at_info(make_daemon, make_fake):
    broker = make_fake()
    daemon = make_daemon(broker.port).start()
    feed(daemon, 1)
    broker.wait_delivered(1)
    daemon.stop()
    assert "stop: " not in daemon.output()
    assert_in_order(daemon.output(), [r"stopping$", r"stopped$"])


@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_will_is_not_sent_without_need(make_daemon, mosquitto,
                                       make_subscriber, version):
    """Presence says offline once, as the farewell, and not by a will that
    follows."""
    daemon = make_daemon(
        mosquitto.port,
        mqtt={
            "version": version,
            "will": {"topic": "p", "payload": "offline"},
            "birth": {"topic": "p", "payload": "online"},
        },
    )
    subscriber = make_subscriber(mosquitto.port, topic="p")
    daemon.start()
    subscriber.wait_for(1)
    daemon.stop()
    subscriber.wait_for(2)
    # Anything else would come at once.
    time.sleep(0.5)
    told = [record.payload for record in subscriber.records]
    assert told == [b"online", b"offline"]


def test_what_is_in_flight_has_its_bound(make_daemon, make_fake):
    """Five seconds for acknowledgements, then DISCONNECT all the same."""
    broker, daemon = make_stuck(make_daemon, make_fake)
    begin = time.monotonic()
    daemon.terminate()
    assert daemon.wait() == 0
    assert 4.5 < time.monotonic() - begin < 8 + 4 * TIME_FACTOR
    assert_in_order(
        daemon.output(),
        [
            r"leaving: 10 messages in flight are finished first",
            r"10 messages still in flight at the stop; they stay in the "
            r"queue",
            r"leaving: DISCONNECT, with 10 messages in flight",
            r"stop: the uplink has ended: ",
        ],
    )
    assert broker.lasting()[-1].received[-1].kind == wire.DISCONNECT
    assert Database(daemon.queue_path).count() == 10


def test_second_signal_hurries(make_daemon, make_fake):
    broker, daemon = make_stuck(make_daemon, make_fake)
    daemon.terminate()
    daemon.wait_output("stop: waiting for the uplink")
    begin = time.monotonic()
    daemon.terminate(signal.SIGINT)
    assert daemon.wait() == 0
    assert time.monotonic() - begin < 4 * TIME_FACTOR
    assert_in_order(
        daemon.output(),
        [
            r"second signal: hurrying",
            r"leaving: DISCONNECT, with 10 messages in flight",
            r"stop: the uplink has ended: ",
            r"stopped$",
        ],
    )
    assert Database(daemon.queue_path).count() == 10


def test_client_that_does_not_read_has_its_bound(make_daemon):
    """Its replies are not waited for longer than a second."""
    daemon = make_daemon(free_port(), log={"level": "debug"}).start()
    burst = b"".join(encode(message) for message in numbered(3000))
    with Client(daemon.socket_path) as client:
        while client.send_some(burst, patience=0.5) == len(burst):
            pass
        begin = time.monotonic()
        daemon.terminate()
        assert daemon.wait() == 0
        assert time.monotonic() - begin < 5 * TIME_FACTOR
    assert re.search(
        r"stop: 1 clients did not read their replies in time",
        daemon.output(),
    )
