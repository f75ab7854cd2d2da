# SPDX-License-Identifier: MIT
"""Each kind of event is provoked and found in the journal, with its fields and its explanation."""

import contextlib
import os
import re
import shlex
import struct
import subprocess
import time
from pathlib import Path

import pytest

from machine import wait_for
from test_service import (  # noqa: F401: fixtures, too
    SERVICE, SOCKET, Client, config, journal, service, wait_connected)

ROOT = Path(__file__).parents[2]

#: name -> MESSAGE_ID
IDS = {name: number for number, name in re.findall(
    r'\{ *"([0-9a-f]{32})", *"([a-z-]+)"',
    (ROOT / "src/event.c").read_text().replace("\n", " ").replace("\t", " "))}

#: What does not come up here, and why.
NOT_PROVOKED = {
    "steady": "ten minutes without a failure have to pass; see check_flap.c",
}

FAKE_UNIT = """\
[Service]
ExecStart=/usr/bin/python3 /opt/fakebroker.py /run/fake-mode
"""

# A broker that knows one user, whom the gateway is not.
STRICT_CONF = """\
listener 1884 127.0.0.1
allow_anonymous false
password_file /etc/strict-broker.passwords
user root
"""

STRICT_UNIT = """\
[Service]
Type=notify
ExecStart=/usr/sbin/mosquitto -c /etc/strict-broker.conf
"""

SEEN = set()


def brokers(*ports):
    return "brokers: ( " + ", ".join(
        f'{{ host = "127.0.0.1"; port = {port}; }}' for port in ports) + " );\n"


RETRY = "retry: { base = 0.1; max = 0.5; set_aside = 2.0; failback = 1.0; };\n"


def found(machine, since, name, **fields):
    """Waits for an event with these fields, and returns its entry; checks what it says with -x."""
    matches = [f"MESSAGE_ID={IDS[name]}"]
    matches += [f"{key}={value}" for key, value in fields.items()]
    entry = wait_for(lambda: (journal(machine, since, *matches) or [None])[-1], 20,
                     f"{name} with {fields} in the journal")
    assert entry["MQTTGW_EVENT"] == name
    assert entry["SYSLOG_IDENTIFIER"] == "mqtt-gatewayd"
    text = machine.run("journalctl", "-u", SERVICE, "-x", "--no-pager", "-n1",
                       f"--since=@{since:.6f}", *matches).stdout
    explained = [line[3:] for line in text.splitlines() if line.startswith("░░ ")]
    assert "Defined-By: mqtt-gatewayd" in explained, text
    assert explained[0].startswith("Subject: ")
    # What it says of fields is there.
    assert not re.search(r"@[A-Z_]+@", text), text
    SEEN.add(name)
    return entry


class Fake:
    def __init__(self, machine):
        self.machine = machine

    def __call__(self, mode):
        self.machine.write("/run/fake-mode", mode)

    def cut(self):
        self.machine.run("systemctl", "restart", "fake-broker.service")


@pytest.fixture
def fake(machine):
    """fake("drop"): what the scripted broker on port 1885 does from now on."""
    machine.write("/opt/fakebroker.py", Path(__file__).with_name("fakebroker.py").read_text())
    machine.write("/run/systemd/system/fake-broker.service", FAKE_UNIT)
    machine.run("systemctl", "daemon-reload")
    told = Fake(machine)
    told("accept")
    machine.run("systemctl", "start", "fake-broker.service")
    yield told
    machine.run("systemctl", "stop", "fake-broker.service")


@pytest.fixture
def begin(machine, config):
    """begin(text): the service anew, with this configuration and an empty queue; returns when."""
    def start(text, check=True):
        machine.run("systemctl", "stop", SERVICE, SOCKET)
        machine.run("sh", "-c", "rm -rf /var/lib/mqttgw/*")
        machine.run("systemctl", "reset-failed", SERVICE, SOCKET, check=False)
        config(text)
        since = time.time()
        machine.run("systemctl", "start", SOCKET)
        machine.run("systemctl", "start", SERVICE, check=check)
        return since

    machine.run("systemctl", "start", "test-broker.service")
    yield start
    machine.run("systemctl", "stop", SERVICE, SOCKET)
    machine.run("sh", "-c", "rm -rf /var/lib/mqttgw/*")
    machine.run("systemctl", "reset-failed", SERVICE, SOCKET, check=False)
    machine.run("systemctl", "start", "test-broker.service", SOCKET)


