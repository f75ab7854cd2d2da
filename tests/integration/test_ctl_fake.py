# SPDX-License-Identifier: MIT
"""mqttgwctl in front of a scripted gateway: what a real one says seldom."""

import json
import os
import re
import socket
import subprocess
import threading

import pytest
from harness import TIME_FACTOR
from harness.ctltools import (
    ESCAPE,
    FakeGateway,
    program,
    run,
    run_on_terminal,
    status,
)

#: Escape sequences, a new title, C1 controls, a turned line, bad news.
NASTY = "a\x1b[2J\x1b]0;title\x07\x9b31m\u202eb\r\n\u200b\\"
NASTY_SHOWN = r"a\x1b[2J\x1b]0;title\a\u009b31m\u202eb\r\n\u200b\\"

UTF8 = dict(os.environ, LC_ALL="C.UTF-8")


@pytest.fixture
def fake():
    """fake(ANSWER) -> a FakeGateway; fake(status=REPLY) for that one alone."""
    made = []

    def make(answer=None, **fields):
        if answer is None:
            reply = status(**fields)

            def answer(request):
                return [reply]

        made.append(FakeGateway(answer))
        return made[-1]

    yield make
    for gateway in made:
        gateway.close()


@pytest.fixture
def ctl(binary):
    def call(gateway, *arguments, **options):
        options.setdefault("env", UTF8)
        return run(binary, "--socket", gateway.path, *arguments, **options)

    return call


def show(ctl, gateway):
    done = ctl(gateway, "status")
    assert (done.returncode, done.stderr) == (0, "")
    assert ESCAPE not in done.stdout
    return done.stdout


# --- status -------------------------------------------------------------------


def test_all_is_well(ctl, fake):
    shown = show(ctl, fake())
    assert shown.splitlines()[0] == (
        "● connected to broker.example.net:1883 for 11 s"
    )
    assert "0 messages\n" in shown
    assert "gw-17, version 0.1.0, process 4242, up 2 d 4 h" in shown
    for absent in ("restart", "last failure", "brokers", "oldest", "store"):
        assert absent not in shown


def test_everything_at_once(ctl, fake):
    """Each fact of the reply is somewhere to be read."""
    gateway = fake(
        state="disconnected",
        since=3725.0,
        broker="b1:1883",
        why="no connection: b1:1883 refuses our password",
        next_attempt=12.5,
        queue={
            "messages": 95000,
            "max_messages": 100000,
            "bytes": 3 << 20,
            "oldest": 90061.0,
            "dead_letters": 17,
        },
        store_error="No space left on device",
        inflight=7,
        window=20,
        rates={"accepted": 12.34, "delivered": 1234.5},
        totals={
            "accepted": 1234567,
            "delivered": 1139567,
            "refused": 3,
            "dropped": 5,
        },
        last_failure={
            "broker": "b1:1883",
            "class": "auth",
            "message": "CONNACK: not authorized",
            "time": "2026-01-02T03:04:05.678Z",
        },
        brokers=[
            {
                "name": "b1:1883",
                "up": False,
                "current": True,
                "set_aside": 120.5,
                "attempts": {"success": 12, "timeout": 2, "auth": 1},
            },
            {
                "name": "b2:8883",
                "up": False,
                "current": False,
                "set_aside": None,
                "attempts": {},
            },
        ],
        restart_needed=["queue.path", "socket.path"],
        stopping=True,
    )
    shown = show(ctl, gateway)
    lines = shown.splitlines()
    assert lines[0] == (
        "● disconnected from b1:1883 for 1 h 2 min, stopping"
    )
    assert lines[1].strip() == "no connection: b1:1883 refuses our password"
    assert lines[2].strip() == "next attempt in 12 s"
    for text in (
        "95,000 of 100,000 messages, the oldest waits for 1 d 1 h",
        "95 % full, 3.0 MiB of 1.0 GiB",
        "No space left on device",
        "12.3/s accepted, 1,235/s delivered",
        "in flight     7 of 20",
        "1,234,567 accepted, 1,139,567 delivered, 3 refused, 5 dropped",
        "dead letters  17 of 10,000",
        "auth with b1:1883, 2026-01-02 ",
        "CONNACK: not authorized",
        "needed for queue.path, socket.path",
        "set aside for 2 min 0 s",
        "12 of 15 attempts successful",
        "b2:8883",
    ):
        assert text in shown, shown


