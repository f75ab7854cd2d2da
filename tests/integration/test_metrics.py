# SPDX-License-Identifier: MIT
"""Metrics and health: what Prometheus sees is what happened.

A real Prometheus scrapes the daemon every second; what it has is held against
what the test did. Then HTTP itself: who asks badly, slowly or too often holds
up no message.
"""

import json
import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest
from harness import TIME_FACTOR, Client, Database, wait_until
from harness import mqttwire as wire
from harness.fakebroker import OnLasting
from harness.ports import LOOPBACK, free_port
from harness.prometheus import Prometheus, installed
from harness.steps import feed, numbered
from test_idle import settle, sleep_for, wakeups, written

GET = b"GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n"


@pytest.fixture
def make_watched(make_daemon):
    """Makes a daemon (not started yet) that serves metrics."""

    def make(broker_port, **groups):
        port = free_port()
        daemon = make_daemon(
            broker_port, metrics={"listen": f"{LOOPBACK}:{port}"}, **groups
        )
        daemon.http_port = port
        if not daemon.has_http:
            pytest.skip("NOT TESTED: this build has no HTTP")
        return daemon

    return make


@pytest.fixture
def make_prometheus():
    """Makes one that runs and scrapes a daemon."""
    if not installed():
        pytest.skip("NOT TESTED: no prometheus (package prometheus)")
    made = []

    def make(daemon):
        made.append(Prometheus(f"{LOOPBACK}:{daemon.http_port}"))
        return made[-1].start()

    yield make
    for prometheus in made:
        prometheus.close()


def dial(daemon):
    return socket.create_connection(
        (LOOPBACK, daemon.http_port), timeout=20 * TIME_FACTOR
    )


def read_all(connection):
    data = b""
    with connection:
        while True:
            piece = connection.recv(65536)
            if not piece:
                return data
            data += piece


def exchange(daemon, request=GET):
    """Send bytes; the answer's status, headers and body."""
    connection = dial(daemon)
    connection.sendall(request)
    head, _, body = read_all(connection).partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    return int(status.split()[1]), headers, body


def get(daemon, path):
    return exchange(daemon, b"GET %s HTTP/1.1\r\nHost: h\r\n\r\n" % path)


def sample(daemon, name):
    """One value, as it is served now."""
    for line in get(daemon, b"/metrics")[2].decode().splitlines():
        if line.startswith(name + " "):
            return float(line.split()[-1])
    raise AssertionError(f"there is no {name}")


# --- as Prometheus sees it -------------------------------------------------