# --- the life of the service --------------------------------------------------------------------


def test_start_and_stop(machine, begin):
    since = begin(brokers(1883) + RETRY)
    wait_connected(machine)
    machine.run("systemctl", "stop", SERVICE)
    entry = found(machine, since, "started", MQTTGW_QUEUE="0")
    assert entry["MQTTGW_PATH"] == "/run/mqttgw.sock" and entry["PRIORITY"] == "5"
    found(machine, since, "brokers")
    found(machine, since, "state", MQTTGW_STATE="connecting", MQTTGW_OLD_STATE="disconnected")
    entry = found(machine, since, "connected", MQTTGW_BROKER="127.0.0.1:1883")
    assert (entry["MQTTGW_STATE"], entry["MQTTGW_QUEUE"]) == ("connected", "0")
    found(machine, since, "stopping")
    found(machine, since, "stopped")


def test_cannot_be_started(machine, begin):
    text = brokers(1883) + 'queue: { path = "/var/lib/mqttgw/no/such/queue.db"; };\n'
    since = begin(text, check=False)
    entry = found(machine, since, "start-failed", ERRNO="2")
    assert entry["PRIORITY"] == "3"


def test_reload(machine, begin, config, config_path):
    since = begin(brokers(1883) + RETRY)
    wait_connected(machine)
    pid = machine.show(SERVICE, "MainPID")
    config(brokers(1883) + RETRY + "queue: { max_messages = 1000; };\n")
    machine.run("systemctl", "reload", SERVICE)
    entry = found(machine, since, "reloaded", MQTTGW_PATH=config_path)
    assert entry["PRIORITY"] == "5" and "queue.max_messages" in entry["MESSAGE"]

    faulty = brokers(1883) + RETRY + "queue: { max_mesages = 10; };\n"
    config(faulty)
    # Whoever uses systemctl hears of it at once, and the daemon is not even asked.
    assert machine.run("systemctl", "reload", SERVICE, check=False).returncode != 0
    assert not journal(machine, since, f"MESSAGE_ID={IDS['reload-refused']}")
    machine.run("kill", "-HUP", pid)
    entry = found(machine, since, "reload-refused", MQTTGW_PATH=config_path)
    assert entry["PRIORITY"] == "3"
    line = faulty[:faulty.index("max_mesages")].count("\n") + 1
    assert any(e["MESSAGE"].startswith(f"{config_path}:{line}: ") and
               e["_PID"] == pid for e in journal(machine, since))
    assert machine.show(SERVICE, "MainPID", "ActiveState") == {
        "MainPID": pid, "ActiveState": "active"}
    # With the old one.
    with Client(machine) as client:
        client.queue("events/reload", *map(str, range(11)))


# --- brokers ------------------------------------------------------------------------------------


def test_broker_goes(machine, begin):
    since = begin(brokers(1883) + RETRY)
    wait_connected(machine)
    machine.run("systemctl", "stop", "test-broker.service")
    with Client(machine) as client:
        client.queue("events/away", "a", "b")
        entry = found(machine, since, "connection-lost", MQTTGW_OLD_STATE="connected")
        # It says so itself, or its connection ends.
        assert entry["MQTTGW_CLASS"] in ("busy", "heartbeat")
        found(machine, since, "connect-failed", MQTTGW_CLASS="timeout",
              MQTTGW_BROKER="127.0.0.1:1883", MQTTGW_QUEUE="2")
        found(machine, since, "offline", MQTTGW_STATE="offline", MQTTGW_CLASS="timeout")
    # What goes on is told in fewer lines.
    wait_for(lambda: len(journal(machine, since, "MQTTGW_CLASS=timeout")) == 5, 20, "five lines")
    time.sleep(3)
    assert len(journal(machine, since, "MQTTGW_CLASS=timeout")) == 5
    machine.run("systemctl", "start", "test-broker.service")
    entry = found(machine, since, "connected", MQTTGW_QUEUE="2")
    more = re.search(r"; (\d+) more attempts had failed before$", entry["MESSAGE"])
    assert more.group(1) == entry["MQTTGW_COUNT"]


