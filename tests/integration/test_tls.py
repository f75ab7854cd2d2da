# SPDX-License-Identifier: MIT
"""TLS towards the broker: what connects, and what a failure is called."""

import re
import socket
import ssl
import threading

import pytest
from harness import TIME_FACTOR, Client, wait_until
from harness import mqttwire as wire
from harness.tls import (
    Peer,
    mosquitto_options,
    server_context,
)

HOST = "localhost"


@pytest.fixture
def make_peer():
    made = []

    def make(script):
        peer = Peer(script)
        made.append(peer)
        return peer

    yield make
    for peer in made:
        peer.close()


@pytest.fixture
def start(make_daemon):
    """Starts a daemon whose broker is reached with these TLS settings."""

    def begin(port, tls, host=HOST, **groups):
        return make_daemon(
            port, broker={"host": host, "tls": tls}, **groups
        ).start()

    return begin


def wait_failure(daemon, kind, text):
    """Wait for the log's line of a failure of this class."""
    daemon.wait_output(rf"{text}.*\({kind}\)", timeout=20.0)


def tls_broker(make_mosquitto, pair, **more):
    return make_mosquitto(options=mosquitto_options(pair, **more)).start()


def assert_delivers(daemon, count=20):
    """Messages of every QoS arrive and leave the queue."""
    with Client(daemon.socket_path) as client:
        replies = [
            client.ask(f'{{"topic":"t","payload":"{n}","qos":{n % 3},"id":{n}}}')
            for n in range(count)
        ]
    assert all(reply["status"] == "queued" for reply in replies)


# --- what works -------------------------------------------------------------


def receive(port, certs):
    """A paho client over TLS; returns it and what it got."""
    import paho.mqtt.client as paho

    got = []
    client = paho.Client("tls-subscriber")
    client.tls_set(certs.ca.cert)
    client.on_connect = lambda c, *_: c.subscribe("#", 2)
    subscribed = []
    client.on_subscribe = lambda *_: subscribed.append(True)
    client.on_message = lambda c, u, m: got.append(m.payload)
    client.connect(HOST, port)
    client.loop_start()
    wait_until(lambda: subscribed, 10.0, "subscriber is there")
    return client, got


@pytest.mark.parametrize("version", ["tlsv1.2", "tlsv1.3"])
@pytest.mark.parametrize("mqtt", ["5", "3.1.1"])
def test_trusted_broker_gets_messages(
    make_mosquitto, start, certs, version, mqtt
):
    broker = tls_broker(make_mosquitto, certs.server, tls_version=version)
    client, got = receive(broker.port, certs)
    try:
        daemon = start(
            broker.port, {"ca_file": certs.ca.cert}, mqtt={"version": mqtt}
        )
        assert_delivers(daemon, 30)
        wait_until(lambda: len(set(got)) == 30, 20.0, "30 messages")
        daemon.stop()
    finally:
        client.disconnect()
        client.loop_stop()


def test_large_message_both_ways_of_waiting(make_mosquitto, start, certs):
    """More than a record, more than the socket's buffer."""
    broker = tls_broker(make_mosquitto, certs.server)
    client, got = receive(broker.port, certs)
    try:
        daemon = start(
            broker.port,
            {"ca_file": certs.ca.cert},
            socket={"max_message_bytes": "8M", "max_buffered_bytes": "64M"},
            mqtt={"inflight_bytes": "64M"},
        )
        with Client(daemon.socket_path) as sender:
            for n in range(6):
                reply = sender.ask(
                    f'{{"topic":"t","qos":1,"payload":"{str(n) * 4000000}",'
                    f'"id":{n}}}'
                )
                assert reply["status"] == "queued"
        wait_until(lambda: len(got) >= 6, 30.0, "6 large messages")
        assert sorted(set(map(len, got))) == [4000000]
    finally:
        client.disconnect()
        client.loop_stop()