@pytest.mark.long
@pytest.mark.timeout(120)
def test_prometheus_sees_what_happened(
    make_watched, mosquitto, make_prometheus
):
    daemon = make_watched(mosquitto.port).start()
    prometheus = make_prometheus(daemon)
    prometheus.wait_value("mqttgw_connection_up", 1)
    feed(daemon, 30, qos=1)
    feed(daemon, 10, qos=0)
    feed(daemon, 5, qos=2)
    with Client(daemon.socket_path) as client:
        for bad in [b"{]\n"] * 3 + [b'{"topic":"a/#"}\n'] * 2:
            client.ask(bad)
    Database(daemon.queue_path).wait_empty()
    prometheus.wait_value("sum(mqttgw_messages_delivered_total)", 45)
    prometheus.wait_value("sum(mqttgw_messages_refused_total)", 5)
    by_qos = {"0": 10, "1": 30, "2": 5}
    for name in ("accepted", "delivered"):
        counts = prometheus.values(f"mqttgw_messages_{name}_total", "qos")
        assert counts == by_qos
    refused = prometheus.values("mqttgw_messages_refused_total > 0", "error")
    assert refused == {"bad-json": 3, "bad-topic": 2}
    prometheus.wait_value("mqttgw_queue_messages", 0)
    prometheus.wait_value("mqttgw_delivery_seconds_count", 45)
    assert prometheus.value("mqttgw_queue_oldest_seconds") == 0
    assert prometheus.value("mqttgw_reconnect_seconds_count") == 0
    assert prometheus.value("up") == 1
    states = prometheus.values("mqttgw_uplink_state == 1", "state")
    assert states == {"connected": 1}

    # The broker goes, a backlog grows, and drains when it is back.
    mosquitto.stop()
    feed(daemon, 25, qos=1)
    prometheus.wait_value("mqttgw_queue_messages", 25)
    prometheus.wait_value("mqttgw_connection_up", 0)
    assert prometheus.value("mqttgw_queue_oldest_seconds") > 0
    wait_until(
        lambda: prometheus.value(
            'mqttgw_connect_attempts_total{result="timeout"}'
        ),
        20.0, "refused connections counted", 0.2,
    )
    # One that is not connected for long is on its way to an alert.
    wait_until(
        lambda: prometheus.value(
            'ALERTS{alertname="MqttGatewayNotConnected"}'
        ),
        20.0, "the alert is pending", 0.2,
    )
    mosquitto.start()
    prometheus.wait_value("sum(mqttgw_messages_delivered_total)", 70)
    prometheus.wait_value("mqttgw_reconnect_seconds_count", 1)
    prometheus.wait_value(
        'mqttgw_connect_attempts_total{result="success"}', 2
    )
    prometheus.wait_value("mqttgw_queue_messages", 0)
    assert prometheus.value("mqttgw_reconnect_seconds_sum") > 0
    prometheus.wait_value("mqttgw_connection_up", 1)
    rules = [
        rule
        for group in prometheus.api("rules")["groups"]
        for rule in group["rules"]
    ]
    assert {rule["health"] for rule in rules} == {"ok"}
    assert sum(rule["type"] == "alerting" for rule in rules) == 13
    assert prometheus.value("mqttgw:connect_success:ratio1h") is not None

    # And when the daemon is gone.
    daemon.stop()
    prometheus.wait_value("up", 0)


@pytest.mark.long
@pytest.mark.timeout(90)
def test_prometheus_sees_drops_and_refusals(
    make_watched, make_fake, make_prometheus
):
    def refuse(conn):
        conn.expect_connect()
        conn.connack(code=0x87)
        conn.finish()

    broker = make_fake(refuse)
    daemon = make_watched(
        broker.port, queue={"max_messages": 10, "overflow": "drop-oldest"}
    ).start()
    prometheus = make_prometheus(daemon)
    feed(daemon, 30)
    prometheus.wait_value(
        'mqttgw_messages_dropped_total{reason="overflow"}', 20
    )
    prometheus.wait_value("sum(mqttgw_messages_dropped_total)", 20)
    prometheus.wait_value("mqttgw_queue_messages", 10)
    wait_until(
        lambda: prometheus.value(
            'mqttgw_connect_attempts_total{result="auth"}'
        ),
        20.0, "a refused attempt is counted", 0.2,
    )
    failed = prometheus.values("mqttgw_connect_attempts_total > 0", "result")
    assert set(failed) == {"auth"}
    name = f"{LOOPBACK}:{broker.port}"
    assert prometheus.values("mqttgw_connection_up", "broker") == {name: 0}
    # What grows under Prometheus's eyes raises the alerts without patience.
    feed(daemon, 30, first=30)
    for alert in ("MqttGatewayMessagesDropped", "MqttGatewayAuthRefused"):
        prometheus.wait_value(
            f'count(ALERTS{{alertname="{alert}",alertstate="firing"}})', 1
        )
    firing = prometheus.values('ALERTS{alertstate="firing"}', "alertname")
    assert set(firing) == {
        "MqttGatewayMessagesDropped", "MqttGatewayAuthRefused"
    }


@pytest.mark.long
@pytest.mark.timeout(90)
def test_prometheus_sees_a_clone(make_watched, make_fake, make_prometheus):
    def throw_out(conn):
        conn.connack()
        time.sleep(0.3)
        conn.disconnect(0x8E)
        conn.finish()

    daemon = make_watched(
        make_fake(OnLasting(throw_out)).port,
        mqtt={"version": "5"},
        retry={"base": 0.1, "max": 2.0, "jitter": "none"},
    ).start()
    prometheus = make_prometheus(daemon)
    prometheus.wait_value(
        'count(ALERTS{alertname="MqttGatewayIdTakenOver",'
        'alertstate="firing"})',
        1,
    )
    firing = prometheus.values('ALERTS{alertstate="firing"}', "alertname")
    assert set(firing) <= {"MqttGatewayIdTakenOver", "MqttGatewayFlapping"}


