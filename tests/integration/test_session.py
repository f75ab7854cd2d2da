# SPDX-License-Identifier: MIT
"""What a session with a broker is made of: its life, its limits, presence,
provenance, and the rate of what is sent."""

import socket
import subprocess
import time

import pytest
from harness import Client, Database, wait_until
from harness import mqttwire as wire
from harness.fakebroker import OnLasting, accept
from harness.steps import (
    count_lines,
    feed,
    numbered,
    payloads,
    wait_all,
)
from harness.subscriber import first_deliveries

RETRY = {"base": 0.02, "max": 0.05, "heartbeat_delay": 0.02}

VERSIONS = ["3.1.1", "5"]

WILL = {
    "topic": "up/%i/%h", "payload": "gone", "qos": 1, "retain": True,
}
BIRTH = {
    "topic": "up/%i/%h", "payload": "here", "qos": 1, "retain": True,
}
PRESENCE = f"up/test-gateway/{socket.gethostname()}"


def start(make_daemon, broker, version="5", **mqtt):
    return make_daemon(
        broker.port,
        mqtt={"version": version, "client_id": "gw", **mqtt},
        retry=RETRY,
    ).start()


def sent(conn, kind=wire.PUBLISH):
    return [packet for packet in conn.received if packet.kind == kind]


# --- its life -----------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("qos", [1, 2])
def test_clean_session(make_daemon, make_fake, version, qos):
    """A clean start each time, nothing kept behind, and nothing lost."""

    def cut(conn):
        conn.expect_connect()
        conn.connack()
        for _ in range(8):
            conn.take(conn.read())
        conn.close(rst=True)

    def rest(conn):
        conn.expect_connect()
        accept(conn)

    broker = make_fake(cut, cut, cut, rest)
    daemon = start(
        make_daemon, broker, version, clean_session=True, inflight_max=5
    )
    feed(daemon, 50, qos=qos)
    wait_all([broker], payloads(50))
    Database(daemon.queue_path).wait_empty()
    assert first_deliveries(broker.payloads()) == payloads(50)
    assert len(broker.connects) == 4
    for connect in broker.connects:
        assert connect.clean
        assert connect.properties.get("session_expiry", 0) == 0
    for conn in broker.connections[1:]:
        # A new session knows nothing that could come again.
        assert not any(publish.dup for publish in sent(conn))


def test_a_strange_subscription(make_daemon, mosquitto):
    """Left behind by another client of the same id, it brings messages larger than are taken: with
    3.1.1 the broker cannot be told, and the session has to go."""
    daemon = start(make_daemon, mosquitto, version="3.1.1")
    feed(daemon, 1)
    Database(daemon.queue_path).wait_empty()
    daemon.stop()
    server = ["-h", "127.0.0.1", "-p", str(mosquitto.port), "-q", "1"]
    subprocess.run(["mosquitto_sub", *server, "-i", "gw", "-c", "-E", "-t", "large",
                    "-V", "mqttv311"], check=True, timeout=20)
    subprocess.run(["mosquitto_pub", *server, "-t", "large", "-m", "x" * 20000],
                   check=True, timeout=20)
    daemon.start()
    feed(daemon, 10, 1)
    Database(daemon.queue_path).wait_empty()
    daemon.wait_output("sent a PUBLISH of 20013 bytes; 16384 are the most")
    assert not Database(daemon.queue_path).value("SELECT count(*) FROM dead_letters")


def test_session_expiry(make_daemon, make_fake):
    """MQTT 5: for ever; what only clears a session keeps none."""
    broker = make_fake()
    daemon = start(make_daemon, broker)
    feed(daemon, 5)
    broker.wait_delivered(5)
    first, second = broker.connects
    assert first.clean and "session_expiry" not in first.properties
    assert not second.clean
    assert second.properties["session_expiry"] == 0xFFFFFFFF


# --- QoS lowered ------------------------------------------------------------------


