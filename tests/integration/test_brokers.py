# SPDX-License-Identifier: MIT
"""Several brokers: failing over, failing back, and what moves along."""

import time

import pytest
from harness import Database, Feeder, wait_until
from harness import mqttwire as wire
from harness.client import all_queued
from harness.fakebroker import OnLasting, accept, serve
from harness.steps import (
    count_lines,
    feed,
    numbered,
    payloads,
    step,
    use_brokers,
    wait_all,
)
from harness.subscriber import first_deliveries

RETRY = {
    "base": 0.05,
    "max": 0.1,
    "jitter": "none",
    "timeout_attempts": 1,
    "heartbeat_attempts": 0,
    "heartbeat_delay": 0.05,
    "set_aside": 60.0,
    "failback": 0.5,
}

VERSIONS = ["3.1.1", "5"]


def start(make_daemon, *brokers, version="5", retry=None, **mqtt):
    daemon = make_daemon(
        brokers[0].port,
        mqtt={"version": version, "client_id": "gw-%i", **mqtt},
        retry={**RETRY, **(retry or {})},
    )
    return use_brokers(daemon, *[broker.port for broker in brokers]).start()


def probes(broker):
    return [c for c in broker.connects if c.client_id.endswith("-probe")]


def own(broker):
    """The CONNECT packets that are no probes."""
    return [c for c in broker.connects if not c.client_id.endswith("-probe")]


def left(broker):
    """The gateway's connections that it ended with DISCONNECT."""
    return [
        c for c in broker.lasting()
        if c.received and c.received[-1].kind == wire.DISCONNECT
    ]


def wait_connected(daemon, broker, times=1):
    wait_until(
        lambda: count_lines(
            daemon, step(broker.port, "connecting", "connected")
        ) >= times,
        20,
        f"connection {times} to {broker.port}",
    )


@pytest.mark.parametrize("version", VERSIONS)
def test_fail_over_and_back(make_daemon, make_fake, version):
    """A dies, B takes over, A returns and gets the rest.

    Whatever was in flight, all arrives; the order holds at each broker.
    """
    a, b = make_fake(), make_fake()
    daemon = start(make_daemon, a, b, version=version)
    feed(daemon, 20)
    a.wait_delivered(20)
    a.down()
    feed(daemon, 20, first=20)
    wait_all([a, b], payloads(40))
    wait_connected(daemon, b)
    assert not left(b)

    a.up()
    feeder = Feeder(daemon.socket_path, numbered(200, first=40))
    wait_connected(daemon, a, 2)
    all_queued(feeder.join(), range(40, 240))
    feed(daemon, 10, first=240)
    wait_all([a, b], payloads(250))
    Database(daemon.queue_path).wait_empty()

    # First the probe, with an id that takes nobody over and no session
    # of its own, then the uplink.
    probe, = probes(a)
    assert probe.client_id == "gw-test-gateway-probe"
    assert probe.clean and not probe.lasting
    assert {c.client_id for c in own(a) + own(b)} == {"gw-test-gateway"}
    # B was left in order: DISCONNECT, and nothing unacknowledged.
    leaving, = left(b)
    assert leaving.received[-1].reason == 0
    daemon.wait_output(
        rf"127\.0\.0\.1:{a.port}: answers again; leaving "
        rf"127\.0\.0\.1:{b.port} for it"
    )
    for broker in (a, b):
        texts = first_deliveries(broker.payloads())
        assert texts == sorted(texts)
    assert a.payloads()[-10:] == payloads(10, 240)
    assert not set(b.payloads()) & set(payloads(10, 240))


def probed(script):
    """Good to the gateway, to its probes as the script says."""

    def both(conn):
        connect = conn.expect_connect()
        if connect.client_id.endswith("-probe"):
            script(conn)
        else:
            accept(conn)

    return both


def hang(conn):
    conn.read(60)


def refuse(conn):
    conn.connack(code=0x89)


def drop(conn):
    conn.close(rst=True)


@pytest.mark.parametrize("script", [hang, refuse, drop])
def test_a_failing_probe_disturbs_nobody(make_daemon, make_fake, script):
    """A has a new leaf or none at all: the flow to B goes on."""
    a, b = make_fake(probed(script)), make_fake()
    a.down()
    daemon = start(
        make_daemon, a, b, connect_timeout=0.3, retry={"failback": 0.2}
    )
    wait_connected(daemon, b)
    a.up()
    feeder = Feeder(daemon.socket_path, numbered(200))
    wait_until(lambda: len(probes(a)) >= 3, 20, "three probes")
    all_queued(feeder.join(), range(200))
    feed(daemon, 20, first=200)
    b.wait_delivered(220)
    assert b.payloads() == payloads(220)
    assert len(b.lasting()) == 1
    assert not own(a)
    assert count_lines(daemon, rf":{b.port}: connected -> ") == 0


def test_a_refused_probe_sets_aside(make_daemon, make_fake):
    """Wrong credentials at A: one alert, and A is left alone for long."""

    def refuse_auth(conn):
        conn.connack(code=0x86)

    a, b = make_fake(probed(refuse_auth)), make_fake()
    a.down()
    daemon = start(make_daemon, a, b, retry={"failback": 0.2})
    wait_connected(daemon, b)
    a.up()
    daemon.wait_output(
        rf"error: 127\.0\.0\.1:{a.port}: probe failed: .*0x86.* \(auth\); "
        rf"staying with 127\.0\.0\.1:{b.port}; check user name"
    )
    quiet = time.monotonic() + 0.8
    wait_until(lambda: time.monotonic() > quiet, 10, "four times failback")
    feed(daemon, 20)
    b.wait_delivered(20)
    assert len(probes(a)) == 1