def test_promtool_finds_no_fault(make_watched, mosquitto):
    if not shutil.which("promtool"):
        pytest.skip("NOT TESTED: no promtool (package prometheus)")
    daemon = make_watched(mosquitto.port).start()
    feed(daemon, 10)
    Database(daemon.queue_path).wait_empty()
    status, headers, body = get(daemon, b"/metrics")
    assert status == 200
    assert headers["Content-Type"].startswith("text/plain; version=0.0.4")
    said = subprocess.run(
        ["promtool", "check", "metrics"], input=body, capture_output=True
    )
    assert (said.returncode, said.stdout, said.stderr) == (0, b"", b"")


# --- health ----------------------------------------------------------------


def test_healthy_without_a_broker(make_watched):
    daemon = make_watched(free_port()).start()
    feed(daemon, 3)
    status, headers, body = get(daemon, b"/healthz")
    assert status == 200
    assert headers["Content-Type"] == "application/json"
    assert headers["Cache-Control"] == "no-store"
    answer = json.loads(body)
    assert answer["status"] == "ok"
    assert answer["messages"] == 3


def test_not_healthy_while_stopping(make_watched, make_fake):
    """503 until the very end of a stop that takes its time."""

    def hold(conn):
        conn.connack()
        while True:
            conn.read(timeout=60)

    broker = make_fake(OnLasting(hold))
    daemon = make_watched(broker.port).start()
    feed(daemon, 1)

    def sent():
        received = [p for conn in broker.lasting() for p in conn.received]
        return any(isinstance(p, wire.Publish) for p in received)

    wait_until(sent, 10.0, "the message is in flight")
    assert get(daemon, b"/healthz")[0] == 200
    daemon.terminate()
    wait_until(
        lambda: get(daemon, b"/healthz")[0] == 503, 5.0, "503", 0.01
    )
    status, _, body = get(daemon, b"/healthz")
    assert status == 503
    assert json.loads(body) == {"status": "failing", "reason": "stopping"}
    # Whatever else is asked meanwhile is answered, too.
    assert sample(daemon, "mqttgw_queue_messages") == 1
    assert daemon.process.running()
    assert daemon.wait() == 0
    with pytest.raises(ConnectionRefusedError):
        get(daemon, b"/healthz")


# --- HTTP ------------------------------------------------------------------


def test_methods_and_paths(make_watched):
    daemon = make_watched(free_port()).start()
    status, headers, body = get(daemon, b"/metrics")
    head = exchange(daemon, b"HEAD /metrics HTTP/1.1\r\nHost: h\r\n\r\n")
    assert (status, head[0], head[2]) == (200, 200, b"")
    assert head[1]["Content-Type"] == headers["Content-Type"]
    assert int(headers["Content-Length"]) == len(body)
    assert get(daemon, b"/")[0] == 404
    status, headers, _ = exchange(
        daemon, b"POST /metrics HTTP/1.1\r\nHost: h\r\n"
        b"Content-Length: 3\r\n\r\nabc"
    )
    assert (status, headers["Allow"]) == (405, "GET, HEAD")


