# SPDX-License-Identifier: MIT
"""From acceptance to the broker: nothing lost, order kept, clean ends."""

import random
import re
import signal
import sqlite3

import pytest
from harness import (
    Client,
    Database,
    Deadline,
    Feeder,
    Flood,
    Producer,
    env_int,
    wait_until,
)
from harness import mqttwire as wire
from harness.client import all_queued, encode
from harness.fakebroker import OnLasting, accept, serve
from harness.ports import free_port
from harness.subscriber import duplicates, first_deliveries

MESSAGES = env_int("MQTTGW_MESSAGES", 20000)
CUTS = env_int("MQTTGW_CUTS", 50)
SEED = env_int("MQTTGW_SEED", 1)

VERSIONS = ["3.1.1", "5"]


def payload(number):
    return b"m-%06d" % number


def numbered(count, qos=1, first=0, topic="t"):
    """Messages that carry their number as id and in the payload."""
    for number in range(first, first + count):
        yield {
            "topic": topic,
            "payload": payload(number).decode(),
            "qos": qos,
            "id": number,
        }


def feed(daemon, count, qos=1, first=0):
    """Have so many messages accepted."""
    with Client(daemon.socket_path, timeout=60) as client:
        all_queued(
            client.feed(numbered(count, qos, first)),
            range(first, first + count),
        )


def expect_all(daemon, subscriber, count, timeout=60.0):
    """All have arrived, first deliveries in order, the queue is empty."""
    expected = [payload(number) for number in range(count)]
    subscriber.wait_payloads(expected, timeout)
    Database(daemon.queue_path).wait_empty()
    arrived = subscriber.payloads()
    assert first_deliveries(arrived) == expected
    return duplicates(arrived)


# --- what a broker has room for ---------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_a_broker_with_room_for_twenty(
    make_daemon, make_mosquitto, make_subscriber, version
):
    """As mosquitto is configured by default: more of QoS 2 at a time it
    drops, and MQTT 3.1.1 lets nobody know."""
    broker = make_mosquitto(options=["max_inflight_messages 20"]).start()
    subscriber = make_subscriber(broker.port)
    broker.stop()
    daemon = make_daemon(
        broker.port,
        mqtt={
            "version": version,
            "birth": {
                "topic": "up", "payload": "birth", "qos": 2, "retain": False,
            },
        },
    ).start()
    feed(daemon, 2000, qos=2)
    broker.start()
    expected = {payload(number) for number in range(2000)} | {b"birth"}
    wait_until(
        lambda: set(subscriber.payloads()) == expected,
        30, "all of them at the subscriber",
    )
    Database(daemon.queue_path).wait_empty()
    assert len(subscriber.payloads()) == len(expected)


# --- outages ----------------------------------------------------------------


@pytest.mark.long
@pytest.mark.timeout(180)
def test_backlog_survives_kill_and_arrives_in_order(
    make_daemon, make_mosquitto, make_subscriber, measured
):
    """Accepted without a broker, killed, started again, delivered."""
    broker = make_mosquitto().start()
    subscriber = make_subscriber(broker.port)
    broker.stop()
    daemon = make_daemon(broker.port).start()
    feed(daemon, MESSAGES)
    daemon.kill9()
    assert Database(daemon.queue_path).count() == MESSAGES
    daemon.start()
    assert Database(daemon.queue_path).count() == MESSAGES
    broker.start()
    deadline = Deadline(120)
    repeated = expect_all(
        daemon, subscriber, MESSAGES, timeout=deadline.remaining()
    )
    assert repeated == 0
    measured(f"backlog: {MESSAGES} accepted, kill -9, all arrived in order")


@pytest.mark.parametrize("qos", [1, 2])
def test_order_over_a_broker_restart(
    make_daemon, mosquitto, make_subscriber, qos
):
    subscriber = make_subscriber(mosquitto.port)
    daemon = make_daemon(mosquitto.port).start()
    feeder = Feeder(daemon.socket_path, numbered(6000, qos))
    subscriber.wait_for(1000)
    mosquitto.restart()
    all_queued(feeder.join(), range(6000))
    # A restarted mosquitto repeats to a subscriber what it has not noted
    # as done, also at QoS 2: repetitions say nothing about the gateway.
    expect_all(daemon, subscriber, 6000)


@pytest.mark.parametrize("version", VERSIONS)
def test_mix_of_qos(make_daemon, mosquitto, make_subscriber, version):
    """Each message arrives once, with its QoS, in order for each QoS."""
    subscriber = make_subscriber(mosquitto.port)
    daemon = make_daemon(
        mosquitto.port, mqtt={"version": version, "client_id": "gw"}
    ).start()
    rng = random.Random(SEED)
    levels = [rng.randrange(3) for _ in range(3000)]
    with Client(daemon.socket_path) as client:
        all_queued(
            client.feed(
                {**message, "qos": qos}
                for message, qos in zip(numbered(3000), levels)
            ),
            range(3000),
        )
    records = subscriber.wait_for(3000)
    for qos in (0, 1, 2):
        expected = [payload(n) for n in range(3000) if levels[n] == qos]
        assert [r.payload for r in records if r.qos == qos] == expected
    Database(daemon.queue_path).wait_empty()


