# SPDX-License-Identifier: MIT
"""mqttgw-report as a service: confined, beside the daemon, and alive when that is not."""

import json
import time
from pathlib import Path

import pytest

from machine import wait_for

DAEMON = "mqtt-gatewayd.service"
SOCKET = "mqtt-gatewayd.socket"
SERVICE = "mqttgw-report.service"
STATE = "/var/lib/private/mqttgw-report/state.json"
ALERTS = "/var/log/alerts"

CONFIG = """\
gateway: { id = "plant-7"; };
brokers: ( { host = "127.0.0.1"; port = 1883; } );
retry: { base = 0.1; max = 0.5; };
report: {
	push_url = "http://127.0.0.1:9091";
	alert_url = "http://127.0.0.1:9099/alerts";
	interval = 1;
};
"""

# Appends each alert to a file before it answers.
RECEIVER = f"""\
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with open({ALERTS!r}, "ab") as f:
            f.write(body + b"\\n")
        self.send_response(204)
        self.end_headers()
http.server.ThreadingHTTPServer(("127.0.0.1", 9099), Handler).serve_forever()
"""

UNITS = {
    "test-pushgateway.service":
        "[Service]\nExecStart=/usr/bin/prometheus-pushgateway"
        " --web.listen-address=127.0.0.1:9091\n",
    "test-receiver.service":
        "[Service]\nExecStart=/usr/bin/python3 /usr/local/bin/test-receiver\n",
}


@pytest.fixture(scope="module")
def receivers(machine):
    if not machine.inside("/usr/bin/prometheus-pushgateway").exists():
        pytest.skip("NOT RUN: prometheus-pushgateway is not installed")
    machine.write("/usr/local/bin/test-receiver", RECEIVER)
    for name, text in UNITS.items():
        machine.write(f"/run/systemd/system/{name}", text)
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "start", *UNITS)
    yield machine
    machine.run("systemctl", "stop", *UNITS)


@pytest.fixture
def config(machine, config_path):
    """The configuration of these tests; as it was before afterwards."""
    path = machine.inside(config_path)
    before = path.read_text()

    def write(text=CONFIG):
        path.write_text(text)

    write()
    yield write
    path.write_text(before)


@pytest.fixture
def service(receivers, config):
    """The report, running beside the daemon, with nothing to tell yet."""
    machine = receivers
    machine.inside(ALERTS).unlink(missing_ok=True)
    machine.run("systemctl", "reset-failed", DAEMON, SOCKET, check=False)
    machine.run("systemctl", "restart", DAEMON)
    machine.run("systemctl", "stop", SERVICE)
    machine.run("rm", "-f", STATE)
    machine.run("systemctl", "start", SERVICE)
    yield machine
    machine.run("systemctl", "stop", SERVICE)
    machine.run("systemctl", "reset-failed", SERVICE, check=False)


def alerts(machine):
    log = machine.inside(ALERTS)
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def wait_alert(machine, kind, n=1, timeout=40):
    def there():
        found = [alert for alert in alerts(machine) if alert["kind"] == kind]
        return found if len(found) >= n else None
    return wait_for(there, timeout, f"{n} alerts {kind}; there are {alerts(machine)}")


def samples(machine):
    script = ("import sys, urllib.request\n"
              "with urllib.request.urlopen('http://127.0.0.1:9091/metrics') as f:\n"
              "    sys.stdout.write(f.read().decode())\n")
    text = machine.run("/usr/bin/python3", "-c", script).stdout
    return dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))


def main_pid(machine):
    return machine.host_pid(machine.show(SERVICE, "MainPID"))


# --- installed ----------------------------------------------------------------------------------