def test_credentials_refused(machine, begin):
    machine.write("/etc/strict-broker.conf", STRICT_CONF)
    machine.write("/etc/strict-broker.passwords", "", 0o600)
    machine.run("mosquitto_passwd", "-b", "/etc/strict-broker.passwords", "somebody", "secret")
    machine.write("/run/systemd/system/strict-broker.service", STRICT_UNIT)
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "start", "strict-broker.service")
    try:
        since = begin(brokers(1884) + RETRY)
        entry = found(machine, since, "auth-refused", MQTTGW_ALERT="1", MQTTGW_CLASS="auth")
        assert entry["MQTTGW_BROKER"] == "127.0.0.1:1884"
        assert (entry["MQTTGW_STATE"], entry["PRIORITY"]) == ("error", "3")
        found(machine, since, "error", MQTTGW_STATE="error")
    finally:
        machine.run("systemctl", "stop", "strict-broker.service")


def test_not_our_language(machine, begin, fake):
    fake("web")
    since = begin(brokers(1885) + RETRY + 'mqtt: { version = "5"; };\n')
    found(machine, since, "broker-set-aside", MQTTGW_ALERT="1", MQTTGW_CLASS="protocol",
          MQTTGW_BROKER="127.0.0.1:1885")


def test_taken_over(machine, begin, fake):
    fake("taken-over")
    since = begin(brokers(1885) + RETRY + 'mqtt: { version = "5"; };\n')
    found(machine, since, "taken-over", MQTTGW_ALERT="1", MQTTGW_CLASS="taken-over",
          MQTTGW_STATE="error")


def test_failing_back(machine, begin, fake):
    machine.run("systemctl", "stop", "test-broker.service")
    since = begin(brokers(1883, 1885) + RETRY)
    found(machine, since, "connected", MQTTGW_BROKER="127.0.0.1:1885")
    machine.run("systemctl", "start", "test-broker.service")
    found(machine, since, "failed-back", MQTTGW_BROKER="127.0.0.1:1883")
    found(machine, since, "connected", MQTTGW_BROKER="127.0.0.1:1883")


def test_session_lost(machine, begin, fake):
    fake("silent")
    since = begin(brokers(1885) + RETRY + 'mqtt: { version = "5"; };\n')
    wait_connected(machine)
    with Client(machine) as client:
        client.queue("events/session", "a")
        time.sleep(1)
        fake("accept")
        fake.cut()
        found(machine, since, "session-lost", MQTTGW_BROKER="127.0.0.1:1885")


def test_flapping(machine, begin, fake):
    fake("drop")
    since = begin(brokers(1885) + "retry: { base = 0.1; max = 0.5; heartbeat_delay = 0.1; };\n")
    time.sleep(62)
    entry = found(machine, since, "flapping", MQTTGW_BROKER="127.0.0.1:1885",
                  MQTTGW_CLASS="heartbeat")
    assert int(entry["MQTTGW_COUNT"]) > 50
    assert len(journal(machine, since, "MQTTGW_BROKER=127.0.0.1:1885")) < 30


def test_no_list_of_brokers(machine, begin):
    since = begin('discovery: { file = "/etc/no-such-brokers.conf"; };\n')
    found(machine, since, "brokers-unknown")


def test_network_comes_and_goes(machine, begin):
    since = begin('brokers: ( { host = "192.0.2.1"; } );\n' + RETRY)
    found(machine, since, "offline")
    try:
        machine.run("ip", "link", "add", "events0", "type", "veth", "peer", "name", "events1")
        machine.run("ip", "link", "set", "events1", "up")
        machine.run("ip", "address", "add", "192.0.2.5/24", "dev", "events0")
        machine.run("ip", "link", "set", "events0", "up")
        entry = found(machine, since, "network")
        assert "network up" in entry["MESSAGE"]
    finally:
        machine.run("ip", "link", "delete", "events0", check=False)


# --- messages -----------------------------------------------------------------------------------


