# SPDX-License-Identifier: MIT
"""Where the list of brokers comes from: SRV records, a file that is watched.

Name servers are real (dnsmasq) and listen on an address of 127.0.0.0/8 of
their own; the daemon sees another resolv.conf in a mount namespace of its own,
which takes root.
"""

import os
import random
import shutil
import subprocess

import pytest
from harness import Client, Database, config_text
from harness.client import all_queued
from harness.ports import LOOPBACK, free_port
from harness.process import Process

DNSMASQ = shutil.which("dnsmasq", path="/usr/sbin:/usr/bin:/sbin:/bin")
SRV = "_mqtt._tcp.gateway.test"


def write_brokers(path, *ports):
    """The file is there as a whole or not at all."""
    text = config_text(
        {"brokers": [{"host": LOOPBACK, "port": port} for port in ports]}
    )
    replace(path, text)


def replace(path, text):
    following = path.with_name(path.name + ".tmp")
    following.write_text(text)
    following.rename(path)


def deliver(daemon, subscriber, *names):
    """Hand in so many messages and see them arrive."""
    with Client(daemon.socket_path) as client:
        all_queued(
            client.feed(
                {"topic": "t", "payload": name, "id": number}
                for number, name in enumerate(names)
            ),
            range(len(names)),
        )
    subscriber.wait_payloads([name.encode() for name in names])
    Database(daemon.queue_path).wait_empty()


def wait_moved(daemon, port):
    """The uplink is connected to that broker."""
    daemon.wait_output(rf":{port}: connecting -> connected", 30)


@pytest.fixture
def make_found(make_daemon):
    """Makes daemons without a configured list."""

    def make(discovery, **groups):
        daemon = make_daemon(free_port(), **groups)
        del daemon.settings["brokers"]
        daemon.settings["discovery"] = discovery
        daemon.write_config()
        return daemon

    return make


@pytest.fixture
def list_file(tmp_path):
    """Where the watched file is; not there yet."""
    directory = tmp_path / "rendered"
    directory.mkdir()
    return directory / "brokers.conf"


# --- a file -----------------------------------------------------------------


def test_file_is_followed(
    make_found, make_mosquitto, make_subscriber, list_file
):
    """A broker that vanishes from the file is left for the one in it."""
    one, two = make_mosquitto().start(), make_mosquitto().start()
    first, second = make_subscriber(one.port), make_subscriber(two.port)
    write_brokers(list_file, one.port)
    daemon = make_found({"file": str(list_file)}).start()
    deliver(daemon, first, "m1", "m2")
    write_brokers(list_file, two.port)
    wait_moved(daemon, two.port)
    deliver(daemon, second, "m3", "m4")
    assert b"m3" not in first.payloads()


def test_broken_file_changes_nothing(
    make_found, make_mosquitto, make_subscriber, list_file
):
    """A file with faults is told of, by line; the old list stays."""
    broker = make_mosquitto().start()
    subscriber = make_subscriber(broker.port)
    write_brokers(list_file, broker.port)
    daemon = make_found({"file": str(list_file)}).start()
    deliver(daemon, subscriber, "m1")
    replace(list_file, "brokers: (\n  { host = 7; }\n);\n")
    daemon.wait_output(r"brokers\.conf:2: ")
    deliver(daemon, subscriber, "m2")
    list_file.unlink()
    daemon.wait_output(r"brokers\.conf.*No such file")
    deliver(daemon, subscriber, "m3")
    assert daemon.output().count("connecting -> connected") == 1


@pytest.mark.parametrize("lost", ["missing", "broken"])
def test_start_with_the_kept_list(
    make_found, make_mosquitto, make_subscriber, list_file, lost
):
    """Without its file the daemon starts with the list of last time."""
    broker = make_mosquitto().start()
    subscriber = make_subscriber(broker.port)
    write_brokers(list_file, broker.port)
    daemon = make_found({"file": str(list_file)}).start()
    deliver(daemon, subscriber, "m1")
    daemon.stop()
    kept = daemon.queue_path.with_name(daemon.queue_path.name + ".brokers")
    assert kept.stat().st_mode & 0o7777 == 0o600
    if lost == "missing":
        list_file.unlink()
    else:
        replace(list_file, "brokers: (")
    daemon.start()
    daemon.wait_output(r"using the list of brokers kept in .*queue\.db\.brokers")
    deliver(daemon, subscriber, "m2")