@pytest.mark.parametrize("version", VERSIONS)
def test_rows_leave_in_the_order_of_their_ids(
    make_daemon, make_fake, version
):
    """On the wire the order holds over all QoS levels together."""
    broker = make_fake()
    daemon = make_daemon(broker.port, mqtt={"version": version}).start()
    with Client(daemon.socket_path) as client:
        client.feed(
            {**message, "qos": number % 3}
            for number, message in enumerate(numbered(600))
        )
    broker.wait_delivered(600)
    sent = [
        packet.payload
        for packet in broker.connections[-1].received
        if packet.kind == wire.PUBLISH
    ]
    assert sent == [payload(number) for number in range(600)]


@pytest.mark.long
@pytest.mark.timeout(240)
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("qos", [1, 2])
def test_connection_cut_again_and_again(
    make_daemon, mosquitto, make_proxy, make_subscriber, measured, qos,
    version,
):
    """Cuts under load, inside packets, by RST and FIN: nothing is lost.

    At QoS 2 nothing comes twice either, as long as only connections die, and
    not so often in a row that a message is suspected of it. Each cut happens when so many bytes have passed since the last one.
    """
    count = CUTS * 200
    subscriber = make_subscriber(mosquitto.port)
    proxy = make_proxy(mosquitto.port)
    daemon = make_daemon(
        proxy.port,
        mqtt={"version": version, "client_id": "gw"},
        retry={"base": 0.02, "max": 0.1, "stable": 0.5},
    ).start()
    feeder = Feeder(daemon.socket_path, numbered(count, qos))
    rng = random.Random(SEED)
    for cut in range(CUTS):
        # Bytes a message takes, at least: PUBLISH up, PUBACK down.
        way, size = rng.choice([("up", 15), ("down", 4)])
        proxy.cut_after(way, rng.randint(10, 150 * size), cut % 2 == 0)
        wait_until(
            lambda: daemon.check_alive() or proxy.cuts > cut,
            20,
            f"cut {cut + 1} of {CUTS} happens",
        )
    proxy.resume()
    all_queued(feeder.join(), range(count))
    repeated = expect_all(daemon, subscriber, count)
    measured(
        f"cuts: MQTT {version}, QoS {qos}: {count} messages, "
        f"{proxy.cuts} cuts, {repeated} duplicates, 0 lost"
    )
    if qos == 2 and "in a new session" not in daemon.output():
        assert repeated == 0


@pytest.mark.timeout(120)
def test_mix_of_qos_over_cuts(
    make_daemon, mosquitto, make_proxy, make_subscriber, measured
):
    """QoS 0 may die with a connection, but never holds up the rest."""
    count = CUTS * 60
    subscriber = make_subscriber(mosquitto.port)
    proxy = make_proxy(mosquitto.port)
    daemon = make_daemon(
        proxy.port, retry={"base": 0.02, "max": 0.1, "stable": 0.5}
    ).start()
    feeder = Feeder(
        daemon.socket_path,
        ({**message, "qos": number % 3}
         for number, message in enumerate(numbered(count))),
    )
    rng = random.Random(SEED)
    cuts = max(1, CUTS // 5)
    for cut in range(cuts):
        proxy.cut_after("up", rng.randint(10, 5000), cut % 2 == 0)
        wait_until(
            lambda: daemon.check_alive() or proxy.cuts > cut,
            20,
            f"cut {cut + 1} of {cuts} happens",
        )
    proxy.resume()
    all_queued(feeder.join(), range(count))
    Database(daemon.queue_path).wait_empty(30)
    subscriber.wait_payloads(
        payload(number) for number in range(count) if number % 3
    )
    arrived = {qos: [] for qos in (0, 1, 2)}
    for record in subscriber.records:
        arrived[record.qos].append(int(record.payload[2:]))
    for qos in (1, 2):
        expected = list(range(qos, count, 3))
        assert first_deliveries(arrived[qos]) == expected
    if "in a new session" not in daemon.output():
        assert duplicates(arrived[2]) == 0
    distinct = first_deliveries(arrived[0])
    assert distinct == sorted(distinct)
    measured(
        f"cuts: mix: {cuts} cuts, {count // 3 - len(distinct)} of "
        f"{count // 3} at QoS 0 lost, none at QoS 1 and 2"
    )


def test_accepting_goes_on_while_the_broker_stalls(
    make_daemon, mosquitto, make_proxy, make_subscriber
):
    """What the network does is not the local clients' business."""
    subscriber = make_subscriber(mosquitto.port)
    proxy = make_proxy(mosquitto.port)
    daemon = make_daemon(proxy.port).start()
    feed(daemon, 10)
    subscriber.wait_for(10)
    proxy.stall()
    feed(daemon, 5000, first=10)
    assert len(subscriber.records) == 10
    proxy.resume()
    assert expect_all(daemon, subscriber, 5010) == 0


@pytest.mark.long
@pytest.mark.timeout(90)
def test_a_broker_that_never_answers_connect(make_daemon, make_fake):
    """connect_timeout ends the attempt; the next one succeeds."""

    def silent(conn):
        conn.expect_connect()
        conn.read(30)

    broker = make_fake(silent, serve)
    daemon = make_daemon(
        broker.port, mqtt={"version": "5", "connect_timeout": 0.5}
    ).start()
    feed(daemon, 5)
    broker.wait_delivered(5)
    assert len(broker.connects) >= 2


def test_idle_without_a_broker_costs_nothing(make_daemon):
    """No busy loop while there is no connection and a backlog waits."""
    daemon = make_daemon(
        free_port(), retry={"base": 0.2, "max": 0.5, "jitter": "none"}
    ).start()
    feed(daemon, 1000)
    before = daemon.cpu_seconds()
    attempts = daemon.output().count("-> connecting")
    wait_until(
        lambda: daemon.output().count("-> connecting") >= attempts + 4,
        20,
        "four more attempts to connect",
    )
    used = daemon.cpu_seconds() - before
    assert used < 0.5, f"{used} s of processor time while idle"


# --- credentials and versions -----------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_wrong_password_then_right_at_the_broker(
    make_daemon, make_mosquitto, make_subscriber, version
):
    """The broker's administrator sets it right; the daemon goes on."""
    broker = make_mosquitto(users={"sub": "s", "gw": "other"}).start()
    subscriber = make_subscriber(broker.port, username="sub", password="s")
    daemon = make_daemon(
        broker.port,
        broker={"username": "gw", "password": "right"},
        mqtt={"version": version, "client_id": "gw"},
    ).start()
    feed(daemon, 100)
    daemon.wait_output("(?i)auth")
    assert "right" not in daemon.output()
    feed(daemon, 100, first=100)
    assert subscriber.records == []
    broker.set_users({"sub": "s", "gw": "right"})
    assert expect_all(daemon, subscriber, 200) == 0