def test_held(ctl, fake):
    shown = show(ctl, fake(held=True, why="three messages in a row refused"))
    assert "queue held" in shown.splitlines()[0]
    assert "three messages in a row refused" in shown.splitlines()[1]


@pytest.mark.parametrize("value", [None, "text", 7, -1e300, [], {}, [7], True])
def test_another_version_of_the_gateway(binary, ctl, fake, value):
    """Fields that are not there, or of another type, are no crash."""
    empty = fake(lambda request: [{"status": "ok"}])
    assert ctl(empty, "status").returncode == 0
    reply = {name: value for name in status()}
    odd = fake(lambda request: [{**reply, "status": "ok"}])
    assert ctl(odd, "status").returncode == 0
    nested = {
        name: {key: value for key in field} if isinstance(field, dict) else field
        for name, field in status().items()
    }
    nested["last_failure"] = {"class": value, "broker": value, "time": value}
    nested["brokers"] = [value, {"name": value, "attempts": {"auth": value}}]
    nested["restart_needed"] = [value]
    odd = fake(lambda request: [nested])
    assert ctl(odd, "status").returncode == 0
    row = {name: value for name in ("seq", "topic", "timestamp", "payload")}
    odd = fake(lambda request: [{**row, "status": "row"}, {"status": "ok"}])
    for verb in ("list", "export"):
        assert ctl(odd, "queue", verb).returncode == 0


def test_json_is_the_reply(ctl, fake):
    gateway = fake(why=NASTY, since=0.1)
    done = ctl(gateway, "status", "--json")
    assert json.loads(done.stdout) == status(why=NASTY, since=0.1)
    assert done.stdout.count("\n") == 1
    assert done.stdout.isascii() and done.stdout[:-1].isprintable()
    assert '"since":0.1,' in done.stdout


def test_nobody_commands_the_terminal(ctl, fake):
    gateway = fake(
        why=NASTY,
        broker=NASTY,
        last_failure={
            "broker": NASTY,
            "class": "auth",
            "message": NASTY,
            "time": NASTY,
        },
    )
    shown = show(ctl, gateway)
    assert shown.count(NASTY_SHOWN) == 5
    assert all(line.isprintable() for line in shown.splitlines())