@pytest.mark.parametrize("most", [0, 1])
def test_maximum_qos(make_daemon, make_fake, most):
    """The broker's bound is kept, and said once a connection."""

    def modest(conn):
        conn.connack(maximum_qos=most)
        conn.serve()

    broker = make_fake(OnLasting(modest))
    daemon = start(make_daemon, broker)
    with Client(daemon.socket_path) as client:
        client.feed(
            {**message, "qos": number % 3}
            for number, message in enumerate(numbered(30))
        )
    broker.wait_delivered(30)
    Database(daemon.queue_path).wait_empty()
    assert broker.payloads() == payloads(30)
    assert [m.qos for m in broker.delivered] == [
        min(number % 3, most) for number in range(30)
    ]
    said = rf"notice: 127\.0\.0\.1:{broker.port}: broker takes no QoS above "
    assert count_lines(daemon, said + str(most)) == 1
    broker.lasting()[-1].cut()
    wait_until(lambda: len(broker.lasting()) == 2, 20, "a second connection")
    feed(daemon, 3, first=30, qos=2)
    broker.wait_delivered(33)
    assert count_lines(daemon, said) == 1


@pytest.mark.parametrize("version", VERSIONS)
def test_puback_in_the_place_of_pubrec(make_daemon, make_fake, version):
    """A broker that answers QoS 2 like QoS 1 gets QoS 1 from then on."""

    def poor(conn):
        conn.connack()
        while True:
            packet = conn.read(600)
            if packet.kind == wire.PUBLISH and packet.qos == 2:
                broker.deliver(conn, packet)
                conn.puback(packet.mid)
            else:
                conn.take(packet)

    broker = make_fake(OnLasting(poor))
    daemon = start(make_daemon, broker, version)
    feed(daemon, 30, qos=2)
    wait_all([broker], payloads(30))
    Database(daemon.queue_path).wait_empty()
    feed(daemon, 10, first=30, qos=2)
    wait_all([broker], payloads(40))
    Database(daemon.queue_path).wait_empty()
    assert first_deliveries(broker.payloads()) == payloads(40)
    one, two = broker.lasting()
    assert {publish.qos for publish in sent(two)} == {1}
    said = rf"127\.0\.0\.1:{broker.port}: broker takes no QoS above 1"
    assert count_lines(daemon, said) == 1
    assert count_lines(
        daemon, r"connected -> disconnected: broker does not know QoS 2: .* "
        r"\(heartbeat\); next attempt in"
    ) == 1
    assert Database(daemon.queue_path).value(
        "SELECT count(*) FROM dead_letters"
    ) == 0


def test_no_retained_messages(make_daemon, make_fake):
    """Retain not available: sent without the flag, said once."""

    def forgetful(conn):
        conn.connack(retain_available=0)
        conn.serve()

    broker = make_fake(OnLasting(forgetful))
    daemon = start(make_daemon, broker, birth=BIRTH)
    feed(daemon, 10, retain=True)
    broker.wait_delivered(11)
    Database(daemon.queue_path).wait_empty()
    assert broker.payloads() == [b"here"] + payloads(10)
    assert not any(message.retain for message in broker.delivered)
    assert count_lines(daemon, "broker keeps no retained messages") == 1


# --- the broker wants less ----------------------------------------------------------


@pytest.mark.parametrize("reason", [0x93, 0x97])
@pytest.mark.parametrize("qos", [1, 2])
def test_throttling(make_daemon, make_fake, reason, qos):
    """Again, later; never condemned, and nothing else is held up."""

    def busy(conn):
        conn.connack()
        while True:
            packet = conn.read(600)
            if packet.kind == wire.PUBLISH and len(refused) < 4:
                refused.append(packet.payload)
                answer = wire.PUBREC if qos == 2 else wire.PUBACK
                conn.acknowledge(answer, packet.mid, reason)
            else:
                conn.take(packet)

    refused = []
    broker = make_fake(OnLasting(busy))
    daemon = start(make_daemon, broker, inflight_max=2)
    feed(daemon, 20, qos=qos)
    wait_all([broker], payloads(20))
    Database(daemon.queue_path).wait_empty()
    assert sorted(broker.payloads()) == payloads(20)
    assert len(refused) == 4
    assert len(broker.lasting()) == 1
    assert Database(daemon.queue_path).value(
        "SELECT count(*) FROM dead_letters"
    ) == 0
    assert "dead_letters" not in daemon.output()


