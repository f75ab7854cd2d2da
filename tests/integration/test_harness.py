# SPDX-License-Identifier: MIT
"""The harness itself: an instrument that lies proves nothing.

Runs without the daemon; paho plays the gateway's part.
"""

import threading

import paho.mqtt.client as paho
import pytest
from harness import Daemon, DaemonFailure, Deadline, wait_until
from harness.fakebroker import serve
from harness.ports import LOOPBACK
from harness.subscriber import duplicates, first_deliveries


@pytest.fixture
def publisher():
    """Makes paho clients that reconnect fast, and ends them."""
    made = []

    def make(port, protocol=paho.MQTTv311, name="publisher"):
        options = {}
        if protocol != paho.MQTTv5:
            options["clean_session"] = False
        client = paho.Client(name, protocol=protocol, **options)
        client.reconnect_delay_set(1, 1)
        made.append(client)
        client.connect(LOOPBACK, port)
        client.loop_start()
        return client

    yield make
    for client in made:
        client.disconnect()
        client.loop_stop()


@pytest.mark.parametrize("protocol", [paho.MQTTv311, paho.MQTTv5])
def test_fake_broker_takes_every_qos(make_fake, publisher, protocol):
    broker = make_fake()
    client = publisher(broker.port, protocol)
    for qos in (0, 1, 2):
        client.publish(f"t/{qos}", f"m{qos}", qos, retain=qos == 1)
    delivered = broker.wait_delivered(3)
    assert [(m.topic, m.payload, m.qos, m.retain) for m in delivered] == [
        ("t/0", b"m0", 0, False),
        ("t/1", b"m1", 1, True),
        ("t/2", b"m2", 2, False),
    ]
    assert broker.connects[0].client_id == "publisher"
    assert broker.connects[0].version == int(protocol)


def test_fake_broker_delivers_qos2_once_over_a_reset(make_fake, publisher):
    """PUBREC is sent, then the connection dies: one delivery in the end."""

    def reset_after_pubrec(conn):
        conn.expect_connect()
        conn.connack()
        conn.take(conn.expect(3))
        conn.close(rst=True)

    broker = make_fake(reset_after_pubrec, serve)
    client = publisher(broker.port)
    client.publish("t", "once", 2)
    broker.wait_delivered(1)
    wait_until(lambda: not client.want_write(), 5, "nothing left to send")
    assert broker.payloads() == [b"once"]
    assert not broker.connects[1].clean


def test_fake_broker_reports_what_a_script_misses(make_fake, publisher):
    def wants_a_publish(conn):
        conn.expect_connect()
        conn.connack()
        conn.expect(8)

    broker = make_fake(wants_a_publish)
    publisher(broker.port).publish("t", "m", 1)
    with pytest.raises(AssertionError, match="PUBLISH instead of SUBSCRIBE"):
        broker.wait_delivered(1)
    broker.errors.clear()


@pytest.mark.parametrize("rst", [True, False])
def test_proxy_cuts_and_resumes(
    mosquitto, make_proxy, make_subscriber, publisher, rst
):
    proxy = make_proxy(mosquitto.port)
    subscriber = make_subscriber(mosquitto.port)
    gone = threading.Event()
    client = publisher(proxy.port)
    client.on_disconnect = lambda *_: gone.set()
    client.publish("t", "1", 2).wait_for_publish(10)
    assert proxy.cut(rst) == 1
    assert gone.wait(10)
    client.publish("t", "2", 2)
    assert [r.payload for r in subscriber.wait_for(2)] == [b"1", b"2"]
    assert proxy.accepted == 2