def test_nobody_takes_a_message(machine, begin, fake):
    fake("refuse")
    since = begin(brokers(1885) + RETRY + 'mqtt: { version = "5"; };\n')
    wait_connected(machine)
    with Client(machine) as client:
        client.queue("events/refused", *"abcdef")
        entry = found(machine, since, "dead-letter", MQTTGW_ALERT="1", MQTTGW_SEQ="1")
        assert entry["MQTTGW_BROKER"] == "127.0.0.1:1885" and "Not authorized" in entry["MESSAGE"]
        entry = found(machine, since, "queue-held", MQTTGW_ALERT="1")
        assert (entry["MQTTGW_SEQ"], entry["MQTTGW_BROKER"]) == ("4", "127.0.0.1:1885")
        fake("accept")
        found(machine, since, "queue-released")


def test_bounds(machine, begin):
    machine.run("systemctl", "stop", "test-broker.service")
    since = begin(brokers(1883) + RETRY + "queue: { max_messages = 10; };\n")
    with Client(machine) as client:
        client.queue("events/bounds", *"abcdefg")
        assert not journal(machine, since, f"MESSAGE_ID={IDS['queue-high']}")
        client.queue("events/bounds", "h")
        entry = found(machine, since, "queue-high", MQTTGW_ALERT="1", MQTTGW_QUEUE="8")
        assert "80 % of queue.max_messages: 8 of 10" in entry["MESSAGE"]
        client.queue("events/bounds", "i", "j")
        client.send("events/bounds", "k")
        assert client.reply()["error"] == "queue-full"
        found(machine, since, "lines-refused", MQTTGW_COUNT="1", MQTTGW_QUEUE="10")
        machine.run("systemctl", "start", "test-broker.service")
        found(machine, since, "queue-normal")
    assert len(journal(machine, since, f"MESSAGE_ID={IDS['queue-high']}")) == 1


def test_dropped(machine, begin):
    machine.run("systemctl", "stop", "test-broker.service")
    since = begin(brokers(1883) + RETRY +
                  'queue: { max_messages = 5; overflow = "drop-oldest"; };\n')
    with Client(machine) as client:
        client.queue("events/dropped", *"abcdefgh")
    entry = found(machine, since, "messages-dropped")
    assert int(entry["MQTTGW_COUNT"]) >= 1 and entry["MQTTGW_PATH"].endswith("queue.db")


@pytest.fixture
def clock(machine, drop_in):
    """clock(synchronised): what the kernel tells the service of its clock."""
    source = ROOT / "tests/integration/harness/clock.c"
    library = machine.inside("/opt/clock.so")
    library.parent.mkdir(exist_ok=True)
    subprocess.run([*shlex.split(os.environ.get("CC", "cc")), "-std=gnu17", "-D_GNU_SOURCE", "-O2",
                    "-fPIC", "-shared", "-o", str(library), str(source)], check=True)
    state = machine.inside("/opt/clock.state")

    def say(synchronised):
        # In place: the service has it mapped.
        with open(state, "r+b" if state.exists() else "w+b") as f:
            f.write(struct.pack("<qqq", 0, int(synchronised), 0))
        state.chmod(0o666)

    drop_in(SERVICE, "[Service]\nExecPaths=/opt/clock.so\nEnvironment=LD_PRELOAD=/opt/clock.so\n"
            "Environment=MQTTGW_CLOCK=/opt/clock.state\n")
    yield say
    machine.run("systemctl", "stop", SERVICE)


def test_clock_and_age(machine, clock, begin):
    machine.run("systemctl", "stop", "test-broker.service")
    clock(False)
    since = begin(brokers(1883) + RETRY + "queue: { max_age = 3.0; };\n")
    found(machine, since, "clock-unset")
    clock(True)
    with Client(machine) as client:
        client.queue("events/age", "a")
        time.sleep(1.5)  # it looks once a second, while lines come
        client.queue("events/age", "b")
        found(machine, since, "clock-trusted")
        found(machine, since, "messages-expired")


# --- local programs and the disk ----------------------------------------------------------------


