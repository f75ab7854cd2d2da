# SPDX-License-Identifier: MIT
"""mqttgwctl in a real terminal: what the screen shows, and that the terminal
is handed back as it was."""

import os
import re
import signal
import subprocess
import time

import pytest
from harness import TIME_FACTOR, wait_until
from harness.ctltools import (
    FakeGateway,
    Terminal,
    program,
    run,
    status,
)

PROMPT = re.escape(Terminal.PROMPT.strip())


@pytest.fixture
def terminal():
    """terminal(COLUMNS, ROWS, VARIABLE=...) -> a Terminal."""
    made = []

    def make(*size, **variables):
        made.append(Terminal(*size, **variables))
        return made[-1]

    yield make
    for one in made:
        one.close()


class Draining:
    """A gateway whose queue gets shorter, and whose totals grow."""

    def __init__(self, messages, a_second):
        self.messages = messages
        self.a_second = a_second
        self.begin = time.monotonic()
        self.why = ""
        self.pid = 4242

    def __call__(self, request):
        if request["command"] != "status":
            return [{"status": "ok", "count": 1234, "kept": 0}]
        done = int((time.monotonic() - self.begin) * self.a_second)
        left = max(0, self.messages - done)
        return [
            status(
                pid=self.pid,
                why=self.why,
                queue={"messages": left, "max_messages": 100000},
                totals={"accepted": 10 * done, "delivered": done},
            )
        ]


@pytest.fixture
def fake():
    made = []

    def make(answer):
        made.append(FakeGateway(answer))
        return made[-1]

    yield make
    for gateway in made:
        gateway.close()


@pytest.fixture
def typed(binary):
    """The command line that asks a gateway."""

    def line(gateway, *words):
        return " ".join([program(binary), "--socket", str(gateway.path), *words])

    return line


def expect_as_before(terminal, settings):
    """The cursor is there, the screen the shell's, and so are the settings."""
    assert terminal.state("alternate_on") == "0"
    assert terminal.state("cursor_flag") == "1"
    assert terminal.settings() == settings


# --- status -------------------------------------------------------------------


def test_status_is_in_colour(typed, terminal, fake):
    shell = terminal()
    shell.command(typed(fake(Draining(5000, 0)), "status"))
    shell.wait_for(rf"● connected to .*(\n.*)+\n{PROMPT}")
    raw = shell.screen(raw=True)
    assert "\x1b[32m● connected" in raw
    assert re.search(r"\x1b\[\d+m█", raw)


# --- watch --------------------------------------------------------------------


def test_watch_shows_what_happens(typed, terminal, fake):
    gateway = fake(Draining(50000, 100))
    shell = terminal(100, 34)
    settings = shell.settings()
    shell.command("echo before; " + typed(gateway, "watch"))
    # 100 messages a second are delivered, ten times as many accepted.
    shell.wait_for(r"^delivered +(9\d\.\d|10\d\.?\d*) .*[▁▂▃▄▅▆▇█]$", 20)
    screen = shell.wait_for(r"^accepted +(9\d\d|1,0\d\d) .*█$")
    assert re.search(r"^queued +4\d,\d\d\d .*█$", screen, re.MULTILINE)
    assert "● connected to broker.example.net:1883" in screen
    assert re.search(r"4\d,\d{3} of 100,000 messages", screen)
    assert "before" not in screen
    assert (shell.state("alternate_on"), shell.state("cursor_flag")) == (
        "1", "0",
    )
    # The graph grows to the left, a column in four seconds.
    shell.wait_for(r"^queued .*[▇█]{2}$", 20)
    shell.key("q")
    shown = shell.wait_for(rf"before\n{PROMPT}")
    assert "queued" not in shown
    expect_as_before(shell, settings)


@pytest.mark.parametrize(
    "key, code", [("C-c", 0), ("q", 0), ("Q", 0), ("C-\\", 131)]
)
def test_ways_out_of_watch(typed, terminal, fake, key, code):
    shell = terminal()
    settings = shell.settings()
    shell.command(f"ulimit -c 0; {typed(fake(Draining(1, 0)), 'watch')}; "
                  "echo \"ended $?\"")
    shell.wait_for("● connected")
    shell.key(key)
    shell.wait_for(f"^ended {code}$")
    expect_as_before(shell, settings)


