# SPDX-License-Identifier: MIT
"""A broker that does not keep to MQTT: nothing is lost, nothing falls over.

Each connection of a test gets another lie, and the last one the truth. Then
every message is there, those of QoS 2 once, and the daemon is still the same
process, with no more descriptors and memory than before.
"""

import os
import re
import struct
from collections import Counter
from typing import Callable, NamedTuple, Optional, Tuple

import pytest
from harness import Client, Database, Deadline, FakeBroker, wait_until
from harness import mqttwire as wire
from harness.client import all_queued
from harness.fakebroker import OnLasting, accept
from harness.ports import LOOPBACK
from harness.steps import feed, numbered, payloads
from harness.tls import server_context

V311, V5 = "3.1.1", "5"
BOTH = (V311, V5)

RETRY = {
    "base": 0.05,
    "multiplier": 1.0,
    "max": 0.05,
    "jitter": "none",
    "heartbeat_delay": 0.05,
    "set_aside": 0.1,
}

#: What all lies together may make the daemon take: far less than one of them
#: announces. It starts with about 12 MB, and OpenSSL.
MEMORY = 48 << 20

LARGEST = b"\xff\xff\xff\x7f"  # the largest length there is: 256 MB
QOS2_FLAGS = 4


class Lie(NamedTuple):
    name: str
    #: Made of the identifier of the PUBLISH at hand.
    data: Callable[[int], bytes]
    #: The failure in the log; None: it is passed over.
    text: Optional[str]
    versions: Tuple[str, ...] = BOTH


def lie(name, data, text, versions=BOTH):
    return Lie(name, data if callable(data) else lambda mid: data, text, versions)


def mid_of(value: int) -> bytes:
    return struct.pack(">H", value)


def raw(kind: int, body: bytes, flags: int = 0) -> bytes:
    return wire.frame(kind, flags, body)


def with_properties(head: bytes, properties: bytes) -> bytes:
    return head + wire.varint(len(properties)) + properties


def connack(properties: bytes) -> bytes:
    return raw(wire.CONNACK, with_properties(b"\0\0", properties))


def reason(length: int) -> bytes:
    return b"\x1f" + struct.pack(">H", length) + b"x" * length


#: Instead of a CONNACK.
EARLY = [
    # The library ends the process over this one.
    lie("unknown property", connack(b"\x7e\x01"),
        "sent a CONNACK with the property 0x7e", (V5,)),
    lie("endless properties", b"\x20" + LARGEST + b"\0\0" + LARGEST,
        "sent a CONNACK of 268435460 bytes; 16384 are the most"),
    lie("length without end", b"\x20\xff\xff\xff\xff\x7f",
        "sent a CONNACK whose length has more than four bytes"),
    lie("property twice", connack(b"\x21\0\1\x21\0\1"),
        "sent a CONNACK with the property 0x21 twice", (V5,)),
    lie("property of another", connack(b"\x23\0\1"),
        "sent a CONNACK with the property 0x23, which is none of its", (V5,)),
    lie("properties too long", raw(wire.CONNACK, b"\0\0\x09\x21\0\1"),
        "sent a CONNACK that ends inside a field", (V5,)),
    lie("property cut", connack(b"\x1f\0\x09x"),
        "sent a CONNACK that ends inside a field", (V5,)),
    lie("behind its end", raw(wire.CONNACK, b"\0\0\0\0"),
        "sent a CONNACK that is [12] bytes too long"),
    lie("empty", b"\x20\0", "sent a CONNACK that ends inside a field"),
    lie("no such code", raw(wire.CONNACK, b"\0\x42\0"),
        "broker refused the connection with CONNACK 0x42", (V5,)),
    lie("PUBACK first", b"\x40\2\0\1",
        "does not begin with CONNACK, but with the bytes 40 02 00 01"),
    lie("AUTH first", b"\xf0\0",
        "does not begin with CONNACK, but with the bytes f0 00"),
    lie("type 0", b"\0\0",
        "does not begin with CONNACK, but with the bytes 00 00"),
    lie("SMTP", b"220 mail.example ESMTP\r\n",
        'does not speak MQTT: it begins with "220 mail.example ESMTP"'),
]

