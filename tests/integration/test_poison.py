# SPDX-License-Identifier: MIT
"""Messages that no broker takes: condemned, and nothing else with them."""

import re
import signal
import time

import pytest
from harness import Client, Database, Ended, wait_until
from harness import mqttwire as wire
from harness.client import all_queued
from harness.fakebroker import OnLasting, accept
from harness.steps import count_lines, feed, numbered, payload, payloads
from harness.subscriber import first_deliveries

RETRY = {
    "base": 0.02,
    "max": 0.05,
    "heartbeat_delay": 0.02,
    "set_aside": 60.0,
}

#: See TRIAL_BARREN, TRIAL_DEATHS and TRIAL_IN_A_ROW in src/trial.h.
BARREN = 5
DEATHS = 5
IN_A_ROW = 3

VERSIONS = ["3.1.1", "5"]


def start(make_daemon, broker, version="5", retry=None, **mqtt):
    return make_daemon(
        broker.port,
        mqtt={"version": version, "client_id": "gw", **mqtt},
        retry={**RETRY, **(retry or {})},
    ).start()


def poisoned(count, bad, **fields):
    """Numbered messages; those in `bad` have the topic of that name."""
    for number, message in enumerate(numbered(count, **fields)):
        if number in bad:
            message["topic"] = "bad"
        yield message


def feed_poisoned(daemon, count, bad, **fields):
    with Client(daemon.socket_path, timeout=60) as client:
        return all_queued(
            client.feed(poisoned(count, bad, **fields)), range(count)
        )


def dead(daemon):
    """(id, topic, payload, qos, retained, timestamp, reason, died_at)"""
    return Database(daemon.queue_path).query(
        "SELECT id, topic, payload, qos, retained, timestamp, reason, died_at"
        " FROM dead_letters ORDER BY id"
    )


def wait_dead(daemon, count, timeout=20.0):
    wait_until(
        lambda: len(dead(daemon)) >= count, timeout, f"{count} dead letters"
    )
    return dead(daemon)


def serving(taker):
    """A script whose connections do to each PUBLISH what `taker` does."""

    def script(conn):
        conn.connack(**getattr(taker, "properties", {}))
        while True:
            packet = conn.read(600)
            if packet.kind == wire.PUBLISH:
                taker(conn, packet)
            else:
                conn.take(packet)

    return OnLasting(script)


def refuse(conn, publish, reason):
    if publish.qos == 2:
        conn.pubrec(publish.mid, reason)
    else:
        conn.puback(publish.mid, reason)


def refusing(reason, topic="bad"):
    def taker(conn, publish):
        if topic in (publish.topic, "*"):
            refuse(conn, publish, reason)
        else:
            conn.take(publish)

    return taker


def closing(topic="bad"):
    def taker(conn, publish):
        if topic in (publish.topic, "*"):
            conn.close(rst=False)
            raise Ended("closed by the script")
        conn.take(publish)

    # So that PINGREQ, the proof of life, comes each second.
    taker.properties = {"server_keep_alive": 1}
    return taker








# --- refused by reason code -----------------------------------------------------


@pytest.mark.parametrize("qos", [1, 2])
@pytest.mark.parametrize("reason", [0x80, 0x83, 0x87, 0x90, 0x99])
def test_a_refused_message_dies_alone(make_daemon, make_fake, reason, qos):
    """It ends in dead_letters as it was; all others arrive once, in order."""
    broker = make_fake(serving(refusing(reason)))
    daemon = start(make_daemon, broker)
    before = time.time() * 1000
    ids = feed_poisoned(
        daemon, 30, {7}, qos=qos, retain=True, timestamp=1700000000123
    )
    letter, = wait_dead(daemon, 1)
    Database(daemon.queue_path).wait_empty()
    assert letter[:6] == (
        ids[7], "bad", payload(7), qos, 1, 1700000000123
    )
    assert f"0x{reason:02x}" in letter[6]
    assert before - 1000 <= letter[7] <= time.time() * 1000 + 1000
    assert broker.payloads() == [
        payload(number) for number in range(30) if number != 7
    ]
    assert len(broker.lasting()) == 1
    daemon.wait_output(
        rf"error: 127\.0\.0\.1:{broker.port}: message {ids[7]} cannot be "
        rf"delivered and goes to dead_letters: .*0x{reason:02x}"
    )
    # Gone for good: not sent again by the next process.
    daemon.restart()
    feed(daemon, 5, first=100)
    Database(daemon.queue_path).wait_empty()
    assert len(dead(daemon)) == 1