def test_receive_maximum_with_qos2(make_daemon, make_fake):
    """Up to PUBCOMP each counts."""

    def bounded(conn):
        conn.connack(receive_maximum=2)
        flying = set()
        while True:
            packet = conn.read(600)
            if packet.kind == wire.PUBLISH:
                flying.add(packet.mid)
                most.append(len(flying))
            elif packet.kind == wire.PUBREL:
                flying.discard(packet.mid)
            conn.take(packet)

    most = []
    broker = make_fake(OnLasting(bounded))
    daemon = start(make_daemon, broker)
    feed(daemon, 200, qos=2)
    broker.wait_delivered(200)
    assert max(most) <= 2
    assert broker.payloads() == payloads(200)


def test_max_rate(make_daemon, make_fake, measured):
    """100 KB at 10 KB a second, but for what may go ahead."""
    broker = make_fake()
    daemon = start(make_daemon, broker, max_rate="10K")
    broker.wait_connections(2)
    began = time.monotonic()
    with Client(daemon.socket_path) as client:
        client.feed(
            {"topic": "t", "payload": "x" * 1000, "id": number}
            for number in range(100)
        )
    broker.wait_delivered(100, 40)
    took = time.monotonic() - began
    measured(f"max_rate 10K: 100 messages of 1000 bytes in {took:.1f} s")
    assert took >= 8.5
    Database(daemon.queue_path).wait_empty()
    assert len(broker.lasting()) == 1


# --- presence -------------------------------------------------------------------------


def test_birth_of_qos_0_goes_with_its_connection(make_daemon, make_fake):
    """One that could not be written is no message in flight for ever."""

    def silent(conn):
        conn.connack()
        rows = 0
        while rows < 5:
            packet = conn.read()
            rows += packet.kind == wire.PUBLISH and packet.topic != PRESENCE
        conn.cut()

    def takes_us_for_another(conn):
        # In one piece: the connection is over before the birth can go.
        present = conn.broker.open_session(conn, None)
        conn.send(
            wire.connack(conn.version, 0, present, {})
            + wire.disconnect(conn.version, 0x8B)
        )
        conn.finish()

    def takes_all(conn):
        conn.connack()
        conn.serve()

    broker = make_fake(OnLasting(silent, takes_us_for_another, takes_all))
    daemon = start(make_daemon, broker, birth={**BIRTH, "qos": 0})
    feed(daemon, 5)
    Database(daemon.queue_path).wait_empty()
    assert len(broker.lasting()) == 3
    wait_until(
        lambda: broker.payloads().count(b"here") == 1, 20, "another birth"
    )


@pytest.mark.parametrize("version", VERSIONS)
def test_will_and_birth(make_daemon, make_fake, version):
    """Will in CONNECT; birth before any row, with each connection; a stop
    in order leaves the will behind, as the last word."""
    broker = make_fake()
    daemon = start(
        make_daemon, broker, version, will=WILL, birth=BIRTH,
        topic_prefix="site/",
    )
    feed(daemon, 10)
    broker.wait_delivered(11)
    clear, session = broker.connects
    assert clear.will_topic is None
    assert (
        session.will_topic, session.will_payload, session.will_qos,
        session.will_retain,
    ) == (PRESENCE, b"gone", 1, True)
    birth = broker.delivered[0]
    assert (birth.topic, birth.payload, birth.qos, birth.retain) == (
        PRESENCE, b"here", 1, True
    )
    assert {m.topic for m in broker.delivered[1:]} == {"site/t"}

    broker.lasting()[-1].cut()
    wait_until(
        lambda: broker.payloads().count(b"here") == 2, 20, "a second birth"
    )
    feed(daemon, 5, first=10)
    broker.wait_delivered(17)
    again = sent(broker.lasting()[-1])
    assert again[0].payload == b"here"

    Database(daemon.queue_path).wait_empty()
    daemon.stop()
    last = broker.lasting()[-1].received[-1]
    assert last.kind == wire.DISCONNECT
    if version == "5":
        # The broker publishes the will itself.
        assert last.reason == 0x04
        assert b"gone" not in broker.payloads()
    else:
        will = broker.delivered[-1]
        assert (will.topic, will.payload, will.qos, will.retain) == (
            PRESENCE, b"gone", 1, True
        )