def test_flood_of_lines_and_of_http(make_watched, measured):
    """Scrapes, connections and half requests hold up no line, and lines no
    scrape."""
    daemon = make_watched(free_port()).start()
    count = 100_000
    done = threading.Event()
    took, failed = [], []

    def scrape():
        while not done.is_set():
            begin = time.monotonic()
            try:
                assert get(daemon, b"/metrics")[0] == 200
            except Exception as error:
                failed.append(error)
                return
            took.append(time.monotonic() - begin)
            done.wait(0.05)

    half = [dial(daemon) for _ in range(8)]
    for connection in half:
        connection.sendall(b"GET /met")
    threads = [threading.Thread(target=scrape) for _ in range(3)]
    for thread in threads:
        thread.start()
    begin = time.monotonic()
    try:
        with Client(daemon.socket_path, timeout=60) as client:
            replies = client.feed(numbered(count))
    finally:
        seconds = time.monotonic() - begin
        done.set()
        for thread in threads:
            thread.join()
    for connection in half:
        connection.close()
    assert [reply["id"] for reply in replies] == list(range(count))
    assert {reply["status"] for reply in replies} == {"queued"}
    assert not failed
    assert len(took) > 3
    assert max(took) < 5 * TIME_FACTOR
    assert sample(daemon, 'mqttgw_messages_accepted_total{qos="1"}') == count
    measured(
        f"metrics: {count} lines in {seconds:.1f} s beside {len(took)} "
        f"scrapes, the longest {1000 * max(took):.0f} ms, mean "
        f"{1000 * sum(took) / len(took):.1f} ms"
    )


def test_storm_of_connections(make_watched):
    """Hundreds that say nothing: messages are accepted all the while, and
    memory and descriptors stay bounded."""
    daemon = make_watched(free_port()).start()
    before = daemon.memory()
    storm = []
    for _ in range(40):
        connection = socket.socket()
        connection.setblocking(False)
        connection.connect_ex((LOOPBACK, daemon.http_port))
        storm.append(connection)
        feed(daemon, 5, first=5 * len(storm))
    open_now = len(list(Path(f"/proc/{daemon.process.pid}/fd").iterdir()))
    assert open_now < 60
    if not daemon.sanitized:
        assert daemon.memory() - before < 4 << 20
    for connection in storm:
        connection.close()
    wait_until(
        lambda: get(daemon, b"/healthz")[0] == 200, 10.0, "it is served again"
    )
    cpu = daemon.cpu_seconds()
    sleep_for(1)
    assert daemon.cpu_seconds() - cpu < 0.3 * TIME_FACTOR


def test_address_in_use(make_watched):
    """Messages come first; the metrics come when the address is free."""
    daemon = make_watched(free_port())
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind((LOOPBACK, daemon.http_port))
        other.listen()
        daemon.start()
        daemon.wait_output(r"error: cannot serve metrics on .*in use; end the")
        feed(daemon, 5)
    daemon.wait_output(r"notice: metrics on http://", 20.0)
    assert sample(daemon, "mqttgw_queue_messages") == 5
    assert daemon.output().count("cannot serve metrics") == 1


def test_built_without(make_daemon):
    """Said once, and no reason not to run."""
    address = f"{LOOPBACK}:{free_port()}"
    daemon = make_daemon(free_port(), metrics={"listen": address})
    if daemon.has_http:
        pytest.skip("this build has HTTP")
    checked = daemon.run("--check-config", "-c", str(daemon.config_path))
    assert checked.returncode == 0
    daemon.start()
    daemon.wait_output(r'warning: metrics.listen = .* this build has no HTTP')
    feed(daemon, 5)


@pytest.mark.long
@pytest.mark.timeout(90)
def test_nobody_asks_nothing_wakes(make_watched, mosquitto, measured):
    daemon = make_watched(mosquitto.port, mqtt={"keepalive": 60}).start()
    daemon.wait_output(r"connecting -> connected")
    connected = time.monotonic()
    feed(daemon, 10)
    Database(daemon.queue_path).wait_empty()
    assert get(daemon, b"/metrics")[0] == 200
    settle(daemon)
    before, bytes_before = wakeups(daemon), written(daemon)
    sleep_for(12)
    after, bytes_after = wakeups(daemon), written(daemon)
    assert time.monotonic() - connected < 58, "too slow: a PINGREQ was due"
    woken = {name: after[name] - before[name] for name in after}
    measured(f"metrics: 12 s after the last scrape: wake-ups {woken}")
    assert woken == {"gateway": 0, "uplink": 0}
    assert bytes_after == bytes_before