def test_bound_of_the_dead_letters(make_daemon, make_fake):
    """The oldest go; the count in meta is that of the rows."""
    broker = make_fake(serving(refusing(0x99)))
    daemon = make_daemon(
        broker.port,
        mqtt={"version": "5", "client_id": "gw"},
        retry=RETRY,
        queue={"max_dead_letters": 2},
    ).start()
    bad = {3, 10, 17, 24}
    ids = feed_poisoned(daemon, 30, bad)
    Database(daemon.queue_path).wait_empty()
    assert [letter[0] for letter in dead(daemon)] == [ids[17], ids[24]]
    assert Database(daemon.queue_path).value(
        "SELECT value FROM meta WHERE key = 'dead_letters'"
    ) == 2
    assert broker.payloads() == [
        payload(number) for number in range(30) if number not in bad
    ]


def test_some_refused_among_others(make_daemon, make_fake):
    """Not in a row: each of them is condemned, no more than these."""
    broker = make_fake(serving(refusing(0x90)))
    daemon = start(make_daemon, broker)
    bad = {0, 5, 10, 15, 20, 29}
    feed_poisoned(daemon, 30, bad)
    letters = wait_dead(daemon, len(bad))
    Database(daemon.queue_path).wait_empty()
    assert [letter[2] for letter in letters] == [
        payload(number) for number in sorted(bad)
    ]
    assert broker.payloads() == [
        payload(number) for number in range(30) if number not in bad
    ]
    assert "held" not in daemon.output()


def test_qos0_proves_nothing(make_daemon, make_fake):
    """What is written and never answered does not show that the broker
    takes messages: all others refused, the queue is held."""
    broker = make_fake(serving(refusing(0x87, "bad")))
    daemon = start(make_daemon, broker, inflight_max=1)
    with Client(daemon.socket_path) as client:
        client.feed(
            {**message, "topic": "t" if number % 2 else "bad",
             "qos": 0 if number % 2 else 1}
            for number, message in enumerate(numbered(30))
        )
    daemon.wait_output("the queue is held")
    assert len(wait_dead(daemon, IN_A_ROW)) == IN_A_ROW


def hold(make_daemon, make_fake, retry=None):
    """A broker that refuses all, and a daemon that holds its queue."""
    broker = make_fake(serving(refusing(0x87, "*")))
    daemon = start(make_daemon, broker, retry=retry)
    ids = feed(daemon, 30)
    daemon.wait_output(
        rf"error: 127\.0\.0\.1:{broker.port}: message {ids[IN_A_ROW]}, too, "
        r"was refused: .*0x87.*several in a row: the queue is held and tried "
        r"again in \d+ s; check the broker"
    )
    wait_dead(daemon, IN_A_ROW)
    assert Database(daemon.queue_path).count() == 30 - IN_A_ROW
    return broker, daemon


def behave(broker):
    """From now on it takes all, on this connection and later ones."""
    broker.scripts = [OnLasting(accept)]


def assert_rest_delivered(broker, daemon):
    Database(daemon.queue_path).wait_empty()
    assert len(dead(daemon)) == IN_A_ROW
    assert first_deliveries(broker.payloads()) == payloads(
        30 - IN_A_ROW, IN_A_ROW
    )
    daemon.wait_output("messages are taken again; the queue is no longer held")