@pytest.mark.parametrize("version", VERSIONS)
def test_will_is_the_brokers_after_a_crash(make_daemon, make_fake, version):
    """kill -9: no DISCONNECT, no will of our own."""
    broker = make_fake()
    daemon = start(make_daemon, broker, version, will=WILL)
    feed(daemon, 3)
    broker.wait_delivered(3)
    daemon.kill9()
    conn = broker.lasting()[-1]
    assert conn.connect.will_payload == b"gone"
    assert not sent(conn, wire.DISCONNECT)
    assert b"gone" not in broker.payloads()


@pytest.mark.parametrize("version", VERSIONS)
def test_real_broker_speaks_the_will(
    make_daemon, mosquitto, make_subscriber, version
):
    """Seen by a subscriber: birth, then the will, for a stop and a crash."""
    subscriber = make_subscriber(mosquitto.port)
    daemon = start(
        make_daemon, mosquitto, version, will=WILL, birth=BIRTH
    )
    for count, how in ((2, "stop"), (4, "kill9")):
        feed(daemon, 1)
        Database(daemon.queue_path).wait_empty()
        getattr(daemon, how)()
        wait_until(
            lambda: sum(r.topic == PRESENCE for r in subscriber.records)
            >= count,
            20,
            "the will",
        )
        daemon.start()
        wait_until(
            lambda: sum(r.topic == PRESENCE for r in subscriber.records)
            >= count + 1,
            20,
            "the birth",
        )
    texts = [r.payload for r in subscriber.records if r.topic == PRESENCE]
    assert texts == [b"here", b"gone"] * 2 + [b"here"]


def test_birth_with_a_refusal(make_daemon, make_fake):
    """Of no consequence for the messages."""

    def strict(conn):
        conn.connack()
        while True:
            packet = conn.read(600)
            if packet.kind == wire.PUBLISH and packet.topic == PRESENCE:
                conn.puback(packet.mid, 0x87)
            else:
                conn.take(packet)

    broker = make_fake(OnLasting(strict))
    daemon = start(make_daemon, broker, birth=BIRTH)
    feed(daemon, 10)
    broker.wait_delivered(10)
    Database(daemon.queue_path).wait_empty()
    daemon.wait_output("warning: .*refused mqtt.birth.*0x87")
    assert len(broker.lasting()) == 1


# --- provenance -------------------------------------------------------------------------


def test_provenance(make_daemon, make_fake):
    """Who, which queue, which row, when: exactly, and nothing else."""
    broker = make_fake()
    daemon = start(make_daemon, broker)
    ids = feed(daemon, 5, timestamp=1700000000123, qos=2)
    broker.wait_delivered(5)
    uuid = Database(daemon.queue_path).value(
        "SELECT value FROM meta WHERE key = 'queue_uuid'"
    )
    for row, message in zip(ids, broker.delivered):
        assert message.properties == {
            "user_property": [
                ("gw-id", "test-gateway"),
                ("gw-queue", uuid),
                ("gw-seq", str(row)),
                ("gw-time", "1700000000123"),
            ]
        }


@pytest.mark.parametrize(
    "version,provenance", [("5", False), ("3.1.1", True)]
)
def test_no_provenance(make_daemon, make_fake, version, provenance):
    broker = make_fake()
    daemon = start(make_daemon, broker, version, provenance=provenance)
    feed(daemon, 3)
    broker.wait_delivered(3)
    for message in broker.delivered:
        assert message.properties == {}
        assert message.topic == "t"


def test_topic_prefix(make_daemon, make_fake):
    """On every topic; %i and %h stand for gateway and host."""
    broker = make_fake()
    daemon = start(make_daemon, broker, topic_prefix="%h/%i/")
    with Client(daemon.socket_path) as client:
        client.feed(
            {"topic": topic, "payload": "x", "id": number}
            for number, topic in enumerate(["a", "a/b", "/c", "%i"])
        )
    broker.wait_delivered(4)
    prefix = f"{socket.gethostname()}/test-gateway/"
    assert [m.topic for m in broker.delivered] == [
        prefix + topic for topic in ("a", "a/b", "/c", "%i")
    ]