def test_delivery_goes_on_after_a_restart(make_mosquitto, start, certs):
    """One client object over several TLS connections."""
    broker = tls_broker(make_mosquitto, certs.server)
    daemon = start(broker.port, {"ca_file": certs.ca.cert})

    def count(pattern):
        return len(re.findall(pattern, daemon.output()))

    for n in range(1, 4):
        wait_until(
            lambda n=n: count(r"-> connected") >= n, 10.0, f"connection {n}"
        )
        broker.restart()
        wait_until(
            lambda n=n: count(r"\(heartbeat\)") >= n, 10.0, f"end {n}"
        )
    client, got = receive(broker.port, certs)
    try:
        assert_delivers(daemon, 10)
        wait_until(lambda: len(set(got)) == 10, 20.0, "10 messages")
    finally:
        client.disconnect()
        client.loop_stop()


def test_system_certificates(make_mosquitto, make_daemon, certs):
    """Without a CA file the system's count, which OpenSSL lets us name."""
    broker = tls_broker(make_mosquitto, certs.server)
    daemon = make_daemon(broker.port, broker={"host": HOST, "tls": {}})
    daemon.extra_env["SSL_CERT_FILE"] = certs.ca.cert
    daemon.start()
    daemon.wait_output(r"-> connected")


def test_system_certificates_do_not_know_ours(make_mosquitto, start, certs):
    broker = tls_broker(make_mosquitto, certs.server)
    daemon = start(broker.port, {})
    wait_failure(daemon, "protocol", "certificate is not trusted")


def test_numeric_host(make_mosquitto, start, certs):
    """The certificate's IP address counts."""
    broker = tls_broker(make_mosquitto, certs.server)
    daemon = start(
        broker.port, {"ca_file": certs.ca.cert}, host="127.0.0.1"
    )
    daemon.wait_output(r"-> connected")


def test_insecure_takes_any_certificate(make_mosquitto, start, certs):
    broker = tls_broker(make_mosquitto, certs.expired)
    daemon = start(broker.port, {"insecure": True}, host="127.0.0.1")
    daemon.wait_output(r"-> connected")


def test_client_certificate(make_mosquitto, start, certs):
    broker = tls_broker(make_mosquitto, certs.server, ca=certs.ca.cert)
    daemon = start(
        broker.port,
        {
            "ca_file": certs.ca.cert,
            "cert_file": certs.client.cert,
            "key_file": certs.client.key,
        },
    )
    daemon.wait_output(r"-> connected")


def test_renewed_files_are_taken(make_mosquitto, start, certs, tmp_path):
    """The CA's file is replaced while the daemon tries."""
    bundle = tmp_path / "ca.pem"
    bundle.write_text(open(certs.other_ca.cert).read())
    broker = tls_broker(make_mosquitto, certs.server)
    daemon = start(
        broker.port,
        {"ca_file": str(bundle)},
        retry={"set_aside": 0.2, "base": 0.05, "max": 0.2, "stable": 5.0},
    )
    wait_failure(daemon, "protocol", "certificate is not trusted")
    bundle.write_text(open(certs.ca.cert).read())
    daemon.wait_output(r"-> connected", timeout=20.0)


# --- the broker's certificate ----------------------------------------------


@pytest.mark.parametrize(
    "which, authority, text",
    [
        ("server", "other_ca", "broker's certificate is not trusted: "
         "(unable to get local issuer|self-signed)"),
        ("wrong_name", "ca", 'broker\'s certificate is not for "localhost"'),
        ("expired", "ca", "broker's certificate has expired"),
        ("future", "ca", "certificate is not valid yet.*clock may be wrong"),
    ],
)
def test_bad_broker_certificate(
    make_mosquitto, start, certs, which, authority, text
):
    broker = tls_broker(make_mosquitto, getattr(certs, which))
    daemon = start(
        broker.port, {"ca_file": getattr(certs, authority).cert}
    )
    wait_failure(daemon, "protocol", text)
    assert "next attempt with MQTT" not in daemon.output()


def test_wrong_numeric_name(make_mosquitto, start, certs):
    broker = tls_broker(make_mosquitto, certs.wrong_name)
    daemon = start(
        broker.port, {"ca_file": certs.ca.cert}, host="127.0.0.1"
    )
    wait_failure(
        daemon, "protocol", 'broker\'s certificate is not for "127.0.0.1"'
    )