def test_the_gateways_own_broker_comes_first_again(make_daemon, make_fake):
    """Three brokers: from the last to the best that answers."""
    a, b, c = make_fake(), make_fake(), make_fake()
    a.down()
    b.down()
    daemon = start(make_daemon, a, b, c, retry={"failback": 0.3})
    wait_connected(daemon, c)
    b.up()
    wait_connected(daemon, b)
    a.up()
    wait_connected(daemon, a)
    feed(daemon, 10)
    a.wait_delivered(10)
    assert left(c) and left(b)


def half_done(conn):
    """QoS 2 up to PUBREC, or a bit further: nothing is ever finished."""
    conn.connack()
    count = 0
    while True:
        packet = conn.read()
        if packet.kind == wire.PUBLISH:
            count += 1
            if count % 2:
                conn.take(packet)
        elif packet.kind == wire.PINGREQ:
            conn.take(packet)


def in_flight(broker):
    """PUBRELs the broker holds the answer to."""
    return sum(
        packet.kind == wire.PUBREL
        for conn in broker.connections
        for packet in conn.received
    )


@pytest.mark.parametrize("version", VERSIONS)
def test_a_b_a_with_qos2_in_flight(make_daemon, make_fake, version):
    """Identifiers start over with each change, old exchanges do not come
    in their way: nothing is lost."""
    a = make_fake(OnLasting(half_done, half_done))
    b = make_fake(OnLasting(half_done))
    daemon = start(
        make_daemon, a, b, version=version, inflight_max=10,
        retry={"failback": 60.0},
    )
    feed(daemon, 40, qos=2)
    wait_until(lambda: in_flight(a) >= 3, 20, "exchanges in flight at A")
    before = len(a.connects)
    a.down()
    wait_until(lambda: in_flight(b) >= 3, 20, "exchanges in flight at B")
    a.scripts = [serve]
    a.up()
    b.down()
    wait_all([a, b], payloads(40))
    Database(daemon.queue_path).wait_empty()
    assert first_deliveries(a.payloads()) == payloads(40)
    # A was left unclean: first an end to the old session, then a new one.
    again = own(a)[before:]
    assert again[0].clean and not again[0].lasting
    assert again[1].lasting
    feed(daemon, 20, first=40, qos=2)
    wait_all([a], payloads(60))
    Database(daemon.queue_path).wait_empty()


def three_then_half(conn):
    """Finishes three messages; of all others nothing but PUBREC comes."""
    conn.connack()
    conn.serve(until=lambda: len(conn.broker.delivered) >= 3)
    while True:
        packet = conn.read()
        if packet.kind in (wire.PUBLISH, wire.PINGREQ):
            conn.take(packet)


@pytest.mark.parametrize("version", VERSIONS)
def test_nodes_of_a_cluster_share_a_session(make_daemon, make_fake, version):
    """What was left clean at one node is not, once another was used: new
    messages would be taken for old ones of the same identifier, and lost."""
    a, b = make_fake(), make_fake(OnLasting(three_then_half))
    b._sessions = a._sessions
    daemon = start(make_daemon, a, b, version=version, inflight_max=10)
    feed(daemon, 2, qos=2)
    a.wait_delivered(2)
    Database(daemon.queue_path).wait_empty()
    daemon.stop()
    # As with SRV records, whose weights draw another order each time.
    use_brokers(daemon, b.port, a.port)
    daemon.start()
    wait_connected(daemon, b)
    feed(daemon, 3, first=2, qos=2)
    b.wait_delivered(3)
    Database(daemon.queue_path).wait_empty()
    feed(daemon, 10, first=5, qos=2)
    wait_until(lambda: in_flight(b) >= 8, 20, "exchanges in flight at B")
    daemon.kill9()
    b.down()
    use_brokers(daemon, a.port, b.port)
    daemon.start()
    wait_all([a, b], payloads(15))
    Database(daemon.queue_path).wait_empty()


@pytest.mark.parametrize("version", VERSIONS)
def test_qos2_over_a_fail_back_comes_once(make_daemon, make_fake, version):
    """B is left only when all in flight there is done: no duplicate."""
    a, b = make_fake(), make_fake()
    a.down()
    daemon = start(make_daemon, a, b, version=version)
    wait_connected(daemon, b)
    feeder = Feeder(daemon.socket_path, numbered(3000, qos=2))
    b.wait_delivered(100)
    a.up()
    wait_connected(daemon, a)
    all_queued(feeder.join(), range(3000))
    feed(daemon, 10, first=3000, qos=2)
    wait_all([a, b], payloads(3010), 40)
    Database(daemon.queue_path).wait_empty(40)
    assert b.payloads() + a.payloads() == payloads(3010)


def test_fail_over_while_the_queue_is_fed(make_daemon, make_fake):
    """Changes under load: all there, nobody refused."""
    a, b = make_fake(), make_fake()
    daemon = start(make_daemon, a, b, retry={"failback": 0.2})
    for number in range(4):
        feeder = Feeder(
            daemon.socket_path, numbered(500, first=1000 * number)
        )
        a.wait_delivered(len(a.delivered) + 50)
        a.down()
        all_queued(feeder.join(), range(1000 * number, 1000 * number + 500))
        feeder = Feeder(
            daemon.socket_path, numbered(500, first=1000 * number + 500)
        )
        b.wait_delivered(len(b.delivered) + 50)
        a.up()
        all_queued(
            feeder.join(), range(1000 * number + 500, 1000 * number + 1000)
        )
        wait_connected(daemon, a, number + 2)
    wait_all([a, b], payloads(4000), 40)
    Database(daemon.queue_path).wait_empty(40)