@pytest.mark.parametrize(
    "variables, coloured",
    [
        ({}, True),
        ({"NO_COLOR": "1"}, False),
        ({"NO_COLOR": ""}, True),
        ({"TERM": "dumb"}, False),
    ],
    ids=["plain", "NO_COLOR", "empty NO_COLOR", "dumb"],
)
def test_colours(binary, fake, variables, coloured, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    shown = run_on_terminal(
        binary,
        "--socket",
        fake().path,
        "status",
        **{"LC_ALL": "C.UTF-8", **variables},
    )
    assert "connected to broker" in shown.replace("\x1b[0m", "")
    assert (ESCAPE in shown) == coloured


def test_without_utf8(ctl, fake):
    """ASCII marks, and what is no ASCII escaped."""
    gateway = fake(why="grün", queue={"messages": 3})
    shown = ctl(gateway, "status", env=dict(os.environ, LC_ALL="C")).stdout
    assert shown.isascii()
    assert shown.startswith("* connected")
    assert r"gr\u00fcn" in shown


# --- errors of the other side -------------------------------------------------


def test_a_refusal_is_told(ctl, fake):
    gateway = fake(
        lambda request: [
            {
                "status": "error",
                "error": "failed",
                "message": f"no room\n{NASTY}",
            }
        ]
    )
    done = ctl(gateway, "reconnect")
    assert done.returncode == 1
    assert done.stderr == f"mqttgwctl: no room\\n{NASTY_SHOWN} (failed)\n"


@pytest.mark.parametrize(
    "answer", [b"hello\n", b"[1]\n", b"{}\n", b'{"status":7}\n', b"\xff\n"]
)
def test_something_else_answers(ctl, fake, answer):
    done = ctl(fake(lambda request: [answer]), "status")
    assert (done.returncode, done.stdout) == (3, "")
    assert "is not the gateway" in done.stderr


def test_it_hangs_up(ctl, fake):
    done = ctl(fake(lambda request: None), "status")
    assert (done.returncode, done.stdout) == (3, "")
    assert "has closed the connection" in done.stderr


def test_slow_is_not_hung(ctl, fake):
    """Work that takes longer than our patience is waited for, as long as
    the gateway answers others."""
    late = threading.Event()
    threading.Timer(7, late.set).start()

    def answer(request):
        late.wait()
        return [{"status": "ok", "count": 3, "kept": 0}]

    done = ctl(fake(answer), "queue", "purge", "--topic", "#")
    assert (done.returncode, done.stdout) == (0, "3 messages thrown away\n")


def test_a_full_backlog_is_a_hung_gateway(ctl, tmp_path):
    """So many wait to be accepted that connect() itself would wait."""
    path = tmp_path / "c.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen(0)
        waiting = []
        try:
            while True:
                client = socket.socket(socket.AF_UNIX)
                waiting.append(client)
                client.setblocking(False)
                try:
                    client.connect(str(path))
                except BlockingIOError:
                    break
            gateway = type("Gateway", (), {"path": path})
            done = ctl(gateway, "status")
        finally:
            for client in waiting:
                client.close()
    assert (done.returncode, done.stdout) == (3, "")
    assert "hangs" in done.stderr and done.stderr.count("\n") == 1


# --- rows ---------------------------------------------------------------------


def rows(count, size=20):
    return b"".join(
        b'{"status":"row","seq":%d,"topic":"t/%d","qos":1,"retain":false,'
        b'"timestamp":1700000000123,"bytes":%d,"payload":"%s"}\n'
        % (number, number, size, b"x" * size)
        for number in range(1, count + 1)
    )


def peak_memory(arguments):
    """Exit status, largest resident size in bytes, lines of output."""
    process = subprocess.Popen(
        arguments, stdout=subprocess.PIPE, env=UTF8, bufsize=0
    )
    memory = lines = 0
    with process.stdout:
        for chunk in iter(lambda: process.stdout.read(1 << 16), b""):
            lines += chunk.count(b"\n")
            with open(f"/proc/{process.pid}/status") as file:
                found = re.search(r"VmHWM:\s+(\d+) kB", file.read())
            memory = int(found.group(1)) * 1024 if found else memory
    return process.wait(), memory, lines


@pytest.mark.timeout(180)
def test_a_million_rows_are_never_in_memory(binary, fake, measured):
    chunk = rows(10000)

    def answer(request):
        for _ in range(100):
            yield chunk
        yield {"status": "ok", "count": 1000000}

    gateway = fake(answer)
    code, memory, lines = peak_memory(
        [program(binary), "--socket", str(gateway.path), "queue", "list"]
    )
    assert (code, lines) == (0, 1000001)
    measured(f"mqttgwctl queue list of 1,000,000 rows: {memory >> 20} MiB")
    if b"__asan_init" not in open(program(binary), "rb").read():
        assert 0 < memory < 12 << 20


def test_a_reader_that_has_seen_enough(binary, fake):
    """`| head` ends it at once, without a word."""
    chunk = rows(1000)
    gateway = fake(lambda request: (chunk for _ in range(100000)))
    done = subprocess.run(
        [
            "bash",
            "-c",
            f"'{program(binary)}' --socket '{gateway.path}' queue list "
            '| head -n 2; echo "${PIPESTATUS[0]}"',
        ],
        capture_output=True,
        text=True,
        timeout=20 * TIME_FACTOR,
    )
    head, first, code = done.stdout.splitlines()
    assert head.split() == ["ID", "TIME", "QOS", "SIZE", "TOPIC", "PAYLOAD"]
    assert first.split()[0] == "1"
    # Of SIGPIPE, as cat(1) and grep(1) do.
    assert (code, done.stderr) == ("141", "")


def test_rows_are_safe(ctl, fake):
    def answer(request):
        yield {
            "status": "row",
            "seq": 7,
            "topic": NASTY,
            "qos": 2,
            "retain": True,
            "timestamp": 1700000000123,
            "bytes": 1 << 20,
            "payload": NASTY + "\0z",
            "reason": NASTY,
            "died_at": 1700000000999,
        }
        yield {
            "status": "row",
            "seq": 8,
            "topic": "größe/温度",
            "qos": 0,
            "retain": False,
            "timestamp": 1700000000123,
            "bytes": 3,
        }
        yield {"status": "ok", "count": 2}

    gateway = fake(answer)
    env = dict(UTF8, TZ="UTC")
    for table in ("queue", "dead"):
        done = ctl(gateway, table, "list", env=env)
        assert (done.returncode, done.stderr) == (0, "")
        head, nasty, plain = done.stdout.split("\n")[:3]
        assert done.stdout.count("\n") == 3
        assert nasty.isprintable()
        assert nasty.count(NASTY_SHOWN) == (3 if table == "dead" else 2)
        assert "2023-11-14 22:13:20" in nasty and "2 ret" in nasty
        assert "1.0 MiB" in nasty and nasty.endswith(r"\x00z")
        assert "größe/温度" in plain and "(binary)" in plain
    done = ctl(gateway, "queue", "list", "--json")
    assert done.stdout.isascii()
    first, second = map(json.loads, done.stdout.splitlines())
    assert first["topic"] == NASTY and "status" not in first
    assert second["seq"] == 8


def test_show_is_safe(ctl, fake):
    gateway = fake(
        lambda request: [
            {
                "status": "ok",
                "seq": 7,
                "topic": NASTY,
                "qos": 2,
                "retain": True,
                "timestamp": 1700000000123,
                "bytes": 12,
                "payload": f"first\n{NASTY}",
            }
        ]
    )
    done = ctl(gateway, "queue", "show", "7", env=dict(UTF8, TZ="UTC"))
    assert (done.returncode, done.stderr) == (0, "")
    assert all(line.isprintable() for line in done.stdout.splitlines())
    assert "2023-11-14 22:13:20.123" in done.stdout
    assert "\npayload\nfirst\n" in done.stdout
    raw = ctl(gateway, "queue", "show", "7", "--raw", text=False)
    assert raw.stdout == f"first\n{NASTY}".encode()


@pytest.mark.parametrize(
    "arguments, request_",
    [
        (["queue", "list"], {"command": "queue-list"}),
        (
            ["queue", "list", "--topic", "a/+", "--limit", "3", "--after=7"],
            {
                "command": "queue-list",
                "topic": "a/+",
                "limit": 3,
                "after": 7,
            },
        ),
        (["dead", "export", "--limit=1"], {"command": "dead-export", "limit": 1}),
        (["dead", "show", "9"], {"command": "dead-show", "seq": 9}),
        (
            ["queue", "purge", "--topic", "#"],
            {"command": "queue-purge", "topic": "#"},
        ),
        (["queue", "purge", "--yes"], {"command": "queue-purge"}),
        (["dead", "purge", "5"], {"command": "dead-purge", "seq": 5}),
        (["dead", "requeue"], {"command": "dead-requeue"}),
        (["dead", "requeue", "5"], {"command": "dead-requeue", "seq": 5}),
        (
            ["dead", "requeue", "--topic", "x"],
            {"command": "dead-requeue", "topic": "x"},
        ),
        (["reconnect"], {"command": "reconnect"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_requests(ctl, fake, arguments, request_):
    gateway = fake(lambda request: [{"status": "ok", "count": 1}])
    done = ctl(gateway, *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert gateway.requests == [request_]


def test_what_was_kept_is_told(ctl, fake):
    gateway = fake(lambda request: [{"status": "ok", "count": 1, "kept": 2}])
    done = ctl(gateway, "queue", "purge", "--yes")
    assert done.stdout == (
        "1 message thrown away; 2 kept, on their way to the broker\n"
    )
    done = ctl(gateway, "queue", "purge", "--yes", "--json")
    assert json.loads(done.stdout) == {"count": 1, "kept": 2}


def test_purging_everything_is_not_done_in_passing(ctl, fake):
    gateway = fake(lambda request: [{"status": "ok", "count": 1}])
    for table in ("queue", "dead"):
        done = ctl(gateway, table, "purge")
        assert (done.returncode, done.stdout) == (2, "")
        assert "--yes" in done.stderr and "--topic" in done.stderr
    assert gateway.requests == []
