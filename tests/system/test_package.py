# SPDX-License-Identifier: MIT
"""The Debian package on a machine of its own: installed, upgraded, removed, purged.

MQTTGW_PACKAGE names the file that scripts/package made. The package of the version before is the
same one with a lower number and a unit that says so.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import threading
from pathlib import Path

import pytest

from conftest import BROKER_UNIT, RECORDER_UNIT
from machine import Machine, is_socket, wait_for, why_not

SERVICE = "mqtt-gatewayd.service"
SOCKET = "mqtt-gatewayd.socket"
REPORT = "mqttgw-report.service"
EAST = "mqtt-gatewayd@east.service"
EAST_SOCKET = "mqtt-gatewayd@east.socket"
PATH = "/run/mqttgw.sock"
QUEUE = "/var/lib/mqttgw/queue.db"
BACKLOG = 100_000

# The recorder may come later than the gateway: nothing is left out meanwhile.
BROKER_CONF = """\
listener 1883
allow_anonymous true
persistence true
persistence_location /var/lib/mosquitto/
max_queued_messages 0
user root
"""


@pytest.fixture(scope="module")
def package():
    path = os.environ.get("MQTTGW_PACKAGE")
    if not path:
        pytest.skip("NOT RUN: MQTTGW_PACKAGE names no package; scripts/package makes one")
    return Path(path).resolve()


@pytest.fixture(scope="module")
def box(package, tmp_path_factory):
    """A machine with a broker, a recorder and both packages in /root, none of them installed."""
    reason = why_not()
    if reason:
        pytest.skip("NOT RUN: " + reason)
    m = Machine()
    try:
        m.make_disk()
        m.path("/usr/sbin/policy-rc.d").unlink(missing_ok=True)
        m.path("/etc/test-broker.conf").write_text(BROKER_CONF)
        units = m.path("/etc/systemd/system")
        (units / "test-broker.service").write_text(BROKER_UNIT)
        (units / "test-recorder.service").write_text(RECORDER_UNIT)
        shutil.copy(package, m.path("/root/now.deb"))
        shutil.copy(older(package, tmp_path_factory.mktemp("older")), m.path("/root/before.deb"))
        m.boot()
        m.run("useradd", "member")
        m.run("systemctl", "start", "test-broker.service", "test-recorder.service")
        yield m
    finally:
        m.close()


def older(package, directory):
    tree = directory / "tree"
    subprocess.run(["dpkg-deb", "-R", package, tree], check=True)
    control = tree / "DEBIAN/control"
    text, n = re.subn(r"^Version: .*$", "Version: 0.0.9-1", control.read_text(), flags=re.M)
    assert n == 1
    control.write_text(text)
    unit = tree / "lib/systemd/system" / SERVICE
    unit.write_text(re.sub(r"^Description=.*$", "Description=of before", unit.read_text(),
                           flags=re.M))
    result = directory / "before.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "-b", tree, result], check=True,
                   stdout=subprocess.DEVNULL)
    return result


@pytest.fixture
def bare(box):
    """The machine as it was before any package came."""
    box.run("systemctl", "start", "test-broker.service")
    box.run("dpkg", "--purge", "mqtt-gatewayd", timeout=60)
    return box


def install(machine, name):
    return machine.run("dpkg", "--install", f"/root/{name}.deb", timeout=120)


def active(machine, unit):
    return machine.show(unit, "ActiveState") == "active"


def mode(machine, path):
    return machine.run("stat", "-c", "%A %U:%G", path).stdout.strip()


def recorded(machine, topic):
    log = machine.inside("/var/log/recorded")
    text = log.read_text() if log.exists() else ""
    return [line.split(" ", 1)[1] for line in text.splitlines() if line.startswith(topic + " ")]


class Feeder:
    """A local program as the protocol wants it: what was not answered is sent again."""

    def __init__(self, machine, topic):
        self.path = str(machine.inside(PATH))
        self.topic = topic
        self.queued = []  # numbers answered, in this order
        self.connections = 0
        self.told_stopping = 0
        self.not_reached = []

    def connect(self):
        s = socket.socket(socket.AF_UNIX)
        s.settimeout(60)
        try:
            s.connect(self.path)
        except OSError as error:
            self.not_reached.append(error)
            s.close()
            raise
        self.connections += 1
        return s

    def feed(self, first, last, done=lambda: False, window=500):
        """Numbers `first` to `last`, or until done(); returns the number behind the last queued."""
        n = first
        while n <= last and not done():
            with self.connect() as s, s.makefile("rb") as replies:
                while n <= last and not done():
                    batch = range(n, min(n + window, last + 1))
                    lines = (json.dumps({"topic": self.topic, "payload": str(i), "id": i})
                             for i in batch)
                    try:
                        s.sendall("".join(line + "\n" for line in lines).encode())
                        for i in batch:
                            line = replies.readline()
                            reply = json.loads(line) if line else None
                            if not reply or reply["id"] is None:
                                assert not reply or reply["error"] == "stopping", reply
                                self.told_stopping += reply is not None
                                raise ConnectionError
                            assert (reply["id"], reply["status"]) == (i, "queued"), reply
                            self.queued.append(i)
                            n = i + 1
                    except (ConnectionError, BrokenPipeError):
                        break
        return n


def configure(machine, **keys):
    """What an administrator does: takes the "#" from a line of the file and edits its value."""
    path = machine.inside("/etc/mqttgw.conf")
    text = path.read_text()
    for key, value in (keys or {"host": "127.0.0.1"}).items():
        text, n = re.subn(rf"#{key} = [^;]*;", f'{key} = "{value}";', text, count=1)
        assert n == 1, key
    path.write_text(text)


def status(machine):
    return machine.run("mqttgwctl", "status", check=False).stdout


def test_installed_edited_started(bare):
    install(bare, "now")
    # Whoever installs it edits the configuration before it runs; both are there after a boot.
    assert not active(bare, SERVICE) and not active(bare, REPORT)
    assert active(bare, SOCKET)
    enabled = [bare.run("systemctl", "is-enabled", u, check=False).stdout.strip()
               for u in (SERVICE, SOCKET, REPORT)]
    assert enabled == ["enabled", "enabled", "disabled"]
    assert mode(bare, "/etc/mqttgw.conf") == "-rw-r----- root:mqttgw"
    assert "mqttgw-clients" in bare.inside("/etc/group").read_text()

    configure(bare)
    bare.run("usermod", "-a", "-G", "mqttgw-clients", "member")
    bare.run("systemctl", "start", "mqtt-gatewayd")
    wait_for(lambda: re.search(r"\bconnected\b", status(bare)), 15, "mqttgwctl to say: connected")
    bare.run("mqttgwctl", "pub", "-t", "installed", "-m", "first", user="member")
    wait_for(lambda: recorded(bare, "installed") == ["first"], 15, "the message")
    # The catalog came along, and each manual page.
    bare.run("journalctl", "--sync")
    assert "Documentation: man:" in bare.run("journalctl", "-x", "-u", SERVICE).stdout
    files = bare.run("dpkg", "--listfiles", "mqtt-gatewayd").stdout
    for page in ("man8/mqtt-gatewayd.8", "man8/mqttgw-report.8", "man1/mqttgwctl.1",
                 "man5/mqttgw.conf.5"):
        assert f"/usr/share/man/{page}.gz\n" in files
    assert bare.run("dpkg", "--verify", "mqtt-gatewayd", check=False).stdout.split("\n") == \
        ["??5?????? c /etc/mqttgw.conf", ""]


def test_upgrade_with_a_backlog_and_a_client(bare):
    install(bare, "before")
    configure(bare)
    bare.run("systemctl", "start", "mqtt-gatewayd")
    assert bare.show(SERVICE, "Description") == "of before"
    bare.run("systemctl", "stop", "test-broker.service")
    feeder = Feeder(bare, "upgrade")
    n = feeder.feed(1, BACKLOG)
    assert feeder.connections == 1
    before = bare.show(SERVICE, "MainPID")
    feeder.connections = 0

    # One client goes on feeding, another one connects again and again.
    upgraded = threading.Event()
    prober = Feeder(bare, "probe")
    reached = []

    def probe():
        while not upgraded.wait(0.002):
            with prober.connect():
                reached.append(is_socket(prober.path))

    total = []
    threads = [threading.Thread(target=probe),
               threading.Thread(target=lambda: total.append(
                   feeder.feed(n, 10 * BACKLOG, lambda: upgraded.wait(0.01), window=20) - 1))]
    for thread in threads:
        thread.start()
    try:
        install(bare, "now")
        during = len(feeder.queued)
        wait_for(lambda: len(feeder.queued) > during + 100, 15, "replies of the new one")
    finally:
        upgraded.set()
        for thread in threads:
            thread.join()
    assert bare.show(SERVICE, "Description") != "of before"
    assert bare.show(SERVICE, "MainPID") != before and active(bare, SERVICE)
    assert not prober.not_reached and not feeder.not_reached
    assert len(reached) > 20 and all(reached)
    assert feeder.connections >= 2, "the client was never cut off: nothing was replaced"
    assert "of before" not in bare.run("systemctl", "status", SERVICE).stdout

    bare.run("systemctl", "start", "test-broker.service")
    wait_for(lambda: len(set(recorded(bare, "upgrade"))) >= total[0], 60, "all messages")
    numbers = [int(p) for p in recorded(bare, "upgrade")]
    print(f"upgrade: {total[0]} queued, {len(set(numbers))} came, "
          f"{len(numbers) - len(set(numbers))} twice; {len(reached)} connections during it, "
          f"cut off {feeder.connections - 1} times")
    assert feeder.queued == list(range(1, total[0] + 1))
    assert list(dict.fromkeys(numbers)) == feeder.queued


def test_an_upgrade_starts_nothing(bare):
    install(bare, "before")
    install(bare, "now")
    assert not active(bare, SERVICE) and not active(bare, REPORT)
    assert active(bare, SOCKET)


def test_a_further_gateway(bare):
    """By the template units: replaced, stopped and removed with the others, though no package knows
    its name."""
    install(bare, "before")
    folder = bare.inside("/etc/mqttgw")
    bare.write("/etc/mqttgw/east.conf", """\