def test_unit_is_clean(machine):
    path = machine.show(SERVICE, "FragmentPath")
    done = machine.run("systemd-analyze", "verify", "--man=no", path, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_service_is_confined(machine):
    machine.run("systemd-analyze", "security", "--no-pager", "--threshold=10", SERVICE)


def test_is_not_enabled(machine):
    done = machine.run("systemctl", "is-enabled", SERVICE, check=False)
    assert done.stdout == "disabled\n"


def test_lives_by_itself(machine):
    """Whatever becomes of the daemon is none of systemd's reasons to end it."""
    names = "Requires", "Requisite", "BindsTo", "PartOf", "After"
    shown = machine.show(SERVICE, *names)
    assert not [name for name in names if "mqtt" in shown[name]]


# --- running ------------------------------------------------------------------------------------


def test_runs_as_nobody_in_particular(service):
    shown = service.show(SERVICE, "ActiveState", "SubState", "NRestarts")
    assert shown == {"ActiveState": "active", "SubState": "running", "NRestarts": "0"}
    status = Path(f"/proc/{main_pid(service)}/status").read_text()
    fields = dict(line.split(":", 1) for line in status.splitlines())
    uid = fields["Uid"].split()
    known = service.run("id", "-u", "mqttgw").stdout.strip()
    group = service.run("id", "-g", "mqttgw").stdout.strip()
    assert len(set(uid)) == 1 and uid[0] not in ("0", known)
    assert group in fields["Groups"].split()
    assert fields["CapEff"].split() == ["0" * 16]
    service.run("journalctl", "--sync")
    lines = service.run("journalctl", "-u", SERVICE, "-t", "mqttgw-report", "-o", "cat").stdout
    assert "figures go to http://127.0.0.1:9091 every 1 s" in lines
    modes = service.run("stat", "-c", "%a", str(Path(STATE).parent)).stdout
    assert modes == "700\n"


def test_pushes_what_the_daemon_counts(service):
    service.run("mosquitto_pub", "-h", "127.0.0.1", "-t", "probe", "-m", "x")
    labels = '{instance="plant-7",job="mqttgw"}'
    wait_for(lambda: samples(service).get(f"mqttgw_queue_messages{labels}") == "0",
             15, "the length of the queue at the Pushgateway")


def test_daemon_stopped_and_started(service):
    wait_for(lambda: "pushes" in service.show(SERVICE, "StatusText"), 10, "a status line")
    service.run("systemctl", "stop", DAEMON, SOCKET)
    gone, = wait_alert(service, "daemon-gone")
    assert gone["gateway"] == "plant-7"
    assert gone["message"].startswith("the gateway cannot be reached")
    assert service.show(SERVICE, "ActiveState") == "active"
    service.run("systemctl", "start", DAEMON)
    back, = wait_alert(service, "daemon-back")
    assert (back["instance"], back["seq"]) == (gone["instance"], gone["seq"] + 1)
    assert service.show(SERVICE, "NRestarts") == "0"


def test_short_restart_is_no_alert(service):
    service.run("systemctl", "restart", DAEMON)
    service.run("systemctl", "kill", "--signal=KILL", DAEMON)
    wait_for(lambda: service.show(DAEMON, "SubState") == "running", 15, "the daemon")
    time.sleep(16)
    assert not [a for a in alerts(service) if a["kind"].startswith("daemon-")]


def test_killed_and_back(service):
    """What it knew is in its folder; the alert is told once."""
    service.run("systemctl", "stop", DAEMON, SOCKET)
    wait_alert(service, "daemon-gone")
    service.run("systemctl", "kill", "--signal=KILL", SERVICE)
    wait_for(lambda: service.show(SERVICE, "SubState", "NRestarts") ==
             {"SubState": "running", "NRestarts": "1"}, 15, "its restart")
    assert json.loads(service.inside(STATE).read_text())["told"] == "daemon-gone"
    time.sleep(17)
    service.run("systemctl", "start", DAEMON)
    wait_alert(service, "daemon-back")
    assert len(wait_alert(service, "daemon-gone")) == 1


def test_reload(service, config):
    config(CONFIG.replace("plant-7", "plant-8"))
    service.run("systemctl", "reload", SERVICE)
    labels = '{instance="plant-8",job="mqttgw"}'
    wait_for(lambda: f"mqttgw_queue_messages{labels}" in samples(service), 15, "another instance")
    assert service.show(SERVICE, "NRestarts") == "0"


@pytest.mark.parametrize("text", ["no_such_key = 1;\n", "report: { };\n"])
def test_no_restart_loop(receivers, config, text):
    config(text)
    assert receivers.run("systemctl", "restart", SERVICE, check=False).returncode != 0
    assert receivers.show(SERVICE, "ActiveState", "ExecMainStatus", "NRestarts") == {
        "ActiveState": "failed", "ExecMainStatus": "78", "NRestarts": "0"}
    receivers.run("systemctl", "reset-failed", SERVICE)