def test_a_broker_that_refuses_all_eats_no_backlog(make_daemon, make_fake):
    """Held; SIGHUP tries one, which is refused, and holds it again."""
    broker, daemon = hold(make_daemon, make_fake)
    for number in range(3):
        sent = sum(len(conn.received) for conn in broker.connections)
        daemon.process.signal(signal.SIGHUP)
        wait_until(
            lambda: count_lines(daemon, "too, was refused") >= number + 2,
            20,
            "held again",
        )
        more = sum(len(conn.received) for conn in broker.connections) - sent
        assert more <= 2
        assert len(dead(daemon)) == IN_A_ROW
    # Clients go on all the time, and a restart does not change a thing.
    feed(daemon, 5, first=30)
    assert Database(daemon.queue_path).count() == 35 - IN_A_ROW


def switchable():
    """A taker that refuses until its `good` is set."""

    def taker(conn, publish):
        if taker.good:
            conn.take(publish)
        else:
            refuse(conn, publish, 0x87)

    taker.good = False
    return taker


@pytest.mark.parametrize("how", ["SIGHUP", "set_aside"])
def test_a_held_queue_goes_on(make_daemon, make_fake, how):
    taker = switchable()
    broker = make_fake(serving(taker))
    daemon = start(
        make_daemon, broker,
        retry={"set_aside": 1.0 if how == "set_aside" else 60.0},
    )
    feed(daemon, 30)
    daemon.wait_output("the queue is held")
    wait_dead(daemon, IN_A_ROW)
    taker.good = True
    if how == "SIGHUP":
        daemon.process.signal(signal.SIGHUP)
    assert_rest_delivered(broker, daemon)
    assert len(broker.lasting()) == 1


# --- closed on ----------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.timeout(120)
def test_closed_on_by_a_broker_of_311(make_daemon, make_fake, measured):
    """No reason codes: condemned after so many connections, while all
    that is not in its way arrives."""
    taker = closing()
    taker.properties = {}
    broker = make_fake(serving(taker))
    daemon = start(make_daemon, broker, version="3.1.1")
    ids = feed_poisoned(daemon, 30, {7})
    began = time.monotonic()
    letter, = wait_dead(daemon, 1, 100)
    measured(f"3.1.1, closed on: condemned in {time.monotonic() - began:.0f} s")
    Database(daemon.queue_path).wait_empty()
    assert letter[:3] == (ids[7], "bad", payload(7))
    assert "closes the connection" in letter[6]
    assert first_deliveries(broker.payloads()) == [
        payload(number) for number in range(30) if number != 7
    ]
    # What stood before it needs no second time.
    assert broker.payloads()[:7] == payloads(7)
    deaths = [
        conn for conn in broker.lasting()
        if any(getattr(p, "topic", "") == "bad" for p in conn.received)
    ]
    assert BARREN + DEATHS <= len(deaths) <= BARREN + DEATHS + 1


def test_closed_on_with_quick_proofs(make_daemon, make_fake):
    """The same with MQTT 5, at QoS 2 and with two of them."""
    broker = make_fake(serving(closing()))
    daemon = start(make_daemon, broker)
    feed_poisoned(daemon, 30, {3, 20}, qos=2)
    letters = wait_dead(daemon, 2, 50)
    Database(daemon.queue_path).wait_empty()
    assert [letter[2] for letter in letters] == [payload(3), payload(20)]
    assert first_deliveries(broker.payloads()) == [
        payload(number) for number in range(30) if number not in (3, 20)
    ]


@pytest.mark.long
@pytest.mark.timeout(150)
def test_a_broker_that_closes_on_everything(make_daemon, make_fake):
    """Never more than so many condemned, then held; it stays connected."""
    broker = make_fake(serving(closing("*")))
    daemon = start(make_daemon, broker)
    ids = feed(daemon, 30)
    daemon.wait_output(
        rf"message {ids[IN_A_ROW]}, too, was refused: broker closes the "
        r"connection over it; several in a row: the queue is held", 120,
    )
    wait_dead(daemon, IN_A_ROW)
    broker.scripts = [OnLasting(accept)]
    broker.connections[-1].cut()
    daemon.process.signal(signal.SIGHUP)
    Database(daemon.queue_path).wait_empty()
    assert len(dead(daemon)) == IN_A_ROW
    assert broker.payloads() == payloads(30 - IN_A_ROW, IN_A_ROW)


