# SPDX-License-Identifier: MIT
"""The installed service under a real systemd: start, stop, crash, watchdog, faulty configuration."""

import json
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from machine import is_socket, wait_for

SERVICE = "mqtt-gatewayd.service"
SOCKET = "mqtt-gatewayd.socket"
PATH = "/run/mqttgw.sock"

CONFIG = """\
brokers: ( { host = "127.0.0.1"; port = 1883; } );
retry: { base = 0.1; max = 0.5; };
"""

# Run inside: sends its standard input to the socket and prints the replies.
CLIENT = f"""\
import socket, sys
s = socket.socket(socket.AF_UNIX)
s.settimeout(10)
s.connect({PATH!r})
s.sendall(sys.stdin.buffer.read())
s.shutdown(socket.SHUT_WR)
while data := s.recv(65536):
    sys.stdout.write(data.decode())
"""


class Client:
    """A connection to the local socket, made from outside as root."""

    def __init__(self, machine):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(15)
        self.socket.connect(str(machine.inside(PATH)))
        self.lines = self.socket.makefile("r", encoding="utf-8")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.lines.close()
        self.socket.close()

    def send(self, topic, *payloads):
        lines = [json.dumps({"topic": topic, "payload": p, "id": p}) + "\n" for p in payloads]
        self.socket.sendall("".join(lines).encode())

    def reply(self):
        line = self.lines.readline()
        return json.loads(line) if line else None

    def queue(self, topic, *payloads):
        """Sends messages and returns once all of them are on disk."""
        self.send(topic, *payloads)
        for payload in payloads:
            reply = self.reply()
            assert reply and (reply["id"], reply["status"]) == (payload, "queued"), reply


class Frozen:
    """One thread of a process, the first or one by its name, stopped while in the with block."""

    def __init__(self, pid, name=None):
        self.tid = pid
        if name:
            self.tid = next(int(t.name) for t in Path(f"/proc/{pid}/task").iterdir()
                            if (t / "comm").read_text().strip() == name)

    def __enter__(self):
        helper = Path(__file__).with_name("freeze.py")
        self.helper = subprocess.Popen([sys.executable, str(helper), str(self.tid)],
                                       stdout=subprocess.PIPE, text=True)
        if self.helper.stdout.readline() != "stopped\n":
            self.__exit__()
            raise AssertionError(f"thread {self.tid} could not be stopped")

    def __exit__(self, *_):
        self.helper.kill()
        self.helper.wait()
        self.helper.stdout.close()


def main_pid(machine):
    return machine.host_pid(machine.show(SERVICE, "MainPID"))


def wait_state(machine, timeout=15, **wanted):
    def there():
        now = machine.show(SERVICE, "ActiveState", "SubState", *wanted)
        return now if all(now[k] == v for k, v in wanted.items()) else None
    return wait_for(there, timeout, f"the service to be {wanted}")


def wait_connected(machine):
    wait_for(lambda: "connected" in machine.show(SERVICE, "StatusText").split(":")[0].split(),
             15, "a connection to the broker")


def journal(machine, since, *matches):
    out = machine.run("journalctl", "--sync")
    out = machine.run("journalctl", "-u", SERVICE, "-o", "json", "--no-pager",
                      f"--since=@{since:.6f}", *matches).stdout
    return [json.loads(line) for line in out.splitlines()]


@pytest.fixture
def config(machine, config_path):
    """The configuration file of the tests; put back when one of them breaks it."""
    path = machine.inside(config_path)

    def write(text=CONFIG):
        path.write_text(text)

    write()
    yield write
    write()


@pytest.fixture
def service(machine, config):
    """The service, running and connected, whatever the test before did to it."""
    machine.run("systemctl", "start", "test-broker.service")
    machine.run("systemctl", "reset-failed", SERVICE, SOCKET, check=False)
    machine.run("systemctl", "restart", SERVICE)
    wait_connected(machine)
    return machine


# --- installed ----------------------------------------------------------------------------------