def test_wrong_password_then_right_in_the_configuration(
    make_daemon, make_mosquitto, make_subscriber
):
    """Also from a file, whose last line end does not count."""
    broker = make_mosquitto(users={"sub": "s", "gw": "right"}).start()
    subscriber = make_subscriber(broker.port, username="sub", password="s")
    daemon = make_daemon(
        broker.port, broker={"username": "gw", "password": "wrong"}
    ).start()
    feed(daemon, 100)
    daemon.wait_output("(?i)auth")
    daemon.stop()
    secret = daemon.directory / "secret"
    secret.write_text("right\n")
    secret.chmod(0o600)
    entry = daemon.settings["brokers"][0]
    del entry["password"]
    entry["password_file"] = str(secret)
    daemon.write_config()
    daemon.start()
    assert expect_all(daemon, subscriber, 100) == 0


def refuse_as_v311(conn):
    """What a broker that knows only 3.1.1 says: return code 1."""
    conn.send(b"\x20\x02\x00\x01")
    conn.close()


def refuse_as_v5(conn):
    """Unsupported protocol version, in the form of MQTT 5."""
    conn.connack(code=0x84)
    conn.close()


def hang_up(conn):
    conn.close()


def reset(conn):
    conn.close(rst=True)


@pytest.mark.parametrize(
    "refusal", [refuse_as_v311, refuse_as_v5, hang_up, reset]
)
def test_auto_falls_back_to_311(make_daemon, make_fake, refusal):
    """5 is tried first; 3.1.1 then stays chosen for later connections."""

    def only_311(conn):
        if conn.expect_connect().version == wire.V5:
            refusal(conn)
            return
        conn.connack()
        if conn.connect.lasting and not broker.delivered:
            conn.serve(until=lambda: len(broker.delivered) == 5)
            conn.close(rst=True)
        else:
            conn.serve()

    broker = make_fake(only_311)
    daemon = make_daemon(broker.port, mqtt={"version": "auto"}).start()
    feed(daemon, 5)
    broker.wait_delivered(5)
    feed(daemon, 5, first=5)
    wait_until(lambda: len(set(broker.payloads())) == 10, 20, "all are there")
    versions = [connect.version for connect in broker.connects]
    assert versions == [5] + [4] * (len(versions) - 1)
    assert first_deliveries(broker.payloads()) == [
        payload(number) for number in range(10)
    ]


def test_auto_stays_with_5_where_it_is_taken(make_daemon, make_fake):
    """A connection that stood and was lost says nothing about versions."""

    def accept_and_reset(conn):
        conn.expect_connect()
        conn.connack()
        # What it sends shows that it has seen the CONNACK.
        conn.read()
        conn.close(rst=True)

    broker = make_fake(accept_and_reset, accept_and_reset, serve)
    daemon = make_daemon(broker.port, mqtt={"version": "auto"}).start()
    feed(daemon, 5)
    broker.wait_delivered(5)
    assert {connect.version for connect in broker.connects} == {5}


@pytest.mark.parametrize(
    "version,level", [("3.1.1", wire.V311), ("5", wire.V5)]
)
def test_connect_packet(make_daemon, make_fake, version, level):
    """CONNECT carries what the configuration says, and nothing more."""
    broker = make_fake()
    daemon = make_daemon(
        broker.port,
        gateway={"id": "site-7"},
        broker={"username": "ann", "password": "pä\u00dfword"},
        mqtt={"version": version, "client_id": "x-%i-y", "keepalive": 17},
    ).start()
    feed(daemon, 1)
    broker.wait_delivered(1)
    for connect in broker.connects:
        assert connect.version == level
        assert connect.client_id == "x-site-7-y"
        assert connect.keepalive == 17
        assert connect.username == "ann"
        assert connect.password == "pä\u00dfword".encode()
        assert connect.will_topic is None