def test_watch_is_told_to_end(typed, terminal, fake):
    """By a signal: the terminal is not left as it was taken."""
    shell = terminal()
    settings = shell.settings()
    gateway = fake(Draining(1, 0))
    shell.command(f"bash -c 'echo $$ >{gateway.directory}/pid; exec "
                  f"{typed(gateway, 'watch')}'; echo \"status $?\"")
    shell.wait_for("● connected")
    pid = int((gateway.directory / "pid").read_text())
    os.kill(pid, signal.SIGTERM)
    shell.wait_for("^status 143$")
    expect_as_before(shell, settings)


def test_watch_is_paused(typed, terminal, fake):
    """^Z and fg: the shell has its terminal meanwhile."""
    shell = terminal()
    settings = shell.settings()
    shell.command(typed(fake(Draining(1, 0)), "watch"))
    shell.wait_for("● connected")
    shell.key("C-z")
    shell.wait_for(r"Stopped")
    expect_as_before(shell, settings)
    shell.command("fg")
    shell.wait_for("● connected")
    assert shell.state("alternate_on") == "1"
    shell.key("q")
    shell.wait_for(PROMPT)
    expect_as_before(shell, settings)


def test_watch_fits_any_screen(typed, terminal, fake):
    """No line wraps, nothing scrolls, however small."""
    shell = terminal(100, 34)
    shell.command(typed(fake(Draining(50000, 100)), "watch"))
    shell.wait_for(r"^clients ")
    for columns, rows in ((60, 20), (40, 12), (20, 5), (5, 2), (80, 24)):
        shell.resize(columns, rows)
        wanted = "mqttgwctl watch"[:columns]

        def drawn():
            lines = shell.screen().split("\n")
            # Drawn anew for this size: each line begins where it should.
            return (
                lines[0].startswith(wanted)
                and (rows < 5 or lines[1].startswith("● connected"))
                and (columns < 40 or rows < 12 or "accepted" in lines[3])
                and max(map(len, lines)) <= columns
                and int(shell.state("history_size")) >= 0
            )

        wait_until(drawn, 10, f"it fits {columns} by {rows}", 0.1)
    assert shell.wait_for(r"^clients ").count("mqttgwctl watch") == 1
    shell.key("q")
    shell.wait_for(PROMPT)


def test_watch_survives_the_gateway(typed, terminal, fake):
    gateway = fake(Draining(50000, 100))
    shell = terminal()
    settings = shell.settings()
    shell.command(typed(gateway, "watch"))
    shell.wait_for("● connected")
    shell.wait_for(r"^accepted .*█$")
    gateway.stop()
    screen = shell.wait_for(r"● not reachable: the gateway does not run")
    assert str(gateway.path) in screen
    # What was known last is still there.
    assert "50,000" in screen or "49," in screen
    gateway.answer = Draining(77000, 100)
    gateway.answer.pid = 4243
    gateway.listen()
    shell.wait_for("● connected")
    screen = shell.wait_for(r"7\d,\d{3} of 100,000 messages")
    assert "not reachable" not in screen
    shell.key("q")
    shell.wait_for(PROMPT)
    expect_as_before(shell, settings)


def test_watch_of_a_gateway_that_hangs(typed, terminal, fake):
    """Keys are heard all the same."""
    draining = Draining(50000, 100)
    hung = []

    def answer(request):
        return [] if hung else draining(request)

    gateway = fake(answer)
    shell = terminal()
    shell.command(typed(gateway, "watch"))
    shell.wait_for("● connected")
    hung.append(True)
    shell.wait_for("● not reachable: the gateway hangs", 20)
    begin = time.monotonic()
    shell.key("q")
    shell.wait_for(PROMPT)
    assert time.monotonic() - begin < 3 * TIME_FACTOR


def test_watch_without_utf8(typed, terminal, fake):
    shell = terminal(100, 34, LC_ALL="C")
    shell.command(typed(fake(Draining(50000, 100)), "watch"))
    screen = shell.wait_for(r"^queued .*#$")
    assert screen.isascii() and "* connected" in screen
    shell.key("q")
    shell.wait_for(PROMPT)


def test_watch_on_a_dumb_terminal(typed, terminal, fake):
    """A line a second, and nothing else."""
    shell = terminal(100, 34, TERM="dumb")
    shell.command("clear; " + typed(fake(Draining(50000, 100)), "watch"))
    shell.wait_for(r"(^20\d\d-.* connected .*\n(.*/s delivered.*\n)?){2}")
    assert shell.state("alternate_on") == "0"
    shell.key("C-c")
    shell.wait_for(PROMPT)


