# SPDX-License-Identifier: MIT
"""Secrets stay where they are: in no log at any level, no status, no printed configuration.

Each secret is a word of its own, so that a leak tells which one it was.
"""

import os
import stat
import subprocess
from pathlib import Path

import pytest

from harness import Client, wait_until
from harness.ports import LOOPBACK, free_port
from harness.report import Report

PASSWORD = "pass-zq1word"
OTHER = "other-zq2word"
USER = "zq3user"
TOKEN = "token-zq4word"
PAYLOAD = "payload-zq5word"


@pytest.fixture
def report_binary(binary):
    path = Path(binary).with_name("mqttgw-report")
    if not path.exists():
        pytest.skip("built without mqttgw-report")
    return str(path)


@pytest.fixture
def ctl(binary):
    """ctl(DAEMON, ARGUMENT...): mqttgwctl with the daemon's configuration."""
    program = Path(binary).with_name("mqttgwctl")

    def run(daemon, *arguments):
        return subprocess.run(
            [program, "-c", daemon.config_path, *arguments],
            stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=30, env=daemon.environment(),
        )

    return run


def key_line(path):
    """The second line of a PEM file: bytes of the key."""
    return Path(path).read_text().splitlines()[1]


def assert_hidden(text, *secrets):
    for secret in secrets:
        assert secret not in text


def test_debug_log_status_and_print(
    make_daemon, make_mosquitto, certs, ctl
):
    """With everything that can go wrong with a password and a key."""
    broker = make_mosquitto(users={"gw": OTHER}).start()
    client = certs.client
    daemon = make_daemon(
        broker.port,
        broker={"username": "gw", "password": PASSWORD},
        log={"level": "debug"},
    )
    # A second one speaks TLS, with a key, to nobody who does.
    daemon.settings["brokers"].append({
        "host": LOOPBACK, "port": free_port(), "username": "gw",
        "password": OTHER + "-2",
        "tls": {"ca_file": certs.ca.cert, "cert_file": client.cert,
                "key_file": client.key},
    })
    daemon.write_config()
    daemon.config_path.chmod(0o644)
    key = key_line(client.key)
    hidden = PASSWORD, OTHER, key, PAYLOAD
    daemon.start()
    daemon.wait_output("is readable by others")
    daemon.wait_output("refuses our password|auth")
    with Client(daemon.socket_path) as local:
        reply = local.ask({"topic": "t", "payload": PAYLOAD, "id": 1})
        assert reply["status"] == "queued"
    for command in ("status", "--json"), ("status",), ("reconnect",):
        done = ctl(daemon, *command)
        assert_hidden(done.stdout + done.stderr, *hidden)
    done = daemon.run("-c", str(daemon.config_path), "--print-config")
    assert done.returncode == 0 and '"***"' in done.stdout
    assert_hidden(done.stdout + done.stderr, *hidden)

    # The right one; and a change that is told, without what it was and is.
    daemon.settings["brokers"][0]["password"] = OTHER
    daemon.write_config()
    daemon.process.signal(1)
    daemon.wait_output("reloaded: .*password")
    daemon.wait_output("connecting -> connected")
    daemon.stop()
    assert_hidden(daemon.output(), *hidden)


BAD = [
    'password = "{0}',
    "password = {0};",
    "password = 98765432109876;",
    "password = 0x98765432109876;",
    'pasword = "{0}";',
    'password = ["{0}"];',
    'password = {{ x = "{0}"; }};',
    'password == "{0}";',
    'password "{0}";',
    'password = "{0}\\x00";',
    'password = "{0}"; password = "{0}";',
    'password = "{0}" /* never ends',
    'host = "mqtt://u:{0}@h";',
    'host = "u:{0}@h"; port = 0;',
]
BAD_URLS = [
    "http://u:{0}@h:99999/", "ftp://u:{0}@h/", "u:{0}@h", "http://u:{0}/x@h",
    "http://h x/?t={0}",
]


@pytest.mark.parametrize("line", BAD + BAD_URLS)
def test_faults_do_not_quote_them(binary, make_daemon, tmp_path, line):
    daemon = make_daemon(free_port())
    text = line.format(PASSWORD)
    if line in BAD:
        text = f'brokers: ( {{ host = "h"; username = "u"; {text} }} );\n'
    else:
        text = f'report: {{ push_url = "{text}"; }};\n'
    daemon.config_path.write_text(text)
    for option in "--check-config", "--print-config":
        done = daemon.run("-c", str(daemon.config_path), option)
        assert done.returncode == 78
        assert_hidden(done.stdout + done.stderr, PASSWORD, "98765")
    program = Path(binary).with_name("mqttgw-report")
    if program.exists() and line in BAD_URLS:
        daemon.binary = str(program)
        done = daemon.run("-c", str(daemon.config_path))
        assert done.returncode == 78
        assert_hidden(done.stdout + done.stderr, PASSWORD)


def test_report(report_binary, make_daemon):
    """URLs with user, password and token: refused, not reached and printed."""
    daemon = make_daemon(free_port(), log={"level": "debug"}).start()
    with_secrets = f"//{USER}:{PASSWORD}@{LOOPBACK}:{free_port()}/hook?t={TOKEN}"
    made = Report(
        report_binary, daemon.control_path, interval=1,
        push_url="http:" + with_secrets, alert_url="http:" + with_secrets,
    )
    try:
        assert PASSWORD in made.config_path.read_text()
        made.config_path.chmod(0o644)
        made.start()
        wait_until(lambda: "not pushed" in made.output(), 15, "a failed push")
        wait_until(lambda: "readable by others" in made.output(), 1, "warning")
        state = "".join(
            path.read_text(errors="replace")
            for path in made.directory.rglob("state*") if path.is_file()
        )
        assert_hidden(made.output() + state, USER, PASSWORD, TOKEN, "hook")
    finally:
        made.close()


def test_files_are_ours_alone(make_daemon):
    """Whatever the mask of whoever starts it."""
    daemon = make_daemon(free_port(), queue={"max_bytes": "64M"})
    mask = os.umask(0)
    try:
        daemon.start()
    finally:
        os.umask(mask)
    with Client(daemon.socket_path) as local:
        reply = local.ask({"topic": "t", "payload": PAYLOAD, "id": 1})
        assert reply["status"] == "queued"
    files = [path for path in daemon.state.iterdir()]
    assert {"queue.db", "queue.db-wal", "queue.db-shm", "queue.db.lock"} <= {
        path.name for path in files}
    for path in files:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    daemon.stop()
