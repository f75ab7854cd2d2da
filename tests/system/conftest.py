# SPDX-License-Identifier: MIT
"""One machine for all tests of this folder, with the built tree installed and a broker inside."""

import os
import re
import subprocess
import time
from pathlib import Path

import pytest

from confined import denied
from machine import Machine, wait_for, why_not

BROKER_CONF = """\
listener 1883
allow_anonymous true
persistence true
persistence_location /var/lib/mosquitto/
user root
"""

BROKER_UNIT = """\
[Service]
Type=notify
ExecStart=/usr/sbin/mosquitto -c /etc/test-broker.conf
"""

# Writes what the broker delivers, one "topic payload" a line. Keeps its session over a restart of
# the broker, so that nothing escapes it.
RECORDER_UNIT = """\
[Unit]
After=test-broker.service
[Service]
ExecStart=/usr/bin/mosquitto_sub -h 127.0.0.1 -i recorder -c -q 2 -t # -F "%%t %%p"
StandardOutput=append:/var/log/recorded
Restart=always
RestartSec=100ms
StartLimitIntervalSec=0
"""

# In the tests a system call that the units forbid is no error to be swallowed: see no_denied_call.
DENIED_CONF = """\
[Service]
SystemCallErrorNumber=kill
"""


def pytest_configure(config):
    config.addinivalue_line("markers", "denies: a system call is denied in it, on purpose")


def pytest_report_header(config):
    reason = why_not()
    return f"system tests: NOT RUN: {reason}" if reason else "system tests: in systemd-nspawn"


@pytest.fixture(scope="session")
def build():
    tree = os.environ.get("MQTTGW_BUILD")
    if not tree:
        pytest.fail("MQTTGW_BUILD names no build directory; use `make check-system`")
    return Path(tree).resolve()


@pytest.fixture(scope="session")
def machine(build):
    reason = why_not()
    if reason:
        pytest.skip("NOT RUN: " + reason)
    m = Machine()
    try:
        m.make_disk()
        install = m.on_disk("make", "-C", build, "install", f"DESTDIR={m.dir}/m", check=False,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert install.returncode == 0, install.stdout
        m.path("/etc/test-broker.conf").write_text(BROKER_CONF)
        units = m.path("/etc/systemd/system")
        (units / "test-broker.service").write_text(BROKER_UNIT)
        (units / "test-recorder.service").write_text(RECORDER_UNIT)
        for unit in "mqtt-gatewayd.service", "mqtt-gatewayd@.service", "mqttgw-report.service":
            folder = units / f"{unit}.d"
            folder.mkdir()
            (folder / "denied.conf").write_text(DENIED_CONF)
        m.boot()
        # What an administrator does once after `make install`.
        m.run("systemd-sysusers", "mqttgw.conf")
        m.run("systemd-tmpfiles", "--create", "mqttgw.conf")
        m.run("systemctl", "daemon-reload")
        m.run("journalctl", "--update-catalog")
        m.run("useradd", "--groups", "mqttgw-clients", "member")
        m.run("useradd", "stranger")
        m.run("systemctl", "start", "test-broker.service", "test-recorder.service")
        log = m.inside("/var/log/recorded")

        def recording():
            m.run("mosquitto_pub", "-h", "127.0.0.1", "-t", "probe", "-m", "x", "-q", "1")
            return log.exists() and log.stat().st_size > 0
        wait_for(recording, 10, "the recorder")
        yield m
    finally:
        m.close()


@pytest.fixture(autouse=True)
def no_denied_call(request):
    """Whatever a test does with the services: none of their processes makes a call that the unit's
    SystemCallFilter= leaves out, be it one that a library tries and goes on without."""
    since = time.time()
    yield
    if "machine" in request.fixturenames and not request.node.get_closest_marker("denies"):
        assert denied(request.getfixturevalue("machine"), since) == []


@pytest.fixture(scope="session")
def config_path(machine):
    """The configuration file that the installed unit names."""
    unit = machine.run("systemctl", "cat", "mqtt-gatewayd.service").stdout
    return re.search(r"^ExecStart=\S+ -c (\S+)$", unit, re.M).group(1)


@pytest.fixture
def drop_in(machine):
    """drop_in("mqtt-gatewayd.service", "[Service]\\n..."): an override that ends with the test."""
    files = []

    def add(unit, text):
        path = f"/run/systemd/system/{unit}.d/test.conf"
        machine.write(path, text)
        files.append(path)
        machine.run("systemctl", "daemon-reload")

    yield add
    for path in files:
        machine.inside(path).unlink()
    if files:
        machine.run("systemctl", "daemon-reload")


@pytest.fixture
def recorded(machine):
    """recorded(topic, n): waits until n payloads of the topic reached the recorder."""
    log = machine.inside("/var/log/recorded")

    def payloads(topic):
        text = log.read_text() if log.exists() else ""
        return [p for t, p in (line.split(" ", 1) for line in text.splitlines()) if t == topic]

    def wait(topic, n, timeout=20):
        wait_for(lambda: len(payloads(topic)) >= n, timeout,
                 f"{n} messages of {topic}, {len(payloads(topic))} came")
        return payloads(topic)

    return wait