def test_units_are_clean(machine):
    files = [machine.show(unit, "FragmentPath") for unit in (SERVICE, SOCKET)]
    done = machine.run("systemd-analyze", "verify", "--man=no", *files, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_service_is_confined(machine):
    machine.run("systemd-analyze", "security", "--no-pager", "--threshold=15", SERVICE)


def test_users_and_groups(machine, config_path):
    assert machine.run("id", "-gn", "mqttgw").stdout == "mqttgw\n"
    assert machine.run("getent", "group", "mqttgw-clients").stdout.startswith("mqttgw-clients:")
    stat = machine.run("stat", "-c", "%U %G %a", config_path).stdout
    assert stat == "root mqttgw 640\n"


def test_enable(machine):
    machine.run("systemctl", "enable", SERVICE)
    assert machine.run("systemctl", "is-enabled", SERVICE, SOCKET).stdout == "enabled\nenabled\n"


# --- running ------------------------------------------------------------------------------------


def test_starts_as_installed(machine):
    """With the configuration as `make install` leaves it."""
    machine.run("systemctl", "start", SERVICE)
    shown = machine.show(SERVICE, "ActiveState", "SubState", "Type", "User", "NRestarts")
    assert shown == {"ActiveState": "active", "SubState": "running", "Type": "notify",
                     "User": "mqttgw", "NRestarts": "0"}
    assert machine.show(SOCKET, "SubState") == "running"
    status = Path(f"/proc/{main_pid(machine)}/status").read_text()
    uid = machine.run("id", "-u", "mqttgw").stdout.strip()
    assert status.split("Uid:", 1)[1].split("\n", 1)[0].split() == [uid] * 4
    assert "CapEff:\t0000000000000000" in status
    modes = machine.run("stat", "-c", "%U %a", "/var/lib/mqttgw", "/var/lib/mqttgw/queue.db").stdout
    assert modes == "mqttgw 700\nmqttgw 600\n"


def test_confinement_leaves_the_network_in_sight(machine):
    """A sandbox without netlink would only make it wait out its waits; this one has it."""
    messages = [entry["MESSAGE"] for entry in journal(machine, 0)]
    assert any(message.startswith("accepting messages") for message in messages)
    assert not [message for message in messages if "network changes are not watched" in message]


def test_only_members_may_write(service, recorded):
    line = '{"topic":"who/member","payload":"hello","id":1}\n'
    done = service.run("/usr/bin/python3", "-c", CLIENT, user="member", input=line)
    reply = json.loads(done.stdout)
    assert (reply["id"], reply["status"]) == (1, "queued")
    assert recorded("who/member", 1) == ["hello"]

    done = service.run("/usr/bin/python3", "-c", CLIENT, user="stranger", input=line, check=False)
    assert done.returncode != 0 and "PermissionError" in done.stderr


def test_socket_starts_the_service(service, recorded):
    service.run("systemctl", "stop", SERVICE)
    assert service.show(SOCKET, "SubState") == "listening"
    with Client(service) as client:
        client.queue("started/by/socket", "a")
    assert service.show(SERVICE, "ActiveState") == "active"
    assert recorded("started/by/socket", 1) == ["a"]


def test_status_line_and_journal(service, recorded):
    """systemctl status tells the state and the queue; the journal has both ends of a change."""
    since = time.time()
    service.run("systemctl", "stop", "test-broker.service")
    wait_for(lambda: not service.show(SERVICE, "StatusText").startswith("connected"),
             15, "the lost connection in the status line")
    with Client(service) as client:
        client.queue("status/kept", *(f"m{n}" for n in range(7)))
    status = wait_for(lambda: next((s for s in [service.show(SERVICE, "StatusText")] if "7" in s),
                                   None), 15, "7 messages in the status line")
    assert "queue" in status
    service.run("systemctl", "start", "test-broker.service")
    assert recorded("status/kept", 7) == [f"m{n}" for n in range(7)]
    wait_connected(service)
    states = [entry["MQTTGW_STATE"] for entry in journal(service, since) if "MQTTGW_STATE" in entry]
    assert "connected" in states and len(set(states)) > 1, states
    assert journal(service, since, "MQTTGW_STATE=connected")


def test_metrics_from_within_the_confinement(machine, config, service):
    """The unit's restrictions leave room for a listening TCP socket."""
    ask = ("import urllib.request as u\n"
           "for path in ('healthz', 'metrics'):\n"
           "    answer = u.urlopen('http://127.0.0.1:9641/' + path, timeout=10)\n"
           "    print(answer.status, answer.read().decode())\n")
    config(CONFIG + 'metrics: { listen = "127.0.0.1:9641"; };\n')
    machine.run("systemctl", "restart", SERVICE)
    wait_connected(machine)
    said = machine.run("/usr/bin/python3", "-c", ask, user="stranger").stdout
    assert said.startswith('200 {"status":"ok","uplink":"connected"')
    assert 'mqttgw_uplink_state{state="connected"} 1\n' in said
    assert machine.show(SERVICE, "NRestarts") == "0"


def test_check_of_the_queue(service, config_path, recorded):
    """By root and by the service's user, while it runs; what SQLite makes stays the service's."""
    service.run("systemctl", "stop", "test-broker.service")
    with Client(service) as client:
        client.queue("checked", *(f"m{n}" for n in range(7)))
    command = ["mqttgwctl", "-c", config_path, "queue", "check"]
    sound = "/var/lib/mqttgw/queue.db: 7 messages, 0 dead letters: no finding\n"
    for user in [], ["runuser", "-u", "mqttgw", "--"]:
        done = service.run(*user, *command)
        assert (done.stdout, done.stderr) == (sound, "")
    done = service.run("runuser", "-u", "stranger", "--", *command, check=False)
    assert done.returncode == 1
    assert done.stderr.endswith("run it as root or as the gateway's user\n")
    service.run("systemctl", "stop", SERVICE)
    assert service.run(*command).stdout == sound
    service.run("systemctl", "start", "test-broker.service", SERVICE)
    assert recorded("checked", 7) == [f"m{n}" for n in range(7)]


def test_operators(service):
    """Root and the group mqttgw; each other one is told what it lacks."""
    def status(user=None):
        return service.run("mqttgwctl", "status", "--json", user=user, check=False, timeout=60)

    service.run("useradd", "--groups", "mqttgw", "attendant")
    for user in None, "mqttgw", "attendant":
        done = status(user)
        assert (done.returncode, done.stderr) == (0, "")
        shown = json.loads(done.stdout)
        assert (shown["state"], shown["socket"]) == ("connected", "/run/mqttgw.sock")
        assert str(shown["pid"]) == service.show(SERVICE, "MainPID")
    for user in "member", "stranger":
        done = status(user)
        assert (done.returncode, done.stdout) == (1, "")
        assert re.fullmatch("mqttgwctl: no permission to use /run/mqttgw/control.sock[^\n]*\n",
                            done.stderr)
    service.run("systemctl", "stop", SERVICE)
    done = status()
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (3, "", 1)
    service.run("systemctl", "start", SERVICE)
    wait_connected(service)
    assert status("attendant").returncode == 0


# --- stop ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("broker", ["there", "away"])
def test_stop_is_orderly(service, broker):
    if broker == "away":
        service.run("systemctl", "stop", "test-broker.service")
    with Client(service) as client:
        client.queue("stop/" + broker, "kept")
        begin = time.monotonic()
        service.run("systemctl", "stop", SERVICE)
        took = time.monotonic() - begin
        last = client.reply()
        assert (last["status"], last["error"], last["id"]) == ("error", "stopping", None)
        assert client.reply() is None
    assert service.show(SERVICE, "ActiveState", "Result", "ExecMainCode", "ExecMainStatus") == {
        "ActiveState": "inactive", "Result": "success",
        "ExecMainCode": "1", "ExecMainStatus": "0"}  # 1 = exited
    assert took < 16


# --- crash --------------------------------------------------------------------------------------


def test_killed_and_back_with_its_messages(service, recorded):
    service.run("systemctl", "stop", "test-broker.service")
    with Client(service) as client:
        client.queue("crash/kept", *(f"m{n}" for n in range(50)))
    restarts = int(service.show(SERVICE, "NRestarts"))
    service.run("systemctl", "kill", "--signal=KILL", SERVICE)
    wait_state(service, ActiveState="active", NRestarts=str(restarts + 1))
    service.run("systemctl", "start", "test-broker.service")
    assert recorded("crash/kept", 50) == [f"m{n}" for n in range(50)]


def test_connections_wait_out_a_restart(service, drop_in, recorded):
    drop_in(SERVICE, "[Service]\nRestartSec=1500ms\n")
    service.run("systemctl", "kill", "--signal=KILL", SERVICE)
    wait_for(lambda: service.show(SERVICE, "SubState") == "auto-restart", 5, "the crash")
    with Client(service) as client:
        client.send("crash/waited", "a")
        assert service.show(SERVICE, "SubState") == "auto-restart"
        assert client.reply()["status"] == "queued"
    assert recorded("crash/waited", 1) == ["a"]


@pytest.mark.parametrize("thread", [None, "uplink"], ids=["first-thread", "uplink-thread"])
def test_watchdog(service, drop_in, recorded, thread):
    """Either thread stuck is enough: the other one does not feed the watchdog alone."""
    since = time.time()
    drop_in(SERVICE, "[Service]\nWatchdogSec=2\nTimeoutAbortSec=3\nRestartSec=100ms\n")
    service.run("systemctl", "restart", SERVICE)
    wait_connected(service)
    with Frozen(main_pid(service), thread):
        wait_state(service, timeout=20, ActiveState="active", NRestarts="1")
    assert any("Watchdog timeout" in entry["MESSAGE"] for entry in journal(service, since))
    with Client(service) as client:
        client.queue(f"watchdog/{thread}", "a")
    assert recorded(f"watchdog/{thread}", 1) == ["a"]


# --- reload -------------------------------------------------------------------------------------


def test_reload(service, config, recorded):
    """Applied while it stays active; its client goes on."""
    since = time.time()
    pid = main_pid(service)
    with Client(service) as client:
        client.queue("reload/good", "a")
        config(CONFIG + 'mqtt: { keepalive = 30; };\nqueue: { sync = "normal"; };\n')
        service.run("systemctl", "reload", SERVICE)
        wait_for(lambda: any(entry["MESSAGE"].startswith("reloaded: mqtt.keepalive; restart needed "
                                                         "for queue.sync")
                             for entry in journal(service, since)), 10, "the log to tell of it")
        wait_state(service, ActiveState="active", SubState="running")
        client.queue("reload/good", "b")
        assert recorded("reload/good", 2) == ["a", "b"]
    wait_connected(service)
    assert main_pid(service) == pid
    assert service.show(SERVICE, "NRestarts") == "0"


def test_reload_of_a_faulty_file(service, config, recorded):
    """systemctl says so and the journal why; the service goes on as it was. By a signal, too."""
    since = time.time()
    pid = main_pid(service)
    with Client(service) as client:
        config(CONFIG + "no_such_key = 1;\n")
        done = service.run("systemctl", "reload", SERVICE, check=False)
        assert done.returncode != 0
        entries = journal(service, since)
        assert any("mqttgw.conf:3: " in e["MESSAGE"] and "no_such_key" in e["MESSAGE"]
                   for e in entries)
        assert not any("stays" in e["MESSAGE"] for e in entries)
        service.run("systemctl", "kill", "--kill-who=main", "--signal=HUP", SERVICE)
        wait_for(lambda: any("the old configuration stays" in e["MESSAGE"]
                             for e in journal(service, since)), 10, "the daemon to refuse it")
        wait_state(service, ActiveState="active", SubState="running")
        client.queue("reload/faulty", "a")
        assert recorded("reload/faulty", 1) == ["a"]
    assert main_pid(service) == pid


def test_reload_under_way_is_shown(service, config):
    """RELOADING=1 and READY=1 by themselves: a signal alone leaves the service running."""
    for _ in range(5):
        service.run("systemctl", "kill", "--kill-who=main", "--signal=HUP", SERVICE)
    wait_state(service, ActiveState="active", SubState="running")
    service.run("systemctl", "reload", SERVICE)
    wait_state(service, ActiveState="active", SubState="running")


def test_reload_and_credentials(service, config, drop_in):
    """A credential is a snapshot of the start, and the log says so."""
    service.write("/etc/test-password", "first\n")
    drop_in(SERVICE, "[Service]\nLoadCredential=broker-password:/etc/test-password\n")
    config('brokers: ( { host = "127.0.0.1"; username = "gw"; password_file = "broker-password"; } );\n'
           "retry: { base = 0.1; max = 0.5; };\n")
    service.run("systemctl", "restart", SERVICE)
    wait_connected(service)
    service.write("/etc/test-password", "second\n")
    since = time.time()

    def told(text):
        wait_for(lambda: any(text in entry["MESSAGE"] for entry in journal(service, since)), 10,
                 f"the log to say {text!r}")

    service.run("systemctl", "kill", "--kill-who=main", "--signal=HUP", SERVICE)
    told("reloaded: nothing has changed")
    told("broker-password: a systemd credential")
    # Whether there is a new one now is systemd's affair; the look at the file does not fail for it.
    since = time.time()
    done = service.run("systemctl", "reload", SERVICE, check=False)
    assert done.returncode == 0, [entry["MESSAGE"] for entry in journal(service, since)]
    told("reloaded: ")
    wait_connected(service)


# --- faulty configuration -----------------------------------------------------------------------


def test_faulty_configuration_is_no_restart_loop(service, config):
    since = time.time()
    config(CONFIG + "no_such_key = 1;\n")
    done = service.run("systemctl", "restart", SERVICE, check=False)
    assert done.returncode != 0
    assert service.show(SERVICE, "ActiveState", "SubState", "ExecMainStatus", "NRestarts") == {
        "ActiveState": "failed", "SubState": "failed", "ExecMainStatus": "78", "NRestarts": "0"}
    assert any("no_such_key" in entry["MESSAGE"] for entry in journal(service, since))


def test_faulty_configuration_and_a_client_that_waits(service, config):
    """The socket starts the daemon for each connection: that must come to an end, and be mended."""
    config(CONFIG + "no_such_key = 1;\n")
    service.run("systemctl", "restart", SERVICE, check=False)
    with Client(service) as client:
        client.send("config/waited", "a")
        wait_for(lambda: service.show(SOCKET, "ActiveState") == "failed", 30, "an end of the starts")
        assert service.show(SOCKET, "Result") == "trigger-limit-hit"
    assert not is_socket(service.inside(PATH))
    config()
    service.run("systemctl", "start", SERVICE)
    with Client(service) as client:
        client.queue("config/mended", "a")