def test_self_signed_in_chain(make_mosquitto, start, certs, tmp_path):
    """The chain shows a CA that nobody here knows."""
    chain = tmp_path / "chain.pem"
    chain.write_text(
        open(certs.server.cert).read() + open(certs.ca.cert).read()
    )
    broker = tls_broker(
        make_mosquitto, certs.server._replace(cert=str(chain))
    )
    daemon = start(broker.port, {"ca_file": certs.other_ca.cert})
    wait_failure(
        daemon,
        "protocol",
        "broker's certificate is not trusted: self-signed certificate in "
        "certificate chain",
    )


# --- ours --------------------------------------------------------------------


@pytest.mark.parametrize(
    "version, which, kind, text",
    [
        ("TLSv1_3", None, "auth", "broker wants a client certificate: "
         "certificate required"),
        ("TLSv1_3", "foreign_client", "auth",
         "broker refused the client certificate: unknown CA"),
        ("TLSv1_2", None, "protocol",
         "broker refused the TLS handshake: handshake failure"),
        ("TLSv1_2", "foreign_client", "auth",
         "broker refused the client certificate: unknown CA"),
    ],
)
def test_client_certificate_refused(
    make_peer, start, certs, version, which, kind, text
):
    """With TLS 1.3 the refusal comes when the client feels connected."""
    context = server_context(certs.server)
    context.maximum_version = getattr(ssl.TLSVersion, version)
    context.load_verify_locations(certs.ca.cert)
    context.verify_mode = ssl.CERT_REQUIRED

    def script(sock):
        context.wrap_socket(sock, server_side=True).recv(1000)

    peer = make_peer(script)
    tls = {"ca_file": certs.ca.cert}
    if which:
        pair = getattr(certs, which)
        tls.update(cert_file=pair.cert, key_file=pair.key)
    daemon = start(peer.port, tls, mqtt={"version": "auto"})
    wait_failure(daemon, kind, text)
    assert "next attempt with MQTT" not in daemon.output()


@pytest.mark.parametrize("which", [None, "foreign_client"])
def test_mosquitto_refuses_the_client_certificate(
    make_mosquitto, start, certs, which
):
    broker = tls_broker(make_mosquitto, certs.server, ca=certs.ca.cert)
    tls = {"ca_file": certs.ca.cert}
    if which:
        pair = getattr(certs, which)
        tls.update(cert_file=pair.cert, key_file=pair.key)
    daemon = start(broker.port, tls)
    wait_failure(daemon, "auth", "client certificate")


def test_key_of_another_certificate(make_mosquitto, start, certs):
    broker = tls_broker(make_mosquitto, certs.server)
    daemon = start(
        broker.port,
        {
            "ca_file": certs.ca.cert,
            "cert_file": certs.client.cert,
            "key_file": certs.server.key,
        },
    )
    wait_failure(daemon, "protocol", "client certificate")


# --- not TLS, or not to its end ----------------------------------------------


def test_plain_broker_on_the_tls_port(mosquitto, start, certs):
    daemon = start(mosquitto.port, {"ca_file": certs.ca.cert})
    wait_failure(daemon, "timeout", "during the TLS handshake")


def test_peer_that_greets_in_plain_text(make_peer, start, certs):
    def script(sock):
        sock.sendall(b"220 mail.example.com ESMTP\r\n")
        sock.recv(1000)

    peer = make_peer(script)
    daemon = start(peer.port, {"ca_file": certs.ca.cert})
    wait_failure(daemon, "protocol", "does not speak TLS on this port")


@pytest.mark.parametrize("rst", [False, True])
def test_cut_after_the_client_hello(make_peer, start, certs, rst):
    def script(sock):
        sock.recv(10000)
        if rst:
            sock.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0"
            )

    peer = make_peer(script)
    daemon = start(
        peer.port, {"ca_file": certs.ca.cert}, mqtt={"version": "auto"}
    )
    wait_failure(daemon, "timeout", "during the TLS handshake")
    wait_until(lambda: peer.accepted >= 2, 10.0, "another attempt")
    assert "next attempt with MQTT" not in daemon.output()


