# SPDX-License-Identifier: MIT
"""What a newcomer copies: the programs under examples/, and every example of
the manual pages and of the documents."""

import configparser
import json
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pytest
from harness import TIME_FACTOR, Client, Database, wait_until
from harness.ctltools import program as mqttgwctl
from harness.subscriber import duplicates, first_deliveries
from harness.tls import Authority
from harness.waiting import env_int

TOP = Path(__file__).resolve().parents[2]
EXAMPLES = TOP / "examples"
LINES = env_int("MQTTGW_EXAMPLE_LINES", 40)
MAX_LINES = 40

#: Programs by their source, and how many lines each has under way.
PROGRAMS = {
    "publish.sh": 1,
    "publish.py": 1,
    "publish.c": 1,
    "publish.js": 100,
}


class Program:
    """An example that runs, fed line by line."""

    def __init__(self, command, socket_path, topic="sensors/t1"):
        self.process = subprocess.Popen(
            [*command, topic],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={
                "PATH": "/usr/local/bin:/usr/bin:/bin",
                "MQTTGW_SOCKET": str(socket_path),
            },
        )

    def feed(self, numbers):
        for number in numbers:
            self.process.stdin.write(b"%d\n" % number)
        self.process.stdin.flush()

    def check(self):
        assert self.process.poll() is None, self.process.stderr.read()

    def end(self):
        """No more lines; returns its status and what it complained of."""
        self.process.stdin.close()
        self.process.stdin = None
        said = self.process.communicate(timeout=40 * TIME_FACTOR)[1]
        return self.process.returncode, said.decode()

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stderr):
            if stream and not stream.closed:
                try:
                    stream.close()
                except BrokenPipeError:
                    pass


@pytest.fixture(scope="session")
def compiled(tmp_path_factory):
    """compiled(SOURCE) -> the program that cc makes of it, without a word."""
    made = {}

    def compile_it(source):
        if source not in made:
            program = tmp_path_factory.mktemp("cc") / source.stem
            subprocess.run(
                ["cc", "-Wall", "-Wextra", "-Werror", "-o", program, source],
                check=True,
            )
            made[source] = str(program)
        return made[source]

    return compile_it


@pytest.fixture(params=sorted(PROGRAMS))
def command(request, compiled):
    """The words that run an example."""
    source = EXAMPLES / request.param
    if source.suffix == ".c":
        return [compiled(source)]
    if source.suffix == ".js" and not shutil.which("node"):
        pytest.skip("NOT RUN: node is not installed (package nodejs)")
    return [str(source)]


@pytest.fixture
def start(command):
    """start(DAEMON, ...): the example, ended with the test."""
    started = []

    def run(daemon, *more):
        started.append(Program(command, daemon.socket_path, *more))
        return started[-1]

    yield run
    for program in started:
        program.close()


def numbers(first, last):
    return [b"%d" % number for number in range(first, last)]