# --- sessions ---------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_unclean_start_begins_with_a_clean_session(
    make_daemon, make_fake, version
):
    """After kill -9 the broker's old session is dropped, then a new one
    that lasts is used: identifiers start over in a new process."""
    broker = make_fake()
    daemon = make_daemon(broker.port, mqtt={"version": version}).start()
    feed(daemon, 3, qos=2)
    broker.wait_delivered(3)
    before = len(broker.connects)
    daemon.restart("kill9")
    feed(daemon, 3, qos=2, first=3)
    Database(daemon.queue_path).wait_empty()
    assert broker.connects[before].clean
    last = broker.connections[-1]
    assert last.connect.lasting
    published_on = {m.connection for m in broker.delivered[-3:]}
    assert published_on == {last.number}


@pytest.mark.parametrize("version", VERSIONS)
def test_clean_stop_keeps_the_session(make_daemon, make_fake, version):
    """Stopped with nothing in flight: the next CONNECT resumes."""
    broker = make_fake()
    daemon = make_daemon(broker.port, mqtt={"version": version}).start()
    feed(daemon, 3, qos=2)
    Database(daemon.queue_path).wait_empty()
    daemon.stop()
    assert len(broker.disconnects) >= 1
    assert broker.disconnects[-1].reason == 0
    assert broker.connects[-1].lasting
    before = len(broker.connects)
    daemon.start()
    feed(daemon, 3, qos=2, first=3)
    broker.wait_delivered(6)
    Database(daemon.queue_path).wait_empty()
    resumed, = broker.connects[before:]
    assert not resumed.clean
    assert broker.payloads() == [payload(number) for number in range(6)]


@pytest.mark.parametrize("version", VERSIONS)
def test_stop_with_qos2_in_flight_counts_as_unclean(
    make_daemon, make_fake, version
):
    """An identifier that the old session still holds is not used again.

    The broker would take the new message for the old one, acknowledge it
    and never deliver it.
    """

    def withhold(conn):
        conn.connack()
        while True:
            packet = conn.read()
            if packet.kind == wire.PUBLISH:
                conn.take(packet)
            elif packet.kind == wire.DISCONNECT:
                broker.disconnects.append(packet)
                return

    broker = make_fake(OnLasting(withhold))
    daemon = make_daemon(broker.port, mqtt={"version": version}).start()
    feed(daemon, 3, qos=2)
    wait_until(
        lambda: any(
            packet.kind == wire.PUBREL
            for conn in broker.connections
            for packet in conn.received
        ),
        20,
        "a PUBREL that stays without PUBCOMP",
    )
    daemon.stop()
    assert Database(daemon.queue_path).count() == 3
    before = len(broker.connects)
    broker.scripts = [serve]
    daemon.start()
    feed(daemon, 3, qos=2, first=3)
    Database(daemon.queue_path).wait_empty()
    assert broker.connects[before].clean
    assert first_deliveries(broker.payloads()) == [
        payload(number) for number in range(6)
    ]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("answered", ["none", "some", "all"])
def test_broker_forgets_the_session_with_qos2_in_flight(
    make_daemon, make_fake, version, answered
):
    """session_present = 0 on the reconnect: what was in flight is sent as
    a whole again. A PUBREL alone would lose the message."""

    def forgetful(conn):
        conn.connack()
        for number in range(10):
            publish = conn.expect(wire.PUBLISH)
            if answered == "all" or answered == "some" and number % 2:
                conn.pubrec(publish.mid)
        while answered != "none" and conn.read().kind != wire.PUBREL:
            pass
        conn.close(rst=True)

    def back(conn):
        conn.connack(session_present=False)
        conn.serve()

    broker = make_fake(OnLasting(forgetful, back))
    daemon = make_daemon(
        broker.port,
        mqtt={"version": version, "client_id": "gw", "inflight_max": 20},
    ).start()
    feed(daemon, 50, qos=2)
    broker.wait_delivered(50)
    Database(daemon.queue_path).wait_empty()
    assert broker.payloads() == [payload(number) for number in range(50)]


@pytest.mark.parametrize("version", VERSIONS)
def test_broker_forgets_the_session_with_qos1_in_flight(
    make_daemon, make_fake, version
):
    """The same for QoS 1, with some of them acknowledged out of turn."""

    def forgetful(conn):
        conn.connack()
        for number in range(10):
            publish = conn.expect(wire.PUBLISH)
            if number % 2:
                broker.deliver(conn, publish)
                conn.puback(publish.mid)
        conn.close(rst=True)

    def back(conn):
        conn.connack(session_present=False)
        conn.serve()

    broker = make_fake(OnLasting(forgetful, back))
    daemon = make_daemon(
        broker.port,
        mqtt={"version": version, "client_id": "gw", "inflight_max": 10},
    ).start()
    feed(daemon, 50)
    wait_until(lambda: len(set(broker.payloads())) == 50, 20, "50 delivered")
    Database(daemon.queue_path).wait_empty()
    later = [m.payload for m in broker.delivered if m.connection > 0]
    kept = [number for number in broker.payloads()[:5]]
    assert later[-40:] == [payload(number) for number in range(10, 50)]
    assert kept == [payload(number) for number in (1, 3, 5, 7, 9)]