def test_silence_after_the_client_hello(make_peer, start, certs):
    """The deadline of the attempt holds, and meanwhile nothing spins."""

    def script(sock):
        sock.recv(10000)
        sock.recv(10000)

    peer = make_peer(script)
    daemon = start(
        peer.port, {"ca_file": certs.ca.cert}, mqtt={"connect_timeout": 3.0}
    )
    wait_until(lambda: peer.accepted, 10.0, "a connection")
    before = daemon.cpu_seconds()
    wait_failure(daemon, "timeout", "no connection within")
    assert daemon.cpu_seconds() - before < 1.5


def test_refused_port(start, certs):
    from harness.ports import free_port

    daemon = start(free_port(), {"ca_file": certs.ca.cert})
    wait_failure(daemon, "timeout", "[Cc]onnection refused")


def test_without_tls_to_a_tls_port(make_mosquitto, make_daemon, certs):
    """It hangs up; nothing tells that from a broker that is unwell."""
    broker = tls_broker(make_mosquitto, certs.server)
    daemon = make_daemon(broker.port).start()
    wait_failure(daemon, "timeout", "hung up before its CONNACK")


# --- what the peer sees --------------------------------------------------------


def test_sni_and_alpn(make_peer, start, certs):
    context = server_context(certs.server)
    names, protocols = [], []
    context.sni_callback = lambda s, name, c: names.append(name)
    context.set_alpn_protocols(["mqtt"])

    def script(sock):
        with context.wrap_socket(sock, server_side=True) as wrapped:
            protocols.append(wrapped.selected_alpn_protocol())
            wrapped.recv(1000)

    peer = make_peer(script)
    start(peer.port, {"ca_file": certs.ca.cert, "alpn": "mqtt"})
    wait_until(lambda: protocols, 10.0, "a TLS connection")
    assert names[0] == HOST
    assert protocols[0] == "mqtt"


def test_no_sni_for_an_address(make_peer, start, certs):
    context = server_context(certs.server)
    names, protocols = [], []
    context.sni_callback = lambda s, name, c: names.append(name)

    def script(sock):
        with context.wrap_socket(sock, server_side=True) as wrapped:
            protocols.append(wrapped.selected_alpn_protocol())
            wrapped.recv(1000)

    peer = make_peer(script)
    start(peer.port, {"ca_file": certs.ca.cert}, host="127.0.0.1")
    wait_until(lambda: protocols, 10.0, "a TLS connection")
    assert names[0] is None
    assert protocols[0] is None


def serve_mqtt(context, behave):
    """A script: TLS, CONNECT read; ``behave(sock, connect)`` goes on."""

    def script(sock):
        with context.wrap_socket(sock, server_side=True) as wrapped:
            data = b""
            packet = None
            while not packet:
                more = wrapped.recv(4096)
                if not more:
                    return
                packet, data = wire.split(data + more)
            connect = wire.parse_connect(packet[1], packet[2])
            behave(wrapped, connect)

    return script


@pytest.mark.parametrize("end", ["close_notify", "fin", "rst"])
@pytest.mark.parametrize("connack", [True, False])
def test_end_after_the_handshake(make_peer, start, certs, end, connack):
    """Heartbeat after the CONNACK, timeout before it, however it ends."""

    go_on = threading.Event()

    def behave(sock, connect):
        if connack:
            sock.sendall(wire.connack(connect.version))
        if connack and not connect.lasting:
            # It only clears the session; its DISCONNECT follows.
            sock.recv(1000)
            return
        if connack:
            # A reset throws away what is still on its way.
            go_on.wait(20.0 * TIME_FACTOR)
        if end == "close_notify":
            try:
                sock.unwrap()
            except OSError:
                pass
        elif end == "rst":
            sock.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0"
            )

    peer = make_peer(serve_mqtt(server_context(certs.server), behave))
    daemon = start(peer.port, {"ca_file": certs.ca.cert})
    if connack:
        daemon.wait_output(r"-> connected")
        go_on.set()
    wait_failure(
        daemon,
        "heartbeat" if connack else "timeout",
        "(closed by the broker|reset|hung up before its CONNACK)",
    )
    assert "(protocol)" not in daemon.output()