#: Instead of the answer to a PUBLISH.
LATE = [
    lie("PUBLISH without end", b"\x30" + LARGEST + b"\0\1t",
        "sent a PUBLISH of 268435460 bytes"),
    lie("QoS 3", raw(wire.PUBLISH, b"\0\1t\0\1\0", 6), "sent a PUBLISH of QoS 3"),
    lie("PUBLISH with its topic cut", raw(wire.PUBLISH, b"\xff\xfft"),
        "sent a PUBLISH that ends inside a field"),
    lie("PUBLISH with an unknown property",
        raw(wire.PUBLISH, with_properties(b"\0\1t", b"\x7f\0")),
        "sent a PUBLISH with the property 0x7f", (V5,)),
    lie("SUBACK", raw(wire.SUBACK, b"\0\1\0\0"), "sent a SUBACK, though"),
    lie("SUBACK of nothing", raw(wire.SUBACK, b"\0\1"),
        "sent a SUBACK, though"),
    lie("UNSUBACK", raw(wire.UNSUBACK, b"\0\1\0\0"),
        "sent a UNSUBACK, though"),
    lie("second CONNACK", lambda mid: raw(wire.CONNACK, b"\0\0"),
        "sent a second CONNACK"),
    lie("AUTH", raw(wire.AUTH, b"\x18\0"), "sent an AUTH"),
    lie("type 0", b"\0\0", "sent a packet of type 0"),
    lie("PINGREQ", b"\xc0\0", "sent a PINGREQ"),
    lie("CONNECT", b"\x10\0", "sent a CONNECT"),
    lie("PUBACK with an unknown property",
        lambda mid: raw(
            wire.PUBACK, with_properties(mid_of(mid) + b"\0", b"\x7e\x01")),
        "sent a PUBACK with the property 0x7e", (V5,)),
    lie("PUBACK too long", lambda mid: raw(wire.PUBACK, mid_of(mid) + b"\0\0x"),
        "sent a PUBACK that is [13] bytes too long"),
    lie("PUBACK with flags", lambda mid: raw(wire.PUBACK, mid_of(mid), 2),
        "sent a PUBACK with the flags 0x2"),
    lie("PUBACK of nothing", b"\x40\0", "sent a PUBACK that ends inside"),
    lie("PUBACK of 0", raw(wire.PUBACK, b"\0\0"), "A network protocol error"),
    lie("PUBACK with no such code",
        lambda mid: raw(wire.PUBACK, mid_of(mid) + b"\x42"),
        "sent a PUBACK with the reason code 0x42", (V5,)),
    lie("PUBREC with no such code",
        lambda mid: raw(wire.PUBREC, mid_of(mid) + b"\x01"),
        "sent a PUBREC with the reason code 0x01", (V5,)),
    lie("PUBCOMP instead of PUBACK",
        lambda mid: raw(wire.PUBCOMP, mid_of(mid)),
        "A network protocol error"),
    lie("PINGRESP with more", b"\xd0\1x", "sent a PINGRESP that is 1 bytes"),
    lie("PINGRESPs", b"\xd0\0" * 200, "answers PINGREQs that were never sent"),
    lie("DISCONNECT without end",
        b"\xe0" + LARGEST + b"\x8b" + LARGEST + b"\x1f\xff\xff",
        "sent a DISCONNECT of 268435460 bytes"),
    lie("DISCONNECT", b"\xe0\0", "sent a DISCONNECT, which MQTT 3.1.1", (V311,)),
    # What an honest broker may send, or what does no harm.
    lie("DISCONNECT at length",
        raw(wire.DISCONNECT, with_properties(b"\x97", reason(16000))),
        "DISCONNECT 0x97", (V5,)),
    lie("messages that nobody asked for",
        b"".join(
            raw(wire.PUBLISH, b"\0\1t" + (b"\0\7" if qos else b"") + b"\0",
                qos << 1)
            for qos in range(3)),
        None),
    lie("a release of nothing", raw(wire.PUBREL, b"\1\0", 2), None),
    # What the library keeps of such a one it never gives back.
    lie("acknowledgements of nothing, at length",
        raw(wire.PUBACK,
            with_properties(mid_of(500) + b"\0", reason(200))) * 50,
        "acknowledges at length messages that were never sent", (V5,)),
    lie("acknowledgements of nothing",
        b"".join(
            raw(kind, mid_of(mid), 2 if kind == wire.PUBREL else 0)
            for kind in (
                wire.PUBACK, wire.PUBREC, wire.PUBREL, wire.PUBCOMP)
            for mid in (500, 65535)),
        None),
    # With MQTT 5 the library keeps to its quota, also on later connections.
    lie("QoS 2 without release",
        b"".join(
            raw(wire.PUBLISH, b"\0\1t" + mid_of(mid) + b"\0", QOS2_FLAGS)
            for mid in range(1, 1200)),
        "(sends messages of QoS 2 without releasing any|network protocol err)"),
]