def test_nothing_is_lost_over_restarts(
    start, make_daemon, mosquitto, make_subscriber
):
    """The gateway is stopped, and killed, while lines are on their way."""
    subscriber = make_subscriber(mosquitto.port)
    daemon = make_daemon(mosquitto.port).start()
    program = start(daemon)
    third = LINES // 3
    # Ahead of the program: some are under way whenever the end comes.
    program.feed(range(third))
    subscriber.wait_for(third // 2, check=program.check)
    daemon.stop()
    program.feed(range(third, 2 * third))
    daemon.start()
    subscriber.wait_for(third + third // 2, check=program.check)
    daemon.kill9()
    program.feed(range(2 * third, LINES))
    daemon.start()
    assert program.end() == (0, "")
    expected = numbers(0, LINES)
    subscriber.wait_payloads(expected)
    assert first_deliveries(subscriber.payloads()) == expected


def test_a_connection_that_is_reset(start, tmp_path):
    """It ends with an error, not in order: the line was not even read."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.settimeout(20 * TIME_FACTOR)
        listener.bind(str(tmp_path / "gw.sock"))
        listener.listen()
        program = start(SimpleNamespace(socket_path=tmp_path / "gw.sock"))
        program.feed([21])
        with listener.accept()[0] as connection:
            connection.recv(1, socket.MSG_PEEK)
        with listener.accept()[0] as connection:
            with connection.makefile("rw") as stream:
                assert json.loads(stream.readline())["topic"] == "sensors/t1"
                stream.write('{"id":1,"status":"queued","seq":1}\n')
        assert program.end() == (0, "")


def test_waits_while_the_queue_is_full(
    request, start, make_daemon, mosquitto, make_subscriber
):
    subscriber = make_subscriber(mosquitto.port)
    mosquitto.stop()
    daemon = make_daemon(mosquitto.port, queue={"max_messages": 5}).start()
    program = start(daemon)
    program.feed(range(12))
    daemon.wait_output("refused.*queue.max_messages")
    program.check()
    # The refusal is told before its turn is committed.
    rows = "SELECT count(*) FROM queue"
    database = Database(daemon.queue_path)
    wait_until(lambda: database.query(rows) == [(5,)], 10, "a full queue")
    mosquitto.start()
    assert program.end() == (0, "")
    subscriber.wait_payloads(numbers(0, 12))
    arrived = subscriber.payloads()
    assert duplicates(arrived) == 0
    # Of many under way, some may be taken while those before are refused.
    if PROGRAMS[request.node.callspec.params["command"]] == 1:
        assert arrived == numbers(0, 12)


def test_a_line_that_is_refused_for_good_ends_it(start, offline):
    """A wildcard in the topic; sending it again and again would be no use."""
    program = start(offline, "sensors/#")
    program.feed([1])
    status, said = program.end()
    assert status == 1
    assert "wildcard" in said


@pytest.mark.parametrize("name", sorted(PROGRAMS))
def test_short_enough_to_be_read(name):
    text = (EXAMPLES / name).read_text()
    text = re.sub(r"/\*.*?\*/|\"\"\".*?\"\"\"", "", text, flags=re.S)
    code = [
        line
        for line in text.splitlines()
        if not re.fullmatch(r"\s*[{}]?\s*|\s*(#(?!include)|//).*", line)
    ]
    assert len(code) < MAX_LINES
    assert "SPDX" in (EXAMPLES / name).read_text()


# --- the manual pages and the documents -------------------------------------


class Block(NamedTuple):
    """An example as it stands in a page."""

    page: str
    line: int
    kind: str
    text: str


def blocks_of_manual(path):
    """What stands between .Bd -literal and .Ed; the comment before it,
    ".\\" Test: KIND", says what is to be done with it. The page of the
    configuration holds configurations."""
    kind = ""
    text = None
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if line.startswith('.\\" Test: '):
            kind = line.split(": ", 1)[1]
        elif line.startswith(".Bd -literal"):
            begin, text = number, []
        elif line == ".Ed" and text is not None:
            if not kind and path.name == "mqttgw.conf.5":
                kind = "config"
            yield Block(path.name, begin, kind, "\n".join(text) + "\n")
            kind, text = "", None
        elif text is not None:
            for escape, plain in (
                ("\\e", "\\"), ("\\(dq", '"'), ("\\-", "-"), ("\\&", "")
            ):
                line = line.replace(escape, plain)
            text.append(line)


#: What the fences of our documents hold.
FENCES = {
    "libconfig": "config",
    "brokers": "brokers",
    "sh": "syntax",
    "sql": "sql",
    "json": "json",
    "text": "text",
}


def blocks_of_document(path):
    text = path.read_text()
    for match in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S):
        line = text.count("\n", 0, match.start()) + 1
        kind = FENCES.get(match.group(1), "")
        yield Block(path.name, line, kind, match.group(2))


BLOCKS = [
    block
    for path in sorted((TOP / "man").glob("*.[1-9]"))
    for block in blocks_of_manual(path)
] + [
    block
    for path in (TOP / "README.md", TOP / "doc/fleet.md")
    for block in blocks_of_document(path)
]


def blocks(*kinds):
    """One test a block of these kinds."""
    chosen = [b for b in BLOCKS if b.kind.split(",")[0].split()[0:1] and
              b.kind.split(",")[0].split()[0] in kinds]
    return pytest.mark.parametrize(
        "block", chosen, ids=[f"{b.page}:{b.line}" for b in chosen]
    )


KINDS = ("config", "brokers", "json", "unit", "run", "syntax", "python", "c",
         "node", "sql", "text")


def test_every_block_says_what_it_is():
    assert len(BLOCKS) > 20
    for block in BLOCKS:
        kind = (block.kind.replace(",", " ").split() or [""])[0]
        assert kind in KINDS, f"{block.page}:{block.line}: {block.kind!r}"


@pytest.fixture(scope="session")
def etc(tmp_path_factory):
    """Stands in for /etc/mqttgw: what examples name is there."""
    folder = tmp_path_factory.mktemp("etc")
    authority = Authority(folder / "authority")
    shutil.copy(authority.cert, folder / "ca.pem")
    pair = authority.issue("gw1")
    shutil.copy(pair.cert, folder / "gw1.pem")
    shutil.copy(pair.key, folder / "gw1.key")
    for name in ("mqtt", "password"):
        (folder / name).write_text("secret\n")
    for path in folder.iterdir():
        path.chmod(0o700 if path.is_dir() else 0o600)
    return folder


def check_config(binary, etc, path, text):
    """Files are those of `etc`; users and groups have to be known, too."""
    text = text.replace("/etc/mqttgw/", f"{etc}/")
    text = re.sub(r'\b(user|group) = "\w+"', r'\1 = "root"', text)
    path.touch(mode=0o600)
    path.write_text(text)
    done = subprocess.run(
        [binary, "--check-config", "-c", str(path)],
        env={**os.environ, "CREDENTIALS_DIRECTORY": str(etc)},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )
    assert done.returncode == 0, done.stdout
    assert "warning" not in done.stdout.lower(), done.stdout


@blocks("config")
def test_configurations_have_no_fault(binary, etc, tmp_path, block):
    check_config(binary, etc, tmp_path / "mqttgw.conf", block.text)


@blocks("brokers")
def test_lists_of_brokers_have_no_fault(binary, etc, tmp_path, block):
    """What discovery.file may hold."""
    brokers = tmp_path / "brokers.conf"
    brokers.write_text(block.text.replace("/etc/mqttgw/", f"{etc}/"))
    check_config(binary, etc, tmp_path / "mqttgw.conf",
                 f'discovery: {{ file = "{brokers}"; }};')


@pytest.mark.parametrize("path", sorted(
    (TOP / "examples").glob("*.conf")), ids=lambda path: path.name)
def test_configurations_of_the_examples(binary, etc, tmp_path, path):
    check_config(binary, etc, tmp_path / path.name, path.read_text())


@blocks("json")
def test_json_is_json(block):
    text = block.text.replace("\n ", " ")
    assert text.strip()
    for line in text.splitlines():
        json.loads(line)


@blocks("unit")
def test_units_are_read(block):
    parser = configparser.ConfigParser(strict=True)
    parser.read_string(block.text)
    assert parser.sections()


class Sandbox:
    """A gateway whose paths stand in for those of the examples."""

    def __init__(self, binary, daemon, folder):
        self.daemon = daemon
        self.folder = folder
        self.places = {
            "/run/mqttgw.sock": str(daemon.socket_path),
            "/run/mqttgw/control.sock": str(daemon.control_path),
            "/var/lib/mqttgw/queue.db": str(daemon.queue_path),
            # A row that is there.
            "1042": "1",
        }
        bin_folder = folder / "bin"
        bin_folder.mkdir()
        for name, command in {
            "mqttgwctl": f'exec {mqttgwctl(binary)} -c {daemon.config_path}',
            # Nothing of this machine is stopped, nor its journal read.
            "systemctl": "exec echo",
            "journalctl": f"exec /usr/bin/journalctl -D {folder}",
        }.items():
            script = bin_folder / name
            script.write_text(f'#!/bin/sh\n{command} "$@"\n')
            script.chmod(0o755)
        self.environment = {**os.environ, "PATH": f"{bin_folder}:/usr/bin:/bin"}

    def place(self, text):
        for there, here in self.places.items():
            text = text.replace(there, here)
        return text

    def run(self, *command):
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, timeout=30 * TIME_FACTOR)
        assert done.returncode == 0, done.stdout
        return done.stdout


@pytest.fixture
def sandbox(request, binary, make_daemon, mosquitto, tmp_path):
    """Connected where the block says so; two messages wait otherwise."""
    block = request.node.callspec.params["block"]
    online = "online" in block.kind
    if not online:
        mosquitto.stop()
    daemon = make_daemon(mosquitto.port).start()
    if re.search(r"mqttgwctl (status|queue)|queue-list", block.text):
        with Client(daemon.socket_path) as client:
            for topic in ("sensors/t1", "plant/m17/x"):
                client.ask({"topic": topic, "payload": "21.5", "id": 1})
    return Sandbox(binary, daemon, tmp_path)


def commands_and_output(text):
    """Commands stand behind a prompt and go on behind a backslash, a pipe
    or "&&"; without any prompt all of it is commands."""
    if not re.search("^[$#] ", text, re.M):
        return text, ""
    commands, output = [], []
    going_on = False
    for line in text.splitlines():
        if line.startswith(("$ ", "# ")):
            commands.append(line[2:])
        elif going_on:
            commands.append(line)
        else:
            output.append(line)
        going_on = line.endswith(("\\", "|", "&&")) and not output
    return "\n".join(commands), "\n".join(output)


def shape(text):
    """Numbers and layout aside."""
    return re.sub(r"[\d,.]*\d", "0", re.sub(r"\s+", "", text))


@blocks("run")
def test_commands_do_what_is_shown(block, sandbox):
    commands, output = commands_and_output(block.text)
    said = sandbox.run("bash", "-euo", "pipefail", "-c",
                       sandbox.place(commands))
    if output:
        assert shape(said) == shape(sandbox.place(output))


@blocks("syntax")
def test_commands_are_shell(block):
    commands = commands_and_output(block.text)[0]
    assert commands.strip()
    subprocess.run(["bash", "-n", "-c", commands], check=True)


@blocks("python", "c", "node")
def test_programs_of_the_manuals(block, sandbox, compiled, tmp_path):
    suffix = {"python": ".py", "c": ".c", "node": ".js"}[block.kind]
    source = tmp_path / f"example{suffix}"
    source.write_text(sandbox.place(block.text))
    if block.kind == "node" and not shutil.which("node"):
        pytest.skip("NOT RUN: node is not installed (package nodejs)")
    sandbox.run(*{
        "python": ["/usr/bin/python3", str(source)],
        "c": [compiled(source)] if block.kind == "c" else [],
        "node": ["node", str(source)],
    }[block.kind])
    rows = Database(sandbox.daemon.queue_path).query(
        "SELECT topic, payload FROM queue")
    assert [(topic, bytes(payload)) for topic, payload in rows] == [
        ("sensors/t1", b"21.5")]


def test_sql_of_the_fleet_tells_duplicates_and_gaps():
    """The three statements of doc/fleet.md, in their order."""
    create, insert, gaps = (
        b.text for b in BLOCKS if b.page == "fleet.md" and b.kind == "sql"
    )
    with sqlite3.connect(":memory:") as database:
        database.execute(create)
        for queue, number in (("a", 1), ("a", 2), ("a", 2), ("b", 7), ("a", 5),
                              ("a", 1), ("b", 8)):
            database.execute(insert, {
                "gw_queue": queue, "gw_seq": number, "gw_id": "gw1",
                "gw_time": 1767323045678, "topic": "t", "payload": b"21.5",
            })
        rows = database.execute(
            "SELECT gw_queue, gw_seq FROM reading ORDER BY gw_queue, gw_seq")
        assert rows.fetchall() == [
            ("a", 1), ("a", 2), ("a", 5), ("b", 7), ("b", 8)]
        assert database.execute(gaps).fetchall() == [("a", 3, 4)]


# --- beside a bridge --------------------------------------------------------

BRIDGED = env_int("MQTTGW_BRIDGED", 2000)


def bridge(make_mosquitto, remote, **options):
    """A mosquitto that hands on all it gets, with what it has on disk."""
    return make_mosquitto(options=[
        *options.pop("settings", []),
        "connection up",
        f"address 127.0.0.1:{remote.port}",
        "topic # out 1",
        "cleansession false",
        "notifications false",
        "restart_timeout 1",
    ]).start()


def publish_by_mosquitto(port, numbers):
    """With QoS 1; returns once all of them were acknowledged."""
    subprocess.run(
        ["mosquitto_pub", "-h", "127.0.0.1", "-p", str(port), "-q", "1",
         "-t", "t", "-l"],
        input=b"".join(number + b"\n" for number in numbers), check=True,
        timeout=30 * TIME_FACTOR)


@pytest.mark.parametrize("how", ["killed", "full"])
def test_what_readme_says_of_a_bridge(
    how, make_mosquitto, make_daemon, make_subscriber, mosquitto, measured
):
    """Messages that were acknowledged while the broker was away, and then
    the bridge, or the gateway, was killed; or they were more than 1,000,
    what mosquitto holds by default."""
    subscriber = make_subscriber(mosquitto.port)
    mosquitto.stop()
    expected = numbers(0, BRIDGED)
    settings = ["max_queued_messages 1000"] if how == "full" else []
    ours = make_daemon(mosquitto.port).start()
    with Client(ours.socket_path) as client:
        replies = client.feed({"topic": "t", "payload": n.decode(), "id": 1}
                              for n in expected)
        assert {reply["status"] for reply in replies} == {"queued"}
    theirs = bridge(make_mosquitto, mosquitto, settings=settings)
    publish_by_mosquitto(theirs.port, [b"bridge-" + n for n in expected])
    if how == "killed":
        ours.kill9()
        theirs.kill9()
        theirs.start()
        ours.start()
    mosquitto.start()
    subscriber.wait_payloads(expected)

    def last_arrives():
        """What comes behind all others; while the bridge is full, it drops
        this one as well."""
        publish_by_mosquitto(theirs.port, [b"bridge-last"])
        return b"bridge-last" in subscriber.payloads()

    wait_until(
        last_arrives, 30, "the bridge to have handed on what it has", 0.2)
    arrived = {p for p in subscriber.payloads() if p.startswith(b"bridge-")}
    lost = len(expected) - (len(arrived) - 1)
    measured(f"of {len(expected)} acknowledged messages, {how}: gateway lost "
             f"0, mosquitto's bridge {lost}")
    assert lost > 0


# --- what the documents name --------------------------------------------------


@pytest.mark.parametrize("name", [
    "README.md", "CONTRIBUTING.md", "SECURITY.md", "doc/architecture.md",
    "doc/fleet.md", "doc/monitoring.md", "examples/README.md"])
def test_files_that_are_named_exist(name):
    document = TOP / name
    text = document.read_text()
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (document.parent / link).exists(), link
    named = set(re.findall(
        r"`((?:src|tests|doc|man|etc|systemd|scripts|bench|examples)/[\w./-]+)",
        text))
    # Patterns, and what is built.
    for path in named - {"tests/unit/check_ROOM.c", "tests/check-",
                         "tests/unit/check_units", "bench/storm"}:
        assert (TOP / path).exists(), path
    for page, section in re.findall(r"\b(mqtt[\w.-]+)\(([1-9])\)", text):
        assert (TOP / "man" / f"{page}.{section}").exists(), page
    for target in re.findall(r"`make (check[\w-]*|analyze|lint|format)", text):
        makefile = (TOP / "Makefile.am").read_text()
        assert target == "check" or re.search(
            rf"^{target}:", makefile, re.M), target


@pytest.mark.long
def test_the_demonstration(binary):
    """The first command of the README: to its end, with what it promises on
    the way, and nothing left behind."""
    if not shutil.which("apt-get"):
        pytest.skip("NOT RUN: scripts/demo installs with apt-get")
    # A socket's path is short.
    with tempfile.TemporaryDirectory(prefix="demo-") as folder:
        done = subprocess.run(
            [TOP / "scripts/demo"],
            env={**os.environ, "MQTTGW_BUILD": str(Path(binary).parent),
                 "TMPDIR": folder},
            stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=120 * TIME_FACTOR,
        )
        left = os.listdir(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    cut = done.stdout.index("The broker is cut off")
    killed = done.stdout.index("the gateway is killed (kill -9)")
    assert re.search(r"\| .*offline", done.stdout[cut:killed]), done.stdout
    waiting = re.findall(r"queue: *(\d+)", done.stdout[cut:killed])
    assert int(waiting[-1]) > 50, done.stdout
    arrived = re.search(r"All (\d+) readings, each after the one before it", done.stdout)
    assert int(arrived[1]) > int(waiting[-1]), done.stdout
    assert not left