@pytest.mark.parametrize("version", VERSIONS)
def test_pubcomp_lost_on_the_way_gives_no_duplicate(
    make_daemon, make_fake, version
):
    """The broker released the message, its PUBCOMP never arrived.

    On the reconnect PUBREL comes again for an identifier the broker no
    longer knows; MQTT 5 answers 0x92, which is no error then.
    """

    def released_and_gone(conn):
        conn.connack()
        conn.take(conn.expect(wire.PUBLISH))
        release = conn.expect(wire.PUBREL)
        broker.deliver(conn, conn.session.unreleased.pop(release.mid))
        conn.close(rst=True)

    broker = make_fake(OnLasting(released_and_gone, accept))
    daemon = make_daemon(
        broker.port,
        mqtt={"version": version, "client_id": "gw", "inflight_max": 1},
    ).start()
    feed(daemon, 20, qos=2)
    broker.wait_delivered(20)
    Database(daemon.queue_path).wait_empty()
    assert broker.payloads() == [payload(number) for number in range(20)]


@pytest.mark.parametrize("version", VERSIONS)
def test_puback_lost_on_the_way_gives_one_duplicate(
    make_daemon, make_fake, version
):
    """At least once: the repetition carries DUP and the same identifier."""

    def taken_and_gone(conn):
        conn.connack()
        broker.deliver(conn, conn.expect(wire.PUBLISH))
        conn.close(rst=True)

    broker = make_fake(OnLasting(taken_and_gone, accept))
    daemon = make_daemon(
        broker.port,
        mqtt={"version": version, "client_id": "gw", "inflight_max": 1},
    ).start()
    feed(daemon, 5, qos=1)
    broker.wait_delivered(6)
    Database(daemon.queue_path).wait_empty()
    assert broker.payloads() == [
        payload(number) for number in (0, 0, 1, 2, 3, 4)
    ]
    assert [message.dup for message in broker.delivered[:2]] == [False, True]


@pytest.mark.parametrize("whose", ["broker", "configuration"])
def test_bound_of_what_is_in_flight(make_daemon, make_fake, whose):
    """Never more unacknowledged messages than the broker allows in its
    CONNACK, nor than inflight_max."""

    def narrow(conn):
        if whose == "broker":
            conn.connack(receive_maximum=3)
        else:
            conn.connack()
        while len(broker.delivered) < 60:
            waiting = [conn.expect(wire.PUBLISH) for _ in range(3)]
            # Nothing more may come before something is acknowledged.
            with pytest.raises(TimeoutError):
                conn.read(0.05)
            for publish in waiting:
                broker.deliver(conn, publish)
                conn.puback(publish.mid)
        conn.serve()

    broker = make_fake(OnLasting(narrow))
    bound = 0 if whose == "broker" else 3
    daemon = make_daemon(
        broker.port, mqtt={"version": "5", "inflight_max": bound}
    ).start()
    feed(daemon, 60)
    broker.wait_delivered(60)
    assert broker.payloads() == [payload(number) for number in range(60)]


@pytest.mark.parametrize("reason", [0x80, 0x83, 0x97])
def test_a_refused_message_is_not_taken_for_delivered(
    make_daemon, make_fake, reason
):
    """PUBACK with an error code: the row stays until it is really taken."""

    def refuse_once(conn):
        conn.connack()
        publish = conn.expect(wire.PUBLISH)
        refused.append(publish.payload)
        conn.puback(publish.mid, reason)
        conn.serve()

    refused = []
    broker = make_fake(OnLasting(refuse_once, accept))
    daemon = make_daemon(broker.port, mqtt={"version": "5"}).start()
    feed(daemon, 20)
    wait_until(lambda: len(set(broker.payloads())) == 20, 20, "20 delivered")
    assert refused == [payload(0)]
    Database(daemon.queue_path).wait_empty()


def test_a_message_above_inflight_bytes_goes_alone(make_daemon, make_fake):
    """The bound slows large messages down, it never holds one back."""
    broker = make_fake()
    daemon = make_daemon(
        broker.port, mqtt={"version": "5", "inflight_bytes": "1K"}
    ).start()
    sizes = [10, 200_000, 10, 500, 600, 300_000, 10]
    with Client(daemon.socket_path) as client:
        client.feed(
            {"topic": "t", "payload": "x" * size, "id": size}
            for size in sizes
        )
    broker.wait_delivered(len(sizes))
    assert [len(text) for text in broker.payloads()] == sizes


# --- brokers that misbehave -------------------------------------------------


def send_garbage(conn):
    conn.connack()
    conn.send(b"\xff\xff\xff\xff\xff" * 20)
    conn.serve()


def send_unknown_acknowledgements(conn):
    conn.connack()
    for kind in (wire.PUBACK, wire.PUBREC, wire.PUBCOMP):
        conn.acknowledge(kind, 31000)
    conn.serve()


def send_half_a_packet(conn):
    conn.connack()
    publish = conn.expect(wire.PUBLISH)
    conn.send(wire.acknowledgement(conn.version, wire.PUBACK, publish.mid)[:3])
    conn.close()


def send_a_publish(conn):
    """To a client that has subscribed to nothing."""
    conn.connack()
    properties = b"\0" if conn.version == wire.V5 else b""
    conn.send(
        wire.frame(wire.PUBLISH, 0, wire.text("x") + properties + b"hello")
    )
    conn.serve()


