# SPDX-License-Identifier: MIT
"""A gateway that does not run, hangs, or is not for this user: every command
of mqttgwctl says which, in one line."""

import os
import re
import socket
import subprocess
import time
from pathlib import Path

import pytest
from harness import TIME_FACTOR
from harness.ctltools import Stopped, program, run
from harness.ports import free_port

#: Each command that needs the gateway.
COMMANDS = [
    "status",
    "status --json",
    "watch",
    "pub -t t -m x",
    "pub -t t -l",
    "queue list",
    "queue show 1",
    "queue export",
    "queue purge --yes",
    "queue purge --topic #",
    "dead list",
    "dead show 1",
    "dead export",
    "dead requeue",
    "dead purge 1",
    "flush",
    "flush --timeout 0",
    "reconnect",
]

NOBODY = {"user": 65534, "group": 65534, "extra_groups": []}


@pytest.fixture
def gateway(make_daemon):
    """A daemon, not started yet."""
    return make_daemon(free_port())


def start_all(binary, gateway, commands=COMMANDS, **options):
    """All of them at once: those that wait do it beside each other."""
    return {
        command: subprocess.Popen(
            [program(binary), "-c", str(gateway.config_path), *command.split()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )
        for command in commands
    }


def expect_all(processes, code, said):
    for command, process in processes.items():
        out, err = process.communicate("line\n", timeout=30 * TIME_FACTOR)
        assert (process.returncode, out) == (code, ""), (command, err)
        assert re.fullmatch(rf"mqttgwctl: {said}\n", err), (command, err)


def test_never_started(binary, gateway):
    sockets = "|".join(
        re.escape(str(path))
        for path in (gateway.control_path, gateway.socket_path)
    )
    expect_all(
        start_all(binary, gateway),
        3,
        rf"the gateway does not run: there is no socket ({sockets})",
    )


def test_stopped(binary, gateway):
    gateway.start()
    assert run(binary, "-c", gateway.config_path, "status").returncode == 0
    gateway.stop()
    expect_all(
        start_all(binary, gateway), 3, "the gateway does not run: there is no .*"
    )


def test_killed(binary, gateway):
    """The sockets are still there."""
    gateway.start()
    gateway.kill9()
    assert gateway.control_path.exists()
    expect_all(
        start_all(binary, gateway), 3, "the gateway does not run: nobody .*"
    )


def test_hung(binary, gateway):
    """The kernel takes connections for it; nobody answers."""
    gateway.start()
    begin = time.monotonic()
    with Stopped(gateway.process.pid):
        expect_all(
            start_all(binary, gateway),
            3,
            r"the gateway hangs: no answer at \S+ for 5 seconds",
        )
    assert time.monotonic() - begin < 15 * TIME_FACTOR
    # What they asked for and gave up is no harm.
    assert run(binary, "-c", gateway.config_path, "status").returncode == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
@pytest.mark.parametrize("folder", [False, True], ids=["socket", "folder"])
def test_no_permission(binary, gateway, tmp_path, folder):
    """Neither for the sockets, nor for the folder that they are in."""
    gateway.start()
    # Readable, whatever the folder of the sockets is.
    config = Path("/tmp") / f"{gateway.directory.name}.conf"
    config.write_text(gateway.config_path.read_text())
    config.chmod(0o644)
    gateway.config_path = config
    gateway.directory.chmod(0o700 if folder else 0o755)
    gateway.control_path.chmod(0o660)
    gateway.socket_path.chmod(0o660)
    try:
        expect_all(
            start_all(binary, gateway, **NOBODY),
            1,
            r"no permission to use \S+; run it as root or as .*",
        )
    finally:
        config.unlink()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_configuration_that_is_secret(binary, gateway):
    """Named, it must be readable; the default one need not be."""
    gateway.start()
    gateway.directory.chmod(0o755)
    gateway.config_path.chmod(0o640)
    done = run(binary, "-c", gateway.config_path, "status", **NOBODY)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(
        rf"mqttgwctl: {re.escape(str(gateway.config_path))} cannot be read: "
        "Permission denied; run it as root or as the gateway's user\n",
        done.stderr,
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
@pytest.mark.parametrize("content", ["secret", "broken", "missing"])
def test_the_default_configuration(binary, gateway, tmp_path, content):
    """Secret, broken or missing: without a word, the sockets are where they
    are by default."""
    gateway.start()
    etc, run_ = tmp_path / "etc", tmp_path / "run"
    for folder in (tmp_path, etc, run_):
        folder.mkdir(exist_ok=True)
        folder.chmod(0o755)
    for parent in tmp_path.parents:
        if parent == Path("/tmp"):
            break
        parent.chmod(0o755)
    (run_ / "mqttgw").mkdir()
    os.link(gateway.control_path, run_ / "mqttgw" / "control.sock")
    os.link(gateway.socket_path, run_ / "mqttgw.sock")
    for path in (run_ / "mqttgw" / "control.sock", run_ / "mqttgw.sock"):
        path.chmod(0o666)
    if content != "missing":
        config = etc / "mqttgw.conf"
        config.write_text(
            'control: { path = "/nonexistent" ' + ("};" if content == "secret" else "")
        )
        config.chmod(0o640 if content == "secret" else 0o644)
    for command in ("status --json", "pub -t t -m x"):
        done = subprocess.run(
            [
                "unshare", "--mount", "sh", "-c",
                f"mount --bind '{run_}' /run && mount --bind '{etc}' /etc && "
                'exec setpriv --reuid 65534 --regid 65534 --clear-groups "$@"',
                "sh", program(binary), *command.split(),
            ],
            capture_output=True, text=True, timeout=20 * TIME_FACTOR,
        )
        assert (done.returncode, done.stderr) == (0, ""), command


def test_a_socket_of_another_kind(binary, tmp_path):
    """No stack of errors either."""
    path = tmp_path / "c.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(path))
        done = run(binary, "--socket", path, "status")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.count("\n") == 1 and str(path) in done.stderr
    done = run(binary, "--socket", "/" + "x" * 200, "status")
    assert (done.returncode, done.stderr.count("\n")) == (3, 1)


def test_it_dies_meanwhile(binary, gateway):
    """flush waits, and is told the end of whom it waits for."""
    gateway.start()
    run(binary, "-c", gateway.config_path, "pub", "-t", "t", "-m", "x")
    processes = start_all(binary, gateway, ["flush"])
    time.sleep(1)
    assert processes["flush"].poll() is None
    gateway.kill9()
    expect_all(
        processes, 3, r"the gateway has closed the connection at \S+"
    )
