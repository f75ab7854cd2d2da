# SPDX-License-Identifier: MIT
"""Bash's completion of mqttgwctl, asked as bash asks it."""

import re
import subprocess
from pathlib import Path

import pytest
from harness import TIME_FACTOR
from harness.ctltools import Terminal, program

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "completions" / "mqttgwctl"

#: As readline breaks a line into words.
ASK = r"""
set -u
source "$1"
COMP_LINE=$2
COMP_POINT=${#COMP_LINE}
read -ra COMP_WORDS <<<"${COMP_LINE//=/ = }"
[[ $COMP_LINE != *' ' ]] || COMP_WORDS+=('')
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
compopt() { :; }
complete -p mqttgwctl >/dev/null
_mqttgwctl
printf '%s\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def complete(tmp_path):
    def ask(line):
        done = subprocess.run(
            ["bash", "--norc", "-c", ASK, "bash", SCRIPT, line],
            capture_output=True, text=True, cwd=tmp_path,
            timeout=10 * TIME_FACTOR,
        )
        assert (done.returncode, done.stderr) == (0, "")
        return set(done.stdout.split())

    return ask


@pytest.mark.parametrize(
    "line, words",
    [
        ("", "status watch pub queue dead flush reconnect"),
        ("st", "status"),
        ("x", ""),
        ("-", "-c --config --socket --version --help"),
        ("--so", "--socket"),
        ("queue ", "list show export purge check --help"),
        ("queue p", "purge"),
        ("dead ", "list show export requeue purge --help"),
        ("dead r", "requeue"),
        ("queue list -", "--topic --limit --after --json --help"),
        ("queue list --topic ", ""),
        ("queue list --topic=", ""),
        ("queue list --topic x --l", "--limit"),
        ("queue export --", "--topic --limit --after --help"),
        ("queue show 7 --", "--json --raw --help"),
        ("queue purge --", "--topic --yes --json --help"),
        ("queue check --", "--help"),
        ("dead requeue --", "--topic --json --help"),
        ("dead purge --y", "--yes"),
        ("pub -q ", "0 1 2"),
        ("pub --qos=", "0 1 2"),
        ("pub --null", "--null-message"),
        ("pub -m ", ""),
        ("flush --", "--timeout --help"),
        ("flush --timeout ", ""),
        ("status ", "--json --help"),
        ("reconnect ", "--help"),
        ("watch ", "--help"),
        ("-c x que", "queue"),
        ("--config=x que", "queue"),
        ("--socket x dead l", "list"),
    ],
)
def test_words(complete, line, words):
    assert complete("mqttgwctl " + line) == set(words.split())


@pytest.mark.parametrize(
    "line", ["-c ", "--config ", "--config=", "--socket ", "pub -f ", "pub --file="]
)
def test_files(complete, tmp_path, line):
    (tmp_path / "one.conf").touch()
    (tmp_path / "two.sock").touch()
    assert complete("mqttgwctl " + line) == {"one.conf", "two.sock"}
    assert complete(f"mqttgwctl {line}on") == {"one.conf"}


def test_it_knows_what_the_program_knows(binary, complete):
    """Every command of the help, and every long option of theirs."""

    def help_of(*words):
        return subprocess.run(
            [program(binary), *words, "--help"],
            check=True, capture_output=True, text=True,
        ).stdout

    commands = re.findall(r"^  ([a-z]+(?: [a-z]+)?)  ", help_of(), re.MULTILINE)
    assert len(commands) == 15
    for command in commands:
        *first, last = command.split()
        assert last in complete(f"mqttgwctl {' '.join(first)} "), command
        options = set(re.findall(r"--[a-z-]+", help_of(*command.split())))
        options -= {"--socket"}
        offered = complete(f"mqttgwctl {command} --")
        assert offered - {"--help"} == {
            option for option in options if option != "--help"
        }, command


def test_in_a_shell(tmp_path):
    """Typed, with the Tab key."""
    (tmp_path / "gateway one.conf").touch()
    shell = Terminal()
    try:
        shell.command(f"cd '{tmp_path}'; source '{SCRIPT}'; clear")
        shell.wait_for(rf"^{re.escape(Terminal.PROMPT.strip())}")
        shell.type("mqttgwctl -c ga")
        shell.key("Tab")
        shell.wait_for(r"-c gateway\\ one\.conf $|-c gateway\\ one\.conf\s*$")
        shell.type("qu")
        shell.key("Tab")
        shell.type("exp")
        shell.key("Tab")
        shell.type("--li")
        shell.key("Tab")
        shell.wait_for(r"gateway\\ one\.conf queue export --limit")
    finally:
        shell.close()