def test_watch_into_a_file(binary, fake, tmp_path):
    """A line a second, that can be read at once."""
    gateway = fake(Draining(50000, 100))
    path = tmp_path / "out"
    with open(path, "w") as out:
        process = subprocess.Popen(
            [program(binary), "--socket", str(gateway.path), "watch"],
            stdout=out, stdin=subprocess.DEVNULL,
        )
    try:
        wait_until(lambda: path.read_text().count("\n") >= 2, 10, "two lines")
        gateway.stop()
        wait_until(lambda: "not reachable: " in path.read_text(), 10, "told")
        process.send_signal(signal.SIGINT)
        assert process.wait(10 * TIME_FACTOR) == 0
    finally:
        process.kill()
        process.wait()
    lines = path.read_text().splitlines()
    assert all(re.match(r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d ", line)
               for line in lines)
    assert "connected broker.example.net:1883, 4" in lines[1] or (
        "connected broker.example.net:1883, 50000 queued" in lines[1]
    )
    assert "\x1b" not in path.read_text()


# --- flush --------------------------------------------------------------------


def test_flush_shows_how_far_it_is(typed, terminal, fake):
    shell = terminal()
    settings = shell.settings()
    shell.command("clear; " + typed(fake(Draining(3000, 500)), "flush"))
    shell.wait_for(
        r"^█+░+ +\d+ %  [\d,]+ left, \d[\d,.]*/s, \d+(\.\d)? s to go$"
    )
    raw = shell.screen(raw=True)
    assert "\x1b[32m█" in raw
    screen = shell.wait_for(rf"{PROMPT}\s*$", 30)
    assert re.search(
        r"^the queue is empty: [23],\d{3} messages delivered in \d\.\d s, "
        r"\d+(\.\d)?/s$",
        screen,
        re.MULTILINE,
    ), screen
    # Its line was taken away.
    assert "left" not in screen and "█" not in screen
    expect_as_before(shell, settings)


def test_flush_says_why_nothing_moves(typed, terminal, fake):
    draining = Draining(3000, 0)
    draining.why = "no route to the broker"
    shell = terminal(60, 20)
    shell.command("clear; " + typed(fake(draining), "flush --timeout 3"))
    screen = shell.wait_for(r"^░+ +0 %  3,000 left  no route to the broker")
    assert max(map(len, screen.splitlines())) < 60
    shell.wait_for(r"^mqttgwctl: not empty after 3\.\d s: 3,000 messages left")


def test_flush_is_interrupted(typed, terminal, fake):
    shell = terminal()
    settings = shell.settings()
    shell.command("clear; " + typed(fake(Draining(3000, 1)), "flush")
                  + "; echo ended $?")
    shell.wait_for(r"left")
    shell.key("C-c")
    shell.wait_for(PROMPT)
    expect_as_before(shell, settings)


def test_flush_without_a_terminal_is_quiet(binary, fake):
    done = run(binary, "--socket", fake(Draining(1000, 500)).path, "flush")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(
        r"the queue is empty: [\d,]+ messages delivered in .*/s\n", done.stdout
    )


# --- purge --------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer, sure",
    [("y", True), ("yes", True), ("n", False), ("", False), ("yellow", False)],
)
def test_purging_everything_is_asked_for(
    typed, terminal, fake, answer, sure
):
    gateway = fake(Draining(1234, 0))
    shell = terminal()
    shell.command(f"clear; {typed(gateway, 'queue purge')}; echo \"ended $?\"")
    shell.wait_for(
        r"^Throw away all 1,234 messages of the queue\? They are lost for "
        r"good\. \[y/N\]"
    )
    assert [r["command"] for r in gateway.requests] == ["status"]
    shell.command(answer)
    screen = shell.wait_for(rf"^ended {0 if sure else 1}$")
    if sure:
        assert "1,234 messages thrown away" in screen
        assert gateway.requests[1:] == [{"command": "queue-purge"}]
    else:
        assert "nothing was thrown away" in screen
        assert len(gateway.requests) == 1


def test_purging_some_is_not_asked_for(typed, terminal, fake):
    gateway = fake(Draining(1234, 0))
    shell = terminal()
    shell.command("clear; " + typed(gateway, "queue purge --topic a/b"))
    shell.wait_for(r"^1,234 messages thrown away$")
    shell.command("clear; " + typed(gateway, "dead purge --yes"))
    shell.wait_for(r"^1,234 dead letters thrown away$")
    assert [r["command"] for r in gateway.requests] == [
        "queue-purge", "dead-purge",
    ]
