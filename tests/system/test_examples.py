# SPDX-License-Identifier: MIT
"""Units that users build upon: a program that depends on the socket, two gateways on one machine."""

import json
import re
from pathlib import Path

import pytest

from machine import is_socket, wait_for
from test_service import SERVICE, SOCKET, config, service, wait_connected  # noqa: F401

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
INSTANCES = ("east", "west")


def active(machine, unit):
    return machine.show(unit, "ActiveState")


def wait_active(machine, unit, state="active"):
    wait_for(lambda: active(machine, unit) == state, 15, f"{unit} to be {state}")


# --- a program that depends on the socket --------------------------------------------------------


@pytest.fixture
def sensor(service, config_path):  # noqa: F811
    """examples/sensor.service, installed as its README says, with readings every 0.05 s."""
    service.write("/usr/local/bin/publish.py", (EXAMPLES / "publish.py").read_text(), 0o755)
    unit = (EXAMPLES / "sensor.service").read_text()
    assert "sleep 10;" in unit
    service.write("/etc/systemd/system/sensor.service", unit.replace("sleep 10;", "sleep 0.05;"))
    service.run("systemctl", "daemon-reload")
    done = service.run("systemd-analyze", "verify", "--man=no",
                       "/etc/systemd/system/sensor.service", check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    service.run("systemctl", "start", "sensor.service")
    yield service
    service.run("systemctl", "stop", "sensor.service")
    service.inside("/etc/systemd/system/sensor.service").unlink()
    service.run("systemctl", "daemon-reload")
    service.run("systemctl", "start", SOCKET, SERVICE)


def test_a_sensor_outlives_the_gateway(sensor, recorded):
    """What the unit's comments say of stop and restart, one by one."""
    def more():
        return len(recorded("sensors/load", len(recorded("sensors/load", 1)) + 3))
    more()
    first = sensor.show("sensor.service", "MainPID")
    for verb in "restart", "stop":
        before = sensor.show(SERVICE, "InvocationID")
        sensor.run("systemctl", verb, SERVICE)
        # Stopped, it is started again by the sensor's next attempt.
        wait_active(sensor, SERVICE)
        assert sensor.show(SERVICE, "InvocationID") != before
        wait_connected(sensor)
        more()
    shown = sensor.show("sensor.service", "ActiveState", "MainPID", "NRestarts")
    assert shown == {"ActiveState": "active", "MainPID": first, "NRestarts": "0"}

    sensor.run("systemctl", "stop", SOCKET)
    for unit in "sensor.service", SERVICE, SOCKET:
        wait_active(sensor, unit, "inactive")
    assert not is_socket(sensor.inside("/run/mqttgw.sock"))


# --- two gateways on one machine -----------------------------------------------------------------


def test_templates_differ_by_names_alone(machine):
    """Whatever is changed in the one unit is in the other."""
    for kind in "service", "socket":
        plain, template = (
            Path(machine.inside(Path(machine.show(SERVICE, "FragmentPath")).with_name(name)))
            .read_text().splitlines()
            for name in (f"mqtt-gatewayd.{kind}", f"mqtt-gatewayd@.{kind}"))
        assert [re.sub("(, |[@/-])%i", "", line) for line in template] == plain
        # And no place is left that two of them would share.
        assert not [line for line in template if not line.startswith("#") and re.search(
            r"etc/mqttgw\.conf|(run|lib)/mqttgw(?!-%i)|Directory=mqttgw$|gatewayd\.socket", line)]


@pytest.fixture
def instances(service, config_path):  # noqa: F811
    """Two beside the plain one, from examples/east.conf; returns their configurations' paths."""
    folder = str(Path(config_path).with_suffix(""))
    example = (EXAMPLES / "east.conf").read_text()
    assert 'brokers: ( { host = "east.example.org"; tls: { }; } );' in example
    example = re.sub("brokers: .*", 'brokers: ( { host = "127.0.0.1"; } );', example)
    paths = {name: f"{folder}/{name}.conf" for name in INSTANCES}
    for name, path in paths.items():
        service.write(path, example.replace("east", name))
    service.run("systemd-tmpfiles", "--create", "mqttgw.conf")
    yield paths
    for name in INSTANCES:
        service.run("systemctl", "disable", "--now", f"mqtt-gatewayd@{name}.socket",
                    f"mqtt-gatewayd@{name}.service")


def publish(machine, name, payload):
    machine.write("/usr/local/bin/publish.py", (EXAMPLES / "publish.py").read_text(), 0o755)
    machine.run("env", f"MQTTGW_SOCKET=/run/mqttgw-{name}.sock", "/usr/local/bin/publish.py",
                f"two/{name}", user="member", input=payload + "\n")


def test_two_gateways_on_one_machine(service, instances, recorded):  # noqa: F811
    def status(name):
        done = service.run("mqttgwctl", "-c", instances[name], "status", "--json", check=False)
        return json.loads(done.stdout) if done.returncode == 0 else {"state": done.stderr}

    for name in INSTANCES:
        # As `systemctl enable --now` of both units; the service is enabled with its socket.
        service.run("systemctl", "enable", "--now", f"mqtt-gatewayd@{name}.service")
        enabled = service.run("systemctl", "is-enabled", f"mqtt-gatewayd@{name}.service",
                              f"mqtt-gatewayd@{name}.socket").stdout
        assert enabled == "enabled\nenabled\n"
        publish(service, name, f"from {name}")
        assert recorded(f"two/{name}", 1) == [f"from {name}"]
        shown = status(name)
        assert (shown["socket"], shown["gateway"]) == (f"/run/mqttgw-{name}.sock", f"site7-{name}")
        stat = service.run("stat", "-c", "%U %G %a", instances[name], f"/var/lib/mqttgw-{name}",
                           f"/var/lib/mqttgw-{name}/queue.db", f"/run/mqttgw-{name}").stdout
        assert stat == "root mqttgw 640\nmqttgw mqttgw 700\nmqttgw mqttgw 600\nmqttgw mqttgw 750\n"
    # Nobody throws anybody out.
    for name in INSTANCES:
        wait_for(lambda: status(name)["state"] == "connected", 15, f"{name} to be connected")
    wait_connected(service)
    assert service.show(SERVICE, "NRestarts") == "0"
    # One stops, the others go on; and it is back with the next line.
    service.run("systemctl", "stop", "mqtt-gatewayd@east.service")
    assert active(service, "mqtt-gatewayd@west.service") == active(service, SERVICE) == "active"
    publish(service, "east", "again")
    assert recorded("two/east", 2) == ["from east", "again"]


def test_an_instance_is_confined_as_the_plain_one(service, instances):  # noqa: F811
    unit = "mqtt-gatewayd@east.service"
    service.run("systemctl", "start", unit)

    def exposure(name):
        said = service.run("systemd-analyze", "security", "--no-pager", name).stdout
        return said.splitlines()[-1].split(":", 1)[1]
    assert exposure(unit) == exposure(SERVICE)
    done = service.run("systemd-analyze", "verify", "--man=no", unit, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