def garbage_for_connack(conn):
    conn.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    conn.close()


def say_goodbye(conn):
    """A broker of MQTT 5 that shuts down; one of 3.1.1 just closes."""
    conn.connack()
    if conn.version == wire.V5:
        conn.disconnect(0x8B)
    conn.close()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    "mischief",
    [send_garbage, send_unknown_acknowledgements, send_half_a_packet,
     send_a_publish, garbage_for_connack, say_goodbye],
)
def test_a_broker_that_misbehaves_costs_nothing(
    make_daemon, make_fake, version, mischief
):
    """The daemon lives on and delivers all, in order, to a good broker."""
    broker = make_fake(OnLasting(mischief, accept))
    daemon = make_daemon(
        broker.port, mqtt={"version": version, "client_id": "gw"}
    ).start()
    feed(daemon, 50)
    wait_until(lambda: len(set(broker.payloads())) == 50, 20, "50 delivered")
    Database(daemon.queue_path).wait_empty()
    daemon.check_alive()
    assert first_deliveries(broker.payloads()) == [
        payload(number) for number in range(50)
    ]


def test_memory_is_flat(make_daemon, make_fake):
    """A backlog costs disk, not memory, on the way in and out."""
    broker = make_fake()
    daemon = make_daemon(free_port()).start()
    before = daemon.memory()
    with Client(daemon.socket_path, timeout=60) as client:
        client.feed(
            {"topic": "t", "payload": "x" * 5000, "id": number}
            for number in range(8000)
        )
    if not daemon.sanitized:
        assert daemon.memory("VmHWM") - before < 20 << 20
    daemon.stop()
    daemon.settings["brokers"][0]["port"] = broker.port
    daemon.write_config()
    daemon.start()
    broker.wait_delivered(8000, 60)
    if not daemon.sanitized:
        assert daemon.memory("VmHWM") - before < 20 << 20


# --- ends -------------------------------------------------------------------


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_orderly_stop(make_daemon, make_fake, name):
    """Exit 0, DISCONNECT, and `stopping` for each client."""
    broker = make_fake()
    daemon = make_daemon(broker.port).start()
    clients = [Client(daemon.socket_path) for _ in range(3)]
    for number, client in enumerate(clients):
        client.feed(numbered(10, first=10 * number))
    broker.wait_delivered(30)
    before = len(broker.disconnects)
    daemon.terminate(getattr(signal, name))
    for client in clients:
        assert [r["error"] for r in client.until_closed()] == ["stopping"]
        client.close()
    assert daemon.wait() == 0
    assert len(broker.disconnects) == before + 1
    assert not daemon.socket_path.exists()
    assert "STOPPING=1" in daemon.notify.lines


def test_stop_answers_what_was_read(make_daemon):
    """A pipelined burst and a stop at once: the answered lines are the
    first ones and are exactly those in the database."""
    daemon = make_daemon(free_port()).start()
    with Client(daemon.socket_path) as client:
        burst = b"".join(encode(message) for message in numbered(2000))
        taken = client.send_some(burst, patience=0.0)
        assert taken > 0
        daemon.terminate()
        *replies, last = client.until_closed()
    assert last["error"] == "stopping"
    all_queued(replies, range(len(replies)))
    assert daemon.wait() == 0
    rows = Database(daemon.queue_path).rows()
    assert [row[2] for row in rows] == [
        payload(number) for number in range(len(replies))
    ]


@pytest.mark.timeout(120)
def test_stop_at_full_speed_loses_nothing(
    make_daemon, mosquitto, make_subscriber
):
    """Four producers, stops in the middle, a broker that takes it all."""
    subscriber = make_subscriber(mosquitto.port)
    daemon = make_daemon(mosquitto.port).start()

    def producer(index):
        return Producer(
            daemon.socket_path,
            lambda number: {"topic": f"p/{index}", "payload": number},
        )

    producers = [producer(index) for index in range(4)]
    for round_number in range(1, 4):
        wait_until(
            lambda: min(len(p.answered) for p in producers)
            >= 500 * round_number,
            30,
            "messages from all producers",
        )
        daemon.restart()
    for each in producers:
        each.stop()
    Database(daemon.queue_path).wait_empty(60)
    wait_until(
        lambda: len(subscriber.records)
        >= sum(len(p.answered) for p in producers),
        30,
        "everything answered has arrived",
    )
    for index, each in enumerate(producers):
        refusals = {reply["error"] for reply in each.refused}
        assert refusals == {"stopping"}
        # No line without an answer was stored: what was not answered was
        # sent again, and nothing came twice.
        arrived = [
            int(record.payload) for record in subscriber.records
            if record.topic == f"p/{index}"
        ]
        assert arrived == list(range(len(each.answered)))


@pytest.mark.timeout(120)
def test_nothing_starves_under_a_flood(make_daemon, make_fake):
    """Clients that never pause: others get in and are answered, messages
    go out, their rows are removed, and a signal is heard."""
    broker = make_fake()
    daemon = make_daemon(broker.port).start()
    database = Database(daemon.queue_path)
    feed(daemon, 10)
    broker.wait_delivered(10)
    line = encode({"topic": "flood"})
    flood = Flood(daemon.socket_path, line, connections=8)
    try:
        for number in range(10):
            with Client(daemon.socket_path, timeout=20) as client:
                reply = client.ask({"topic": "t", "id": number})
                assert reply["status"] == "queued"
        broker.wait_delivered(500)
        first = database.value("SELECT min(id) FROM queue")
        wait_until(
            lambda: database.value("SELECT min(id) FROM queue") > first,
            20,
            "delivered rows are removed",
        )
        daemon.stop(timeout=20)
    finally:
        flood.stop()


