# SPDX-License-Identifier: MIT
"""The operator's tool, mqttgwctl, beside the daemon and without it."""

import os
import re
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest
from harness import Client, Flood, TIME_FACTOR, wait_until
from harness.ctltools import program
from harness.daemon import SANITIZER_REPORT
from harness.ports import free_port

PAGE = 4096
MIB = 1024 * 1024


@pytest.fixture
def ctl(binary):
    """ctl(DAEMON, ARGUMENT...): runs it with the daemon's configuration, or
    without any for None."""

    def run(daemon, *arguments, **options):
        options.setdefault("env", daemon.environment() if daemon else None)
        config = ["-c", str(daemon.config_path)] if daemon else []
        done = subprocess.run(
            [program(binary), *config, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=40 * TIME_FACTOR,
            **options,
        )
        assert not SANITIZER_REPORT.search(done.stderr), done.stderr
        return done

    return run


def feed(daemon, count):
    with Client(daemon.socket_path) as client:
        for reply in client.feed(
            {"topic": "t", "payload": "x" * 500, "id": number}
            for number in range(count)
        ):
            assert reply["status"] == "queued"


@pytest.fixture
def stopped(make_daemon):
    """A daemon that has stopped, with 500 messages in its queue."""
    daemon = make_daemon(free_port()).start()
    feed(daemon, 500)
    daemon.stop()
    return daemon


def expect_sound(done, daemon, messages=r"[\d,]+"):
    assert re.fullmatch(
        rf"{re.escape(str(daemon.queue_path))}: {messages} messages?, "
        r"0 dead letters: no finding\n",
        done.stdout,
    ), done
    assert (done.returncode, done.stderr) == (0, "")


def findings(done, daemon):
    """The lines before the summary, which counts them."""
    *lines, summary = done.stdout.splitlines()
    assert lines, done
    count = f"{len(lines)} finding{'s' if len(lines) > 1 else ''}"
    assert summary.startswith(f"{daemon.queue_path}: {count}; "), done
    assert (done.returncode, done.stderr) == (1, "")
    return lines


def overwrite_page(path, number):
    """SQLite counts pages from 1."""
    with open(path, "r+b") as file:
        file.seek((number - 1) * PAGE)
        assert len(file.read(PAGE)) == PAGE
        file.seek((number - 1) * PAGE)
        file.write(b"\xa5" * PAGE)


# --- a sound queue ------------------------------------------------------------


def test_beside_a_daemon_under_load(ctl, make_daemon, make_mosquitto):
    """A queue that is written to and drained all the time looks sound."""
    daemon = make_daemon(make_mosquitto().start().port).start()
    wal = Path(f"{daemon.queue_path}-wal")
    flood = Flood(
        daemon.socket_path, b'{"topic": "t", "payload": "0123456789"}\n'
    )
    try:
        wait_until(lambda: wal.stat().st_size > 0, 10, "something is written")
        for _ in range(5):
            expect_sound(ctl(daemon, "queue", "check"), daemon)
    finally:
        flood.stop()
    wait_until(
        lambda: " 0 messages, " in ctl(daemon, "queue", "check").stdout,
        60,
        "the queue is empty",
        interval=0.5,
    )


def test_the_log_starts_over_after_it(ctl, make_daemon, measured):
    """While a long queue is read the log grows; then it gets small again."""
    daemon = make_daemon(free_port()).start()
    wal = Path(f"{daemon.queue_path}-wal")
    flood = Flood(
        daemon.socket_path,
        b'{"topic": "t", "payload": "%s"}\n' % (b"x" * 400),
    )
    try:
        wait_until(
            lambda: daemon.queue_path.stat().st_size > 32 * MIB,
            60,
            "a long queue",
        )
        for _ in range(3):
            expect_sound(ctl(daemon, "queue", "check"), daemon)
        grown = wal.stat().st_size
        written = daemon.queue_path.stat().st_size + 2 * grown + 32 * MIB
        wait_until(
            lambda: daemon.queue_path.stat().st_size > written,
            60,
            "much more is written",
        )
        # It is cut to its limit when it starts over.
        wait_until(
            lambda: wal.stat().st_size <= 8 * MIB, 20, "the log is small"
        )
    finally:
        flood.stop()
    measured(
        f"mqttgwctl queue check: log of {grown / MIB:.1f} MiB after it "
        "beside a daemon under load"
    )
    daemon.stop()
    assert not wal.exists()


def test_without_a_daemon(ctl, stopped):
    """It writes nothing to the database; the next start finds it as it was."""
    content = stopped.queue_path.read_bytes()
    expect_sound(ctl(stopped, "queue", "check"), stopped, "500")
    assert stopped.queue_path.read_bytes() == content
    stopped.start()
    expect_sound(ctl(stopped, "queue", "check"), stopped, "500")
    assert "corrupt" not in stopped.output()


def test_after_a_crash(ctl, make_daemon):
    """What is in the log alone counts as well, and stays there."""
    daemon = make_daemon(free_port()).start()
    feed(daemon, 1200)
    daemon.kill9()
    wal = Path(f"{daemon.queue_path}-wal")
    content = wal.read_bytes()
    assert content
    expect_sound(ctl(daemon, "queue", "check"), daemon, "1,200")
    assert wal.read_bytes() == content


# --- one that is not ----------------------------------------------------------


def test_a_page_is_damaged(ctl, stopped):
    """The start does not look into the middle of the queue; the check does."""
    with closing(sqlite3.connect(stopped.queue_path)) as db:
        assert db.execute("PRAGMA page_size").fetchone() == (PAGE,)
        (pages,) = db.execute("PRAGMA page_count").fetchone()
    number = pages // 2
    overwrite_page(stopped.queue_path, number)
    lines = findings(ctl(stopped, "queue", "check"), stopped)
    assert any(f"age {number}" in line for line in lines), lines


def test_the_header_is_damaged(ctl, stopped):
    overwrite_page(stopped.queue_path, 1)
    lines = findings(ctl(stopped, "queue", "check"), stopped)
    assert "file is not a database" in lines[0]


def test_a_count_is_wrong(ctl, stopped):
    with closing(sqlite3.connect(stopped.queue_path)) as db, db:
        db.execute("UPDATE meta SET value = 7 WHERE key = 'queue_messages'")
    lines = findings(ctl(stopped, "queue", "check"), stopped)
    assert lines == ["meta: queue_messages is 7, and there are 500 rows"]


def test_findings_have_an_end_and_are_plain_text(ctl, stopped):
    """A hundred lines at most, none of which commands a terminal."""
    with closing(sqlite3.connect(stopped.queue_path)) as db, db:
        db.execute("PRAGMA ignore_check_constraints = ON")
        db.execute("UPDATE queue SET qos = 9")
    *lines, summary = ctl(stopped, "queue", "check").stdout.splitlines()
    assert len(lines) == 100
    assert "100 findings or more; " in summary
    with closing(sqlite3.connect(stopped.queue_path)) as db, db:
        db.execute('ALTER TABLE queue ADD COLUMN "a\x1b[2J\n\x9bb"')
    lines = findings(ctl(stopped, "queue", "check"), stopped)
    assert "a?[2J ??b" in lines[0]


# --- what keeps it from checking ----------------------------------------------


def expect_failure(done, text):
    assert (done.returncode, done.stdout) == (1, "")
    assert text in done.stderr


def test_no_queue(ctl, make_daemon):
    daemon = make_daemon(free_port())
    expect_failure(
        ctl(daemon, "queue", "check"),
        f"mqttgwctl: {daemon.queue_path} is not there",
    )
    assert list(daemon.state.iterdir()) == []


def test_the_queue_is_no_file(ctl, make_daemon):
    daemon = make_daemon(free_port())
    daemon.queue_path.mkdir()
    expect_failure(ctl(daemon, "queue", "check"), "could not be checked")


def test_faults_in_the_configuration(ctl, make_daemon):
    daemon = make_daemon(free_port(), queue={"pth": "/x"})
    done = ctl(daemon, "queue", "check")
    expect_failure(done, f"mqttgwctl: {daemon.config_path} cannot be used\n")
    assert f"{daemon.config_path}:" in done.stderr.splitlines()[0]


def test_no_configuration(ctl, make_daemon):
    daemon = make_daemon(free_port())
    daemon.config_path.unlink()
    done = ctl(daemon, "queue", "check")
    expect_failure(done, f"{daemon.config_path}: cannot read: No such file")
    assert "as root" not in done.stderr


def test_a_password_that_is_a_credential(ctl, make_daemon):
    """Found where systemd puts it, when it is told."""
    daemon = make_daemon(
        free_port(), broker={"username": "u", "password_file": "mqtt"}
    )
    daemon.extra_env["CREDENTIALS_DIRECTORY"] = str(daemon.directory)
    (daemon.directory / "mqtt").write_text("secret\n")
    (daemon.directory / "mqtt").chmod(0o600)
    daemon.start()
    feed(daemon, 1)
    expect_sound(ctl(daemon, "queue", "check"), daemon, "1")
    env = daemon.environment()
    del env["CREDENTIALS_DIRECTORY"]
    done = ctl(daemon, "queue", "check", env=env)
    expect_failure(done, "CREDENTIALS_DIRECTORY")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_another_user(ctl, make_daemon):
    """Is told whom to run it as, by each file that is kept from it."""
    daemon = make_daemon(free_port()).start()
    stranger = {"user": 65534, "group": 65534, "extra_groups": []}
    hint = "run it as root or as the gateway's user"
    daemon.directory.chmod(0o755)
    daemon.config_path.chmod(0o600)
    done = ctl(daemon, "queue", "check", **stranger)
    expect_failure(done, f"{daemon.config_path} cannot be used; {hint}")
    daemon.config_path.chmod(0o644)
    daemon.queue_path.chmod(0o600)
    done = ctl(daemon, "queue", "check", **stranger)
    expect_failure(done, f"{daemon.queue_path} cannot be read")
    assert hint in done.stderr
    daemon.stop()
    daemon.queue_path.chmod(0o644)
    done = ctl(daemon, "queue", "check", **stranger)
    expect_failure(done, f"{daemon.queue_path} could not be checked; {hint}")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_root_leaves_the_queue_to_its_owner(ctl, stopped):
    """The files that SQLite makes beside it are not root's."""
    for path in (stopped.state, *stopped.state.iterdir()):
        os.chown(path, 65534, 65534)
    expect_sound(ctl(stopped, "queue", "check"), stopped, "500")
    owners = {path.name: path.stat().st_uid for path in stopped.state.iterdir()}
    assert set(owners.values()) == {65534}, owners


# --- the command line ---------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, said",
    [
        ([], "no command"),
        (["queue"], "queue: what of it?"),
        (["dead"], "dead: what of it?"),
        (["queue", "chec"], "no such command: queue chec"),
        (["check"], "no such command: check"),
        (["--nonsense", "queue", "check"], "'--nonsense'"),
        (["-c"], "-- 'c'"),
        (["-c", "x", "--socket", "y", "status"], "one of the two"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage(ctl, arguments, said):
    done = ctl(None, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr.splitlines()[0]
    assert "Usage: mqttgwctl [-c FILE | --socket PATH] COMMAND\n" in done.stderr


@pytest.mark.parametrize(
    "line, said",
    [
        ("queue check all", 'unexpected argument "all"'),
        ("queue list 7", 'unexpected argument "7"'),
        ("queue list --limit 0", "--limit 0: not a number above 0"),
        ("queue list --limit x", "--limit x: not a number above 0"),
        ("queue list --limit", "--limit: a value is missing"),
        ("queue list --after -1", "--after -1: not an id"),
        ("queue list --nonsense", "--nonsense"),
        ("queue list --json=1", "--json=1"),
        ("queue show", "which id?"),
        ("queue show 1 2", "one id, please"),
        ("queue show 1.5", '"1.5" is no id'),
        ("queue show 99999999999999999999", "is no id"),
        ("queue show 1 --json --raw", "one of the two"),
        ("queue purge 7", 'unexpected argument "7"'),
        ("queue purge", "--yes"),
        ("dead purge x", '"x" is no id'),
        ("dead requeue 1 --topic t", "one of the two"),
        ("flush --timeout soon", "--timeout soon: not a number of seconds"),
        ("flush --timeout -1", "--timeout -1: not a number of seconds"),
        ("flush 5", 'unexpected argument "5"'),
        ("status -x", "unknown option -x"),
        ("watch now", 'unexpected argument "now"'),
        ("reconnect now", 'unexpected argument "now"'),
        ("pub -m x", "-t TOPIC"),
        ("pub -t t", "one of -m, -f, -l, -s and -n"),
        ("pub -t t -m x -n", "one of -m, -f, -l, -s and -n"),
        ("pub -t t -m x -q 3", "-q 3: not 0, 1 or 2"),
        ("pub -t t -m x y", 'unexpected argument "y"'),
        ("pub -t", "-t: a value is missing"),
    ],
)
def test_wrong_usage_of_a_command(ctl, line, said):
    """What is wrong, and what is right; nobody was asked for it."""
    arguments = line.split()
    done = ctl(None, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    wrong, right = done.stderr.splitlines()
    words = 2 if arguments[0] in ("queue", "dead") else 1
    name = " ".join(arguments[:words])
    assert wrong.startswith(f"mqttgwctl: {name}: ") and said in wrong
    assert right.startswith(
        f"Usage: mqttgwctl [-c FILE | --socket PATH] {name}"
    )


COMMANDS = [
    "status",
    "watch",
    "pub",
    *(f"queue {verb}" for verb in "list show export purge check".split()),
    *(f"dead {verb}" for verb in "list show export requeue purge".split()),
    "flush",
    "reconnect",
]


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help(ctl, option):
    done = ctl(None, option)
    assert (done.returncode, done.stderr) == (0, "")
    for text in ("--config", "--socket", "--version", "/etc/mqttgw.conf"):
        assert text in done.stdout
    for command in COMMANDS:
        assert f"\n  {command} " in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command(ctl, command):
    """Each option of its usage line is explained."""
    for option in ("-h", "--help"):
        done = ctl(None, *command.split(), option)
        assert (done.returncode, done.stderr) == (0, "")
        usage, rest = done.stdout.split("\n", 1)
        assert usage.split("] ", 1)[1].startswith(command)
        for name in re.findall(r"(?<=[\[ ])--?[a-z]+", usage.split("] ", 1)[1]):
            assert f" {name}" in rest, (name, rest)


def test_the_manual_page_has_every_command_and_option(ctl):
    page = Path(__file__).resolve().parents[2] / "man" / "mqttgwctl.1"
    shown = subprocess.run(
        ["mandoc", "-T", "utf8", page],
        check=True, capture_output=True, text=True,
    ).stdout
    shown = re.sub(".\b", "", shown)
    for command in COMMANDS:
        assert re.search(rf"^ +{command}\b", shown, re.MULTILINE), command
        for name in re.findall(
            r" (--[a-z-]+)", ctl(None, *command.split(), "--help").stdout
        ):
            assert name in shown, name


def test_version(ctl, make_daemon):
    """The same as the daemon's."""
    daemon = make_daemon(free_port())
    version = daemon.run("--version").stdout.strip()
    done = ctl(None, "--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"mqttgwctl ({version})\n"


def test_the_long_option(ctl, stopped):
    done = ctl(
        None, f"--config={stopped.config_path}", "queue", "check"
    )
    expect_sound(done, stopped, "500")


def test_output_that_cannot_be_written(binary, stopped):
    """A check whose result nobody saw has not passed."""
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [
                Path(binary).parent / "mqttgwctl",
                "-c",
                stopped.config_path,
                "queue",
                "check",
            ],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=20 * TIME_FACTOR,
        )
    assert done.returncode == 1
    assert "No space left on device" in done.stderr