# --- the broker -----------------------------------------------------------------


def until_left(conn):
    """Takes nothing any more, until the peer is gone."""
    while True:
        conn.read(60)


def telling_early(the_lie):
    def body(conn):
        conn.send(the_lie.data(1))
        until_left(conn)

    return body


def telling_late(the_lie):
    def body(conn):
        conn.connack()
        taken = 0
        told = False
        while taken < 5:
            packet = conn.read()
            if packet.kind == wire.PUBLISH and not told:
                told = True
                conn.send(the_lie.data(packet.mid))
                if the_lie.text:
                    until_left(conn)
            # There are also answers to such things as we told.
            if packet.kind == wire.PUBLISH or (
                packet.mid in conn.session.unreleased
            ):
                conn.take(packet)
                taken += 1
        conn.finish()

    return body


def mixed(count, first=0):
    """Messages of QoS 1 and 2 by turns."""
    for number, message in enumerate(numbered(count, first)):
        yield {**message, "qos": 1 + number % 2}


def descriptors(daemon):
    return len(os.listdir(f"/proc/{daemon.process.pid}/fd"))


@pytest.fixture
def make_broker(certs):
    """A scripted broker, with TLS if asked, and the daemon's settings."""
    made = []

    def make(script, tls=False):
        context = server_context(certs.server) if tls else None
        broker = FakeBroker(script, tls=context)
        made.append(broker)
        options = {"host": "localhost" if tls else LOOPBACK}
        if tls:
            options["tls"] = {"ca_file": certs.ca.cert}
        return broker, options

    yield make
    for broker in made:
        broker.close()


def run_lies(make_daemon, make_broker, version, lies, telling, tls=False):
    lies = [one for one in lies if version in one.versions]
    bodies = [telling(one) for one in lies] + [accept]
    broker, options = make_broker(OnLasting(accept, *bodies), tls)
    daemon = make_daemon(
        broker.port, broker=options, retry=RETRY,
        mqtt={"version": version, "client_id": "gw"},
        # Else not every failure of so many gets a line.
        log={"level": "debug"},
    ).start()
    # The first connection tells the truth, and shows what is normal.
    feed(daemon, 2)
    broker.wait_delivered(2)
    Database(daemon.queue_path).wait_empty()
    normal = descriptors(daemon)
    broker.lasting()[0].cut()

    count = 10 * len(lies)
    with Client(daemon.socket_path, timeout=60) as client:
        all_queued(client.feed(mixed(count, 2)), range(2, count + 2))
    broker.wait_delivered(count + 2, timeout=60.0)
    Database(daemon.queue_path).wait_empty(timeout=60.0)
    seen = Counter(message.payload for message in broker.delivered)
    assert sorted(seen) == payloads(count + 2)
    twice = [
        message for message in broker.delivered
        if message.qos == 2 and seen[message.payload] > 1
    ]
    assert not twice
    assert not Database(daemon.queue_path).value(
        "SELECT count(*) FROM dead_letters"
    )
    for one in lies:
        if one.text:
            daemon.wait_output(
                rf"{LOOPBACK if not tls else 'localhost'}:{broker.port}: .*"
                rf"{one.text}"
            )
    daemon.check_alive()
    wait_until(
        lambda: descriptors(daemon) <= normal, 20, f"{normal} descriptors"
    )
    if not daemon.sanitized:
        assert daemon.memory("VmHWM") < MEMORY
    return daemon


@pytest.mark.parametrize("version", BOTH)
def test_lies_before_connack(make_daemon, make_broker, version):
    daemon = run_lies(make_daemon, make_broker, version, EARLY, telling_early)
    assert not re.search(r"does not (speak|begin).*\((?!protocol)", daemon.output())