def test_stop_while_the_broker_is_silent(make_daemon, make_fake):
    """Unacknowledged messages do not keep the daemon from stopping."""

    def deaf(conn):
        conn.connack()
        while True:
            conn.read(30)

    broker = make_fake(OnLasting(deaf))
    daemon = make_daemon(broker.port).start()
    feed(daemon, 100)
    wait_until(
        lambda: any(conn.received for conn in broker.connections),
        10,
        "a PUBLISH without an answer",
    )
    daemon.stop(timeout=15)
    assert Database(daemon.queue_path).count() == 100


def test_stop_while_connecting(make_daemon, make_fake):
    """An attempt under way does not hold up the stop."""

    def silent(conn):
        conn.expect_connect()
        conn.read(60)

    broker = make_fake(silent)
    daemon = make_daemon(broker.port).start()
    broker.wait_connections(1)
    daemon.stop(timeout=8)


def test_second_instance_is_refused(make_daemon):
    """One database, one daemon; the first is not disturbed."""
    daemon = make_daemon(free_port()).start()
    feed(daemon, 5)
    other = make_daemon(
        free_port(), queue={"path": str(daemon.queue_path)}
    )
    other.spawn()
    assert other.wait() == 1
    assert str(daemon.queue_path) in other.output()
    feed(daemon, 5, first=5)
    daemon.restart("kill9")
    assert Database(daemon.queue_path).count() == 10


def test_second_instance_on_the_same_socket_is_refused(make_daemon):
    """A socket that is served is not taken away from its owner."""
    daemon = make_daemon(free_port()).start()
    other = make_daemon(
        free_port(), socket={"path": str(daemon.socket_path)}
    )
    other.spawn()
    assert other.wait() == 1
    assert str(daemon.socket_path) in other.output()
    feed(daemon, 5)


def test_a_file_in_the_place_of_the_socket_is_left_alone(make_daemon):
    daemon = make_daemon(free_port())
    daemon.socket_path.write_text("mine")
    daemon.spawn()
    assert daemon.wait() == 1
    assert str(daemon.socket_path) in daemon.output()
    assert daemon.socket_path.read_text() == "mine"


def expect_set_aside(daemon, content):
    aside = list(daemon.queue_path.parent.glob("*.corrupt-*"))
    assert [path.read_bytes() for path in aside] == [content]
    assert str(aside[0]) in daemon.output()


@pytest.mark.parametrize(
    "content",
    [
        random.Random(1).randbytes(8192),
        b"SQLite format 3\0" + bytes(4080),
        b"these are somebody's notes\n" * 300,
    ],
    ids=["random", "header-only", "text"],
)
def test_a_file_that_is_no_queue_is_set_aside(make_daemon, content):
    """It starts with a new queue and says where the file is; not a byte of it is changed."""
    daemon = make_daemon(free_port())
    daemon.queue_path.write_bytes(content)
    daemon.start()
    feed(daemon, 5)
    daemon.stop()
    expect_set_aside(daemon, content)


def test_a_database_of_another_program_is_set_aside(make_daemon):
    daemon = make_daemon(free_port())
    db = sqlite3.connect(daemon.queue_path)
    db.execute("CREATE TABLE songs (title TEXT)")
    db.commit()
    db.close()
    content = daemon.queue_path.read_bytes()
    daemon.start()
    feed(daemon, 5)
    daemon.stop()
    expect_set_aside(daemon, content)
    assert "another program" in daemon.output()


def test_a_damaged_queue_is_delivered_all_the_same(make_daemon, make_fake):
    """Its header is gone; all rows are carried over, and delivered."""
    broker = make_fake()
    daemon = make_daemon(free_port()).start()
    feed(daemon, 500)
    daemon.stop()
    content = b"\0" * 100 + daemon.queue_path.read_bytes()[100:]
    daemon.queue_path.write_bytes(content)
    again = make_daemon(
        broker.port, queue={"path": str(daemon.queue_path)}
    ).start()
    broker.wait_delivered(500)
    again.check_alive()
    again.stop()
    aside = list(daemon.queue_path.parent.glob("*.corrupt-*"))
    assert [path.read_bytes() for path in aside] == [content]
    assert "carried over: 500 messages" in again.output()