gateway: { id = "site7-east"; };
socket: { path = "/run/mqttgw-east.sock"; };
control: { path = "/run/mqttgw-east/control.sock"; };
queue: { path = "/var/lib/mqttgw-east/queue.db"; };
brokers: ( { host = "127.0.0.1"; } );
""")
    bare.run("systemd-tmpfiles", "--create", "mqttgw.conf")
    bare.run("systemctl", "enable", "--now", EAST)
    before = bare.show(EAST, "MainPID")
    install(bare, "now")
    assert active(bare, EAST) and active(bare, EAST_SOCKET)
    assert bare.show(EAST, "MainPID") != before
    assert not active(bare, SERVICE), "and nothing else was started"

    bare.run("systemctl", "disable", EAST)
    bare.run("dpkg", "--remove", "mqtt-gatewayd", timeout=60)
    assert not active(bare, EAST) and not active(bare, EAST_SOCKET)
    assert not bare.inside("/run/mqttgw-east.sock").exists()
    assert bare.inside("/var/lib/mqttgw-east/queue.db").exists()
    bare.run("dpkg", "--purge", "mqtt-gatewayd", timeout=60)
    assert not bare.inside("/var/lib/mqttgw-east").exists()
    assert (folder / "east.conf").exists(), "not the package's"
    shutil.rmtree(folder)


def test_removed_and_purged(bare):
    install(bare, "now")
    configure(bare, host="127.0.0.1", alert_url="http://127.0.0.1:9/")
    bare.run("systemctl", "start", "mqtt-gatewayd", REPORT)
    bare.run("systemctl", "stop", "test-broker.service")
    Feeder(bare, "kept").feed(1, 100)

    bare.run("dpkg", "--remove", "mqtt-gatewayd", timeout=60)
    assert not active(bare, SERVICE) and not active(bare, SOCKET) and not active(bare, REPORT)
    assert not bare.inside(PATH).exists()
    assert bare.inside(QUEUE).exists() and bare.inside("/etc/mqttgw.conf").exists()

    # What was queued is still delivered by whoever installs it again.
    install(bare, "now")
    bare.run("systemctl", "start", "mqtt-gatewayd", "test-broker.service")
    wait_for(lambda: len(recorded(bare, "kept")) >= 100, 20, "what was queued before")
    assert recorded(bare, "kept") == [str(n) for n in range(1, 101)]

    bare.run("dpkg", "--purge", "mqtt-gatewayd", timeout=60)
    left = bare.run("find", "/var/lib", "/etc", "/run", "/lib/systemd", "/usr/lib/systemd",
                    "-name", "*mqttgw*", "-o", "-name", "mqtt-gatewayd*").stdout
    assert left == ""