def test_too_many_clients(machine, begin):
    since = begin(brokers(1883) + RETRY + "socket: { max_clients = 1; };\n")
    with Client(machine) as client:
        client.queue("events/client", "a")
        with Client(machine) as other:
            assert other.reply()["error"] == "too-many-clients"
    entry = found(machine, since, "client-refused")
    assert entry["PRIORITY"] == "4" and "socket.max_clients, 1," in entry["MESSAGE"]


def test_not_allowed(machine, begin):
    since = begin(brokers(1883) + RETRY + 'access: ( { user = "member"; topics = ( "own/#" ); } );\n')
    with Client(machine) as client:
        client.send("events/other", "a")
        assert client.reply()["error"] == "not-allowed"
    entry = found(machine, since, "not-allowed")
    assert entry["PRIORITY"] == "4"
    assert 'uid 0 ' in entry["MESSAGE"] and '"events/other"' in entry["MESSAGE"]


def test_client_cut_off(machine, begin):
    """Half lines take all the room there is, and one more waits for some."""
    since = begin(brokers(1883) + RETRY +
                  'socket: { max_message_bytes = "16K"; max_buffered_bytes = "32K"; };\n')
    half = b'{"topic":"events/half","payload":"' + b"x" * 10000
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(Client(machine)).socket.sendall(half)
        entry = found(machine, since, "client-cut-off")
    assert entry["PRIORITY"] == "4" and "line is not complete" in entry["MESSAGE"]


def test_full_disk(machine, begin):
    """A message is on its way when the disk fills: its removal needs the reserve."""
    machine.run("systemctl", "stop", SERVICE, SOCKET)
    machine.run("mkdir", "-p", "/var/lib/mqttgw")
    machine.run("mount", "-t", "tmpfs", "-o", "size=24M", "none", "/var/lib/mqttgw")
    filler = machine.inside("/var/lib/mqttgw/filler")
    try:
        machine.run("systemctl", "stop", "test-broker.service")
        since = begin(brokers(1883) + RETRY)
        with Client(machine) as client:
            for first in range(0, 1000, 20):
                client.queue("events/disk", *(f"{first + n} " + "x" * 3000 for n in range(20)))
            with open(filler, "wb") as f:
                step = 1 << 20
                while step >= 4096:
                    try:
                        os.posix_fallocate(f.fileno(), os.fstat(f.fileno()).st_size, step)
                    except OSError:
                        step //= 2
            refused = 0
            while not refused:
                client.send("events/disk", "x" * 3000)
                refused = client.reply()["status"] == "error"
            entry = found(machine, since, "store-failing", MQTTGW_ALERT="1", ERRNO="28")
            assert entry["MQTTGW_PATH"] == "/var/lib/mqttgw/queue.db"
            machine.run("systemctl", "start", "test-broker.service")
            found(machine, since, "reserve-given-up", ERRNO="28")
            filler.unlink()
            found(machine, since, "store-works", MQTTGW_EVENT="store-works")
    finally:
        machine.run("systemctl", "stop", SERVICE, SOCKET)
        wait_for(lambda: machine.run("umount", "/var/lib/mqttgw", check=False).returncode == 0, 10,
                 "the file system to be free")


def test_damaged_database(machine, begin):
    begin(brokers(1883) + RETRY)
    machine.run("systemctl", "stop", SERVICE)
    with open(machine.inside("/var/lib/mqttgw/queue.db"), "r+b") as f:
        f.write(b"not a database, or no more" * 100)
    since = time.time()
    machine.run("systemctl", "start", SERVICE)
    found(machine, since, "database-damaged", MQTTGW_PATH="/var/lib/mqttgw/queue.db")
    entry = found(machine, since, "database-set-aside", MQTTGW_ALERT="1")
    assert entry["MQTTGW_PATH_ASIDE"].startswith("/var/lib/mqttgw/queue.db.corrupt-")


# --- all of them --------------------------------------------------------------------------------


def test_each_kind_was_provoked(request):
    mine = [item for item in request.session.items if item.module is request.module]
    if len({item.originalname for item in mine}) != len(
            [name for name in dir(request.module) if name.startswith("test_")]):
        pytest.skip("not all tests of this file were run")
    assert set(IDS) - SEEN - set(NOT_PROVOKED) == set()