@pytest.mark.parametrize("version", BOTH)
def test_lies_after_connack(make_daemon, make_broker, version):
    run_lies(make_daemon, make_broker, version, LATE, telling_late)


@pytest.mark.parametrize("version", BOTH)
@pytest.mark.parametrize("lies, telling", [
    (EARLY, telling_early), (LATE, telling_late)], ids=["early", "late"])
def test_lies_by_tls(make_daemon, make_broker, version, lies, telling):
    run_lies(make_daemon, make_broker, version, lies, telling, tls=True)


# --- no lie, but the slowest truth ------------------------------------------------


@pytest.mark.parametrize("tls", [False, True], ids=["tcp", "tls"])
def test_byte_by_byte(make_daemon, make_broker, tls):
    """Each byte in a segment, and with TLS a record, of its own."""

    def dripping(conn):
        send = conn.send

        def drip(data):
            for at in range(len(data)):
                send(data[at:at + 1])

        conn.send = drip
        conn.connack(reason="take your time", user_property=[("a", "b")])
        conn.serve()

    broker, options = make_broker(OnLasting(dripping), tls)
    daemon = make_daemon(
        broker.port, broker=options, mqtt={"version": V5, "client_id": "gw"}
    ).start()
    with Client(daemon.socket_path, timeout=60) as client:
        all_queued(client.feed(mixed(100)), range(100))
    Database(daemon.queue_path).wait_empty()
    assert sorted(broker.payloads()) == payloads(100)
    assert len(broker.lasting()) == 1


# --- silence ------------------------------------------------------------------------


def passing_over(topic):
    """Takes all messages but those of one topic, which it never answers."""

    def body(conn):
        conn.connack(server_keep_alive=1)
        while True:
            packet = conn.read(60)
            if getattr(packet, "topic", "") != topic:
                conn.take(packet)

    return body


def alive_only(conn):
    """Answers PINGREQ alone, until it is left."""
    conn.connack(server_keep_alive=1)
    while True:
        packet = conn.read(60)
        if packet.kind == wire.PINGREQ:
            conn.take(packet)


def start_impatient(make_daemon, broker, options):
    return make_daemon(
        broker.port, broker=options, retry={**RETRY, "heartbeat_delay": 0.01},
        mqtt={"version": V5, "client_id": "gw", "ack_timeout": 0.4},
    ).start()


def letters_of(daemon):
    return Database(daemon.queue_path).query(
        "SELECT topic, reason FROM dead_letters")


@pytest.mark.parametrize("qos", [1, 2])
def test_a_message_never_answered(make_daemon, make_broker, qos):
    """What is behind it is delivered, and in the end it is condemned."""
    broker, options = make_broker(OnLasting(passing_over("bad")))
    daemon = start_impatient(make_daemon, broker, options)
    with Client(daemon.socket_path, timeout=60) as client:
        client.ask({"topic": "bad", "payload": "x", "qos": qos, "id": 1})
        number = 0
        letters = []
        deadline = Deadline(50)
        while not letters and not deadline.passed():
            # One for each connection: it shows that others are answered.
            seen = len(broker.connections)
            all_queued(
                client.feed(numbered(1, number, qos=qos)), [number])
            number += 1
            wait_until(
                lambda: len(broker.connections) > seen or letters_of(daemon),
                20, "another connection, or a dead letter")
            letters = letters_of(daemon)
    assert letters == [("bad", "broker never answers it")]
    Database(daemon.queue_path).wait_empty()
    assert sorted(set(broker.payloads())) == payloads(number)


def test_a_broker_that_answers_nothing(make_daemon, make_broker):
    """Whatever it has it wait for, no message is to blame for that."""
    broker, options = make_broker(OnLasting(*[alive_only] * 14, accept))
    daemon = start_impatient(make_daemon, broker, options)
    feed(daemon, 10)
    broker.wait_delivered(10, timeout=60.0)
    Database(daemon.queue_path).wait_empty()
    assert not Database(daemon.queue_path).value(
        "SELECT count(*) FROM dead_letters")
    # More on a machine that is too busy to answer within ack_timeout.
    assert len(broker.lasting()) >= 15