# --- cannot be sent at all --------------------------------------------------------


def test_too_large_for_the_broker(make_daemon, make_fake):
    """Above its Maximum Packet Size: condemned at once, never sent."""

    def small(conn):
        conn.connack(maximum_packet_size=2000)
        conn.serve()

    broker = make_fake(OnLasting(small))
    daemon = start(make_daemon, broker)
    with Client(daemon.socket_path) as client:
        sizes = [10, 1000, 3000, 10, 1000]
        client.feed(
            {"topic": "t", "payload": "x" * size, "id": number}
            for number, size in enumerate(sizes)
        )
    letter, = wait_dead(daemon, 1)
    Database(daemon.queue_path).wait_empty()
    assert len(letter[2]) == 3000
    assert "Maximum Packet Size" in letter[6]
    assert [len(text) for text in broker.payloads()] == [10, 1000, 10, 1000]
    assert len(broker.lasting()) == 1
    assert re.search(r"goes to dead_letters: .*Maximum Packet Size",
                     daemon.output())


def test_too_long_with_the_prefix(make_daemon, make_fake):
    broker = make_fake()
    daemon = start(make_daemon, broker, topic_prefix="gw/")
    with Client(daemon.socket_path) as client:
        client.feed(
            {"topic": topic, "payload": "x", "id": number}
            for number, topic in enumerate(["a", "b" * 65534, "c"])
        )
    letter, = wait_dead(daemon, 1)
    Database(daemon.queue_path).wait_empty()
    assert letter[1] == "b" * 65534
    assert "topic_prefix" in letter[6]
    assert [m.topic for m in broker.delivered] == ["gw/a", "gw/c"]


# --- what must never condemn ----------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_outages_never_condemn(make_daemon, make_fake, version):
    """Closed right after the same message again and again, then found to
    be innocent: it was on trial, and is delivered."""

    def unlucky(conn):
        conn.connack()
        conn.expect(wire.PUBLISH)

    broker = make_fake(OnLasting(*[unlucky] * (BARREN + 1), accept))
    daemon = start(make_daemon, broker, version=version)
    feed(daemon, 30)
    Database(daemon.queue_path).wait_empty(40)
    assert not dead(daemon)
    assert first_deliveries(broker.payloads()) == payloads(30)


def test_a_broker_that_dies_again_and_again(make_daemon, make_fake):
    """Refused connections and silent ones, between half-done work."""

    def one_at_a_time(conn):
        conn.connack()
        conn.take(conn.expect(wire.PUBLISH))
        conn.read()

    broker = make_fake(OnLasting(*[one_at_a_time] * 12, accept))
    daemon = start(make_daemon, broker)
    feed(daemon, 30)
    Database(daemon.queue_path).wait_empty(40)
    assert not dead(daemon)
    assert first_deliveries(broker.payloads()) == payloads(30)


@pytest.mark.parametrize("how", ["stop", "kill9"])
def test_restart_in_the_middle_of_a_trial(make_daemon, make_fake, how):
    """The trial begins anew; nothing is lost, nothing dies by halves."""
    broker = make_fake(serving(closing()))
    daemon = start(make_daemon, broker)
    feed_poisoned(daemon, 30, {7})
    seen = len(broker.lasting())
    wait_until(
        lambda: len(broker.lasting()) >= seen + BARREN + 2, 20, "a trial"
    )
    assert not dead(daemon)
    daemon.restart(how)
    assert Database(daemon.queue_path).value(
        "SELECT count(*) FROM queue WHERE topic = 'bad'"
    ) == 1
    letter, = wait_dead(daemon, 1, 40)
    assert letter[2] == payload(7)
    Database(daemon.queue_path).wait_empty()
    assert first_deliveries(broker.payloads()) == [
        payload(number) for number in range(30) if number != 7
    ]