def test_damage_met_while_running_costs_the_damaged_rows(
    make_daemon, make_fake
):
    """The uplink ends, comes back behind the new database, and goes on."""
    broker = make_fake()
    broker.down()
    daemon = make_daemon(broker.port).start()
    feed(daemon, 20000)
    daemon.restart()  # which moves the log into the database
    size = daemon.queue_path.stat().st_size
    with open(daemon.queue_path, "r+b") as file:
        file.seek(size // 4096 // 2 * 4096)
        file.write(b"\xff" * 4096)
    broker.up()
    daemon.wait_output("it is set aside", 30)
    daemon.wait_output(r"carried over: \d+ messages", 30)
    said, = re.findall(r"carried over: (\d+) messages", daemon.output())
    carried = int(said)
    Database(daemon.queue_path).wait_empty(60)
    got = set(broker.payloads())
    # A page holds some hundreds of these at most.
    assert 20000 - 400 < len(got) < 20000
    assert len(got) >= carried
    feed(daemon, 10, first=20000)
    broker.wait_delivered(len(got) + 10)
    daemon.check_alive()
    assert len(list(daemon.state.glob("*.corrupt-*"))) >= 1


def test_a_database_of_a_newer_program_is_left_alone(make_daemon):
    daemon = make_daemon(free_port()).start()
    feed(daemon, 5)
    daemon.stop()
    db = sqlite3.connect(daemon.queue_path)
    db.execute("PRAGMA user_version = 1000")
    db.close()
    content = daemon.queue_path.read_bytes()
    daemon.spawn()
    assert daemon.wait() == 1
    assert "version" in daemon.output()
    assert daemon.queue_path.read_bytes() == content


def test_sighup_does_not_end_it(make_daemon, make_fake):
    broker = make_fake()
    daemon = make_daemon(broker.port).start()
    for number in range(5):
        daemon.process.signal(signal.SIGHUP)
        feed(daemon, 1, first=number)
    broker.wait_delivered(5)
    daemon.check_alive()
    daemon.stop()


# --- configuration and command line -----------------------------------------


def write_faulty(daemon):
    """Two faults, on lines two and four."""
    daemon.config_path.write_text(
        'socket: { path = "/tmp/x.sock"; group = ""; };\n'
        "socket2: { };\n"
        'queue: { path = "/tmp/x.db";\n'
        '  sync = "sometimes"; };\n'
    )
    path = str(daemon.config_path)
    return [f"{path}:2: ", f"{path}:4: "]


def test_config_faults_end_the_start(make_daemon):
    """Exit 78 and one line a fault; a normal start does the same."""
    daemon = make_daemon(free_port())
    starts = write_faulty(daemon)
    for arguments in (["--check-config"], []):
        done = daemon.run("-c", str(daemon.config_path), *arguments)
        assert done.returncode == 78
        lines = done.stderr.splitlines()
        faults = [line for line in lines if line.startswith(starts[0][:-4])]
        assert len(faults) == 2, done.stderr
        for line, start in zip(faults, starts):
            assert line.startswith(start)
            assert len(line) > len(start) + 10
        assert "socket2" in faults[0]
        assert "full" in faults[1] and "normal" in faults[1]


def test_config_syntax_error_has_its_line(make_daemon):
    daemon = make_daemon(free_port())
    daemon.config_path.write_text('log: {\n\n  level = = "info";\n};\n')
    done = daemon.run("--config", str(daemon.config_path))
    assert done.returncode == 78
    assert f"{daemon.config_path}:3: " in done.stderr


def test_config_that_is_missing(make_daemon):
    daemon = make_daemon(free_port())
    missing = str(daemon.directory / "nothing.conf")
    done = daemon.run("-c", missing, "--check-config")
    assert done.returncode == 78
    assert missing in done.stderr


def test_check_config_says_nothing_about_a_good_one(make_daemon):
    daemon = make_daemon(free_port())
    done = daemon.run("--check-config", "-c", str(daemon.config_path))
    assert done.returncode == 0
    assert done.stderr == ""
    assert not daemon.queue_path.exists()
    assert not daemon.socket_path.exists()


def test_print_config(make_daemon):
    """Defaults included, secrets hidden; what it prints is a
    configuration itself and prints the same again."""
    daemon = make_daemon(
        free_port(), broker={"username": "ann", "password": "pass\"word"}
    )
    done = daemon.run("--print-config", "-c", str(daemon.config_path))
    assert done.returncode == 0
    assert str(daemon.socket_path) in done.stdout
    assert "ann" in done.stdout
    assert "word" not in done.stdout.replace("password", "")
    assert '"***"' in done.stdout
    for key in ("max_message_bytes", "default_qos", "keepalive", "jitter"):
        assert key in done.stdout
    daemon.config_path.write_text(done.stdout)
    again = daemon.run("--print-config", "-c", str(daemon.config_path))
    assert (again.returncode, again.stdout) == (0, done.stdout)


def test_version_and_help(make_daemon):
    daemon = make_daemon(free_port())
    done = daemon.run("--version")
    assert done.returncode == 0
    assert done.stdout.startswith("mqtt-gatewayd ")
    done = daemon.run("--help")
    assert done.returncode == 0
    for option in ("--config", "--check-config", "--print-config",
                   "--version", "--help"):
        assert option in done.stdout


def test_wrong_options(make_daemon):
    daemon = make_daemon(free_port())
    for arguments in (["--nonsense"], ["-c"], ["surplus"]):
        done = daemon.run(*arguments)
        assert done.returncode not in (0, 78)
        assert done.stderr


def test_a_queue_that_cannot_be_opened(make_daemon):
    """A folder that is not there: exit 1, and the path is told."""
    daemon = make_daemon(free_port())
    path = daemon.directory / "missing" / "queue.db"
    daemon.settings["queue"]["path"] = str(path)
    daemon.write_config()
    daemon.spawn()
    assert daemon.wait() == 1
    assert str(path) in daemon.output()