def test_start_without_any_list(
    make_found, make_mosquitto, make_subscriber, list_file
):
    """Messages are accepted; the file that comes later is used at once."""
    broker = make_mosquitto().start()
    subscriber = make_subscriber(broker.port)
    daemon = make_found({"file": str(list_file)}).start()
    with Client(daemon.socket_path) as client:
        client.publish(topic="t", payload="early", id=1)
        assert client.reply()["status"] == "queued"
    write_brokers(list_file, broker.port)
    subscriber.wait_payloads([b"early"])


# --- SRV records ------------------------------------------------------------


class NameServer:
    """dnsmasq on an address of its own, with SRV records for ports."""

    def __init__(self, directory):
        assert DNSMASQ, "dnsmasq is not installed (dnsmasq-base)"
        self.address = "127.%d.%d.%d" % tuple(
            random.randint(2, 250) for _ in range(3)
        )
        self.resolv_conf = directory / "resolv.conf"
        self.resolv_conf.write_text(
            f"nameserver {self.address}\noptions timeout:1 attempts:1\n"
        )
        self.process = Process("dnsmasq", directory / "dnsmasq.log")

    def start(self, *targets):
        """``targets`` are (port, priority, weight)."""
        self.process.spawn(
            [
                DNSMASQ, "--keep-in-foreground", "--conf-file=/dev/null",
                "--pid-file=", "--user=", "--group=", "--no-resolv",
                "--no-hosts", "--bind-interfaces", "--local=/test/",
                "--local-ttl=1", f"--listen-address={self.address}",
                f"--host-record=broker.test,{LOOPBACK}",
            ]
            + [
                f"--srv-host={SRV},broker.test,{port},{priority},{weight}"
                for port, priority, weight in targets
            ]
        )

    def stop(self):
        self.process.end()


@pytest.fixture
def name_server(tmp_path):
    if os.geteuid() != 0 or subprocess.run(
        ["unshare", "-m", "true"], capture_output=True
    ).returncode:
        pytest.skip("NOT TESTED: SRV records; a mount namespace takes root")
    server = NameServer(tmp_path)
    yield server
    server.stop()


@pytest.fixture
def make_srv(make_found, name_server, tmp_path):
    """Makes daemons that ask the name server, and no other."""

    def make(**groups):
        daemon = make_found({"srv": SRV, "refresh": 5.0}, **groups)
        program = tmp_path / "in-namespace"
        program.write_text(
            "#!/bin/sh\n"
            "exec unshare -m --propagation private /bin/sh -c "
            f"'mount --bind {name_server.resolv_conf} /etc/resolv.conf && "
            f"exec {daemon.binary} \"$@\"' mqtt-gatewayd \"$@\"\n"
        )
        program.chmod(0o755)
        daemon.binary = str(program)
        return daemon

    return make


def test_srv(make_srv, name_server, make_mosquitto, make_subscriber):
    """The records' first target is connected to; other records move it."""
    one, two = make_mosquitto().start(), make_mosquitto().start()
    first, second = make_subscriber(one.port), make_subscriber(two.port)
    name_server.start((one.port, 10, 0), (two.port, 20, 0))
    daemon = make_srv().start()
    deliver(daemon, first, "m1", "m2")
    name_server.stop()
    name_server.start((two.port, 10, 0))
    wait_moved(daemon, two.port)
    deliver(daemon, second, "m3")


def test_srv_target_dies(
    make_srv, name_server, make_mosquitto, make_subscriber
):
    """The next target takes over."""
    one, two = make_mosquitto().start(), make_mosquitto().start()
    first, second = make_subscriber(one.port), make_subscriber(two.port)
    name_server.start((one.port, 10, 0), (two.port, 20, 0))
    daemon = make_srv().start()
    deliver(daemon, first, "m1")
    one.kill9()
    deliver(daemon, second, "m2")


def test_start_without_records(
    make_srv, name_server, make_mosquitto, make_subscriber
):
    """The list of last time is used, once the first answer was no."""
    broker = make_mosquitto().start()
    subscriber = make_subscriber(broker.port)
    name_server.start((broker.port, 10, 0))
    daemon = make_srv().start()
    deliver(daemon, subscriber, "m1")
    daemon.stop()
    kept = daemon.queue_path.with_name(daemon.queue_path.name + ".brokers")
    assert kept.stat().st_mode & 0o7777 == 0o600
    # Names are found all the same, but the records are gone.
    name_server.stop()
    name_server.start()
    daemon.start()
    daemon.wait_output(r"using the list of brokers kept in ", 20)
    deliver(daemon, subscriber, "m2")