def test_proxy_stalls_each_way_and_refuses(
    mosquitto, make_proxy, make_subscriber, publisher
):
    proxy = make_proxy(mosquitto.port)
    subscriber = make_subscriber(mosquitto.port)
    client = publisher(proxy.port)
    client.publish("t", "0", 1).wait_for_publish(10)

    proxy.stall(up=False, down=True)
    message = client.publish("t", "1", 1)
    subscriber.wait_for(2)
    assert not message.is_published()
    proxy.resume()
    message.wait_for_publish(10)

    proxy.stall(up=True, down=False)
    client.publish("t", "2", 1)
    other = publisher(mosquitto.port, name="other")
    other.publish("t", "3", 1).wait_for_publish(10)
    assert [r.payload for r in subscriber.wait_for(3)][2:] == [b"3"]
    proxy.resume()
    subscriber.wait_for(4)

    proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        publisher(proxy.port, name="third")


def test_proxy_cuts_after_so_many_bytes(
    mosquitto, make_proxy, make_subscriber, publisher
):
    """The cut falls inside a packet: it never arrives on this connection."""
    proxy = make_proxy(mosquitto.port)
    subscriber = make_subscriber(mosquitto.port)
    client = publisher(proxy.port)
    client.publish("t", "0", 1).wait_for_publish(10)
    proxy.cut_after("up", 20)
    client.publish("t", "x" * 1000, 1).wait_for_publish(10)
    assert len(subscriber.wait_for(2)) == 2
    assert proxy.accepted == 2


def test_broker_keeps_sessions_over_its_restart(
    mosquitto, make_subscriber, publisher
):
    subscriber = make_subscriber(mosquitto.port)
    mosquitto.restart()
    subscriber.wait_connected()
    publisher(mosquitto.port).publish("t", "m", 1)
    assert subscriber.wait_for(1)[0].payload == b"m"


def test_broker_knows_its_users(make_mosquitto):
    broker = make_mosquitto(users={"ann": "right"}).start()
    codes = []
    for password in ("wrong", "right"):
        client = paho.Client(f"c-{password}")
        client.on_connect = lambda c, u, f, rc: codes.append(rc)
        client.username_pw_set("ann", password)
        client.connect(LOOPBACK, broker.port)
        deadline = Deadline(10)
        while len(codes) < (1 if password == "wrong" else 2):
            deadline.check("a CONNACK")
            client.loop(0.1)
        client.disconnect()
    assert codes == [5, 0]


def test_counting():
    assert duplicates([b"a", b"b", b"a", b"a"]) == 2
    assert first_deliveries([b"a", b"b", b"a", b"c"]) == [b"a", b"b", b"c"]


@pytest.fixture
def stand_in(tmp_path):
    """Makes a Daemon whose program is a shell script."""
    made = []

    def make(script):
        program = tmp_path / "program"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        made.append(Daemon(str(program), 1))
        made[-1].spawn()
        return made[-1]

    yield make
    for daemon in made:
        daemon.close()


@pytest.mark.parametrize(
    "line",
    [
        "==12==ERROR: AddressSanitizer: heap-use-after-free on address",
        "==12==ERROR: LeakSanitizer: detected memory leaks",
        "WARNING: ThreadSanitizer: data race (pid=12)",
        "queue.c:12:3: runtime error: signed integer overflow",
        "mqtt-gatewayd: queue.c:12: f: Assertion `x' failed.",
    ],
)
def test_reports_on_standard_error_fail_a_test(stand_in, line):
    daemon = stand_in(f"cat >&2 <<'END'\n{line}\nEND\nexec sleep 60")
    daemon.wait_output(r"\w")
    with pytest.raises(DaemonFailure, match="report on standard error"):
        daemon.verdict()


def test_a_daemon_that_dies_fails_a_test(stand_in):
    daemon = stand_in("exit 3")
    wait_until(lambda: not daemon.process.running(), 10, "it has ended")
    with pytest.raises(DaemonFailure, match="ended with 3"):
        daemon.verdict()


def test_a_daemon_that_does_not_stop_in_order_fails_a_test(stand_in):
    daemon = stand_in(
        "trap 'exit 1' TERM; echo up; while :; do sleep 0.1; done"
    )
    daemon.wait_output("up")
    with pytest.raises(DaemonFailure, match="ended with 1"):
        daemon.stop()
