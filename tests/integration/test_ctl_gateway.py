# SPDX-License-Identifier: MIT
"""mqttgwctl and the real gateway, with a real broker: what it tells is what
is, and what it asks for happens."""

import json
import re
import subprocess
import threading
import time

import pytest
from harness import TIME_FACTOR, Client, Database, wait_until
from harness.ctltools import Stopped, Terminal, program, run
from harness.ports import free_port
from harness.waiting import env_int

BACKLOG = env_int("MQTTGW_FLUSH", 50000)
PROMPT = re.escape(Terminal.PROMPT.strip())


@pytest.fixture
def gateway(make_daemon):
    """gateway(PORT, GROUP={...}) -> a daemon, started."""

    def make(port, **groups):
        return make_daemon(port, **groups).start()

    return make


@pytest.fixture
def ctl(binary):
    """ctl(DAEMON, WORD...) -> its standard output, when all went well."""

    def call(daemon, *words, **options):
        done = run(binary, "-c", daemon.config_path, *words, **options)
        assert done.returncode == 0, done
        assert not done.stderr, done
        return done.stdout

    return call


def feed(daemon, count, **fields):
    with Client(daemon.socket_path) as client:
        for reply in client.feed(
            {"topic": "t", "payload": str(number), "id": number, **fields}
            for number in range(count)
        ):
            assert reply["status"] == "queued", reply


def state_of(ctl, daemon):
    return json.loads(ctl(daemon, "status", "--json"))


def wait_state(ctl, daemon, condition, what, timeout=20.0):
    """Waits until the reply to status fulfils the condition."""
    found = {}

    def look():
        found.update(state_of(ctl, daemon))
        return condition(found)

    wait_until(look, timeout, what, 0.1)
    return found


# --- status -------------------------------------------------------------------


def test_status_when_connected(ctl, gateway, mosquitto):
    daemon = gateway(mosquitto.port)
    name = f"127.0.0.1:{mosquitto.port}"
    wait_state(ctl, daemon, lambda s: s["state"] == "connected", "connected")
    feed(daemon, 100)
    wait_state(
        ctl, daemon,
        lambda s: s["totals"]["delivered"] == 100 and
        s["queue"]["messages"] == 0,
        "all is delivered",
    )
    shown = ctl(daemon, "status")
    assert re.match(rf"[●*] connected to {name} for \d\.\d s\n", shown)
    assert "100 accepted, 100 delivered, 0 refused, 0 dropped" in shown
    assert re.search(r"^queue +0 messages$", shown, re.MULTILINE)
    assert f"process {daemon.process.pid}, up " in shown
    assert str(daemon.socket_path) in shown
    reply = state_of(ctl, daemon)
    assert reply["why"] == "" and reply["last_failure"] is None


def test_status_without_a_broker(ctl, gateway, measured):
    """Why nothing moves, and what failed last."""
    port = free_port()
    daemon = gateway(
        port,
        queue={"max_messages": 1000},
        retry={"base": 60.0, "max": 60.0, "jitter": "none",
               "heartbeat_attempts": 0},
    )
    feed(daemon, 500)
    wait_state(ctl, daemon, lambda s: s["last_failure"], "a failure")
    shown = ctl(daemon, "status")
    lines = shown.splitlines()
    assert re.match(r"[●*] (disconnected|error|offline)\b", lines[0]), shown
    assert len(lines[1].strip()) > 10
    assert len(re.findall(r"next attempt in (?:\d\d s|1 min)", shown)) == 1
    assert "500 of 1,000 messages, the oldest waits for " in shown
    assert re.search(r" 50 % full, ", shown)
    assert re.search(
        rf"^last failure +\S+ with 127\.0\.0\.1:{port}, .*ago$",
        shown, re.MULTILINE,
    )
    assert "Connection refused" in shown


def test_status_with_two_brokers(ctl, make_mosquitto, gateway):
    there, gone = make_mosquitto().start(), free_port()
    daemon = gateway(gone, retry={"set_aside": 60.0, "timeout_attempts": 1,
                                  "heartbeat_attempts": 0})
    daemon.stop()
    daemon.settings["brokers"].append({"host": "127.0.0.1", "port": there.port})
    daemon.write_config()
    daemon.start()
    wait_state(ctl, daemon, lambda s: s["state"] == "connected", "connected")
    shown = ctl(daemon, "status")
    assert re.search(
        rf"^ +127\.0\.0\.1:{there.port} +connected +\d+ of \d+ attempts? suc",
        shown, re.MULTILINE,
    ), shown
    assert re.search(
        rf"^brokers +127\.0\.0\.1:{gone} +(set aside for|in reserve)",
        shown, re.MULTILINE,
    ), shown


@pytest.mark.long
def test_status_when_held(ctl, gateway, make_mosquitto, tmp_path):
    """The broker refuses whatever comes: not the messages' fault."""
    rules = tmp_path / "acl"
    rules.write_text("topic read #\n")
    tmp_path.chmod(0o755)
    broker = make_mosquitto(options=[f"acl_file {rules}"]).start()
    daemon = gateway(broker.port, retry={"set_aside": 120.0})
    feed(daemon, 20)
    reply = wait_state(ctl, daemon, lambda s: s["held"], "held", 40)
    assert reply["why"]
    shown = ctl(daemon, "status")
    assert "queue held" in shown.splitlines()[0]
    assert "dead letters  3 of 10,000" in shown


# --- reconnect ----------------------------------------------------------------


def test_reconnect_ends_the_wait(ctl, gateway, make_mosquitto):
    port = free_port()
    daemon = gateway(
        port, retry={"base": 600.0, "max": 600.0, "jitter": "none",
                     "heartbeat_attempts": 0},
    )
    wait_state(ctl, daemon, lambda s: s["next_attempt"], "it waits")
    make_mosquitto(port=port).start()
    assert ctl(daemon, "reconnect") == ""
    wait_state(ctl, daemon, lambda s: s["state"] == "connected", "connected")


# --- flush --------------------------------------------------------------------


@pytest.mark.timeout(180)
def test_flush_drains_a_backlog(
    binary, ctl, gateway, make_mosquitto, make_subscriber, measured
):
    port = free_port()
    daemon = gateway(port)
    lines = "".join(f"{number}\n" for number in range(BACKLOG))
    ctl(daemon, "pub", "-t", "b", "-l", "-q", "1", input=lines)
    done = run(binary, "-c", daemon.config_path, "flush", "--timeout", "1")
    assert done.returncode == 1
    assert re.match(
        rf"mqttgwctl: not empty after 1\.\d s: {BACKLOG:,} messages left: .",
        done.stderr,
    ), done.stderr
    assert done.stderr.count("\n") == 1
    # It may be quicker than the subscriber.
    with Stopped(daemon.process.pid):
        make_mosquitto(port=port).start()
        subscriber = make_subscriber(port, topic="b")
    shown = ctl(daemon, "flush", "--timeout", "120", timeout=150)
    match = re.fullmatch(
        r"the queue is empty: ([\d,]+) messages? delivered in .*/s\n", shown
    )
    assert match, shown
    assert Database(daemon.queue_path).count() == 0
    records = subscriber.wait_for(BACKLOG, 30)
    assert [int(r.payload) for r in records] == list(range(BACKLOG))
    measured(f"mqttgwctl flush of {BACKLOG:,}: {shown.strip()}")
    assert ctl(daemon, "flush") == "the queue is empty\n"


# --- the queue ----------------------------------------------------------------


MIXED = [
    ("plain/1", b"text", 0, False),
    ("plain/2", "grün \u0000 \"\\ \u2028".encode(), 1, True),
    ("plain/3", b"", 2, False),
    ("deep/binary/x", bytes(range(256)), 1, False),
    ("deep/binary/y", b"\xff" * 1000, 2, True),
    ("größe/温度", b"{\"a\": [1, 2.50]}", 1, False),
]


def publish_mixed(ctl, daemon, tmp_path):
    path = tmp_path / "payload"
    for topic, payload, qos, retain in MIXED:
        path.write_bytes(payload)
        ctl(
            daemon, "pub", "-t", topic, "-f", path, "-q", str(qos),
            *(["-r"] if retain else []),
        )


def contents(daemon, columns="topic, CAST(payload AS BLOB), qos, retained"):
    return [
        (topic, bytes(payload), qos, bool(retained), *rest)
        for topic, payload, qos, retained, *rest in Database(
            daemon.queue_path
        ).query(f"SELECT {columns} FROM queue ORDER BY id")
    ]


def test_export_and_feed_back(binary, ctl, gateway, tmp_path):
    """A round trip: the same messages, with the same times."""
    daemon = gateway(free_port())
    publish_mixed(ctl, daemon, tmp_path)
    with_times = "topic, CAST(payload AS BLOB), qos, retained, timestamp"
    before = contents(daemon, with_times)
    assert [row[:4] for row in before] == MIXED
    exported = ctl(daemon, "queue", "export", text=False)
    assert exported.count(b"\n") == len(MIXED) and exported.isascii()
    assert contents(daemon, with_times) == before
    assert ctl(daemon, "queue", "purge", "--yes").startswith("6 messages ")
    assert contents(daemon) == []
    with Client(daemon.socket_path) as client:
        client.send(exported)
        client.publish(topic="end", payload="", id="end")
        reply = client.reply()
        assert reply["status"] == "queued", reply
    ctl(daemon, "queue", "purge", "--topic", "end")
    assert contents(daemon, with_times) == before


def test_list_and_show(ctl, gateway, tmp_path):
    daemon = gateway(free_port())
    publish_mixed(ctl, daemon, tmp_path)
    rows = [
        json.loads(line)
        for line in ctl(daemon, "queue", "list", "--json").splitlines()
    ]
    assert [(r["topic"], r["bytes"], r["qos"], r["retain"]) for r in rows] == [
        (topic, len(payload), qos, retain)
        for topic, payload, qos, retain in MIXED
    ]
    ids = [row["seq"] for row in rows]
    shown = ctl(daemon, "queue", "list")
    assert shown.count("\n") == 1 + len(MIXED)
    # The first hundred bytes of the other one are text.
    assert shown.count("(binary)") == 1
    assert [int(line.split()[0]) for line in shown.splitlines()[1:]] == ids

    def listed(*options):
        out = ctl(daemon, "queue", "list", "--json", *options)
        return [json.loads(line)["seq"] for line in out.splitlines()]

    assert listed("--limit", "2") == ids[:2]
    assert listed("--after", str(ids[1]), "--limit", "2") == ids[2:4]
    assert listed("--topic", "deep/#") == ids[3:5]
    assert listed("--topic", "+/2") == ids[1:2]
    assert listed("--topic", "nothing") == []
    for (topic, payload, _, _), seq in zip(MIXED, ids):
        assert ctl(daemon, "queue", "show", str(seq), "--raw",
                   text=False) == payload
        assert f"id         {seq}\n" in ctl(daemon, "queue", "show", str(seq))


def test_what_is_refused(binary, gateway):
    daemon = gateway(free_port())
    for words, said in (
        (("queue", "show", "99"), "(not-found)"),
        (("dead", "show", "99"), "(not-found)"),
        (("queue", "list", "--topic", "a/#/b"), "(bad-field)"),
        (("queue", "purge", "--topic", ""), "(bad-field)"),
    ):
        done = run(binary, "-c", daemon.config_path, *words)
        assert (done.returncode, done.stdout) == (1, ""), done
        assert said in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.timeout(180)
def test_a_long_queue_streams(binary, ctl, gateway, measured):
    """And `head` has its fill at once."""
    daemon = gateway(free_port())
    ctl(daemon, "pub", "-t", "b", "-l",
        input="".join(f"{number} {'x' * 200}\n" for number in range(BACKLOG)))
    begin = time.monotonic()
    shown = ctl(daemon, "queue", "export", timeout=120)
    took = time.monotonic() - begin
    assert shown.count("\n") == BACKLOG
    measured(f"mqttgwctl queue export: {BACKLOG / took:,.0f} messages/s")
    begin = time.monotonic()
    done = subprocess.run(
        ["bash", "-c", f"'{program(binary)}' -c '{daemon.config_path}' "
         "queue list | head -n 3"],
        capture_output=True, text=True, timeout=20 * TIME_FACTOR,
    )
    assert (done.stdout.count("\n"), done.stderr) == (3, "")
    assert time.monotonic() - begin < 3 * TIME_FACTOR
    # Meanwhile and afterwards the gateway goes on.
    ctl(daemon, "pub", "-t", "b", "-m", "x")
    shown = ctl(daemon, "queue", "purge", "--topic", "b", timeout=120)
    assert shown == f"{BACKLOG + 1:,} messages thrown away\n"
    assert Database(daemon.queue_path).count() == 0


# --- dead letters -------------------------------------------------------------


@pytest.fixture
def refused(ctl, gateway, make_mosquitto, tmp_path):
    """A daemon with two dead letters, and the file with the rules."""
    rules = tmp_path / "acl"
    rules.write_text("topic readwrite good/#\n")
    tmp_path.chmod(0o755)
    broker = make_mosquitto(options=[f"acl_file {rules}"]).start()
    daemon = gateway(broker.port)
    for topic in ("bad/1", "good/1", "bad/2", "good/2"):
        ctl(daemon, "pub", "-t", topic, "-m", topic)
    wait_state(
        ctl, daemon,
        lambda s: s["queue"]["dead_letters"] == 2 and
        s["queue"]["messages"] == 0,
        "two dead letters", 40,
    )
    return daemon, broker, rules


@pytest.mark.long
def test_dead_letters(ctl, refused, make_subscriber):
    daemon, broker, rules = refused
    rows = [
        json.loads(line)
        for line in ctl(daemon, "dead", "list", "--json").splitlines()
    ]
    assert [row["topic"] for row in rows] == ["bad/1", "bad/2"]
    shown = ctl(daemon, "dead", "list")
    assert "REASON" in shown.splitlines()[0]
    assert rows[0]["reason"][:10] in shown.splitlines()[1]
    first = str(rows[0]["seq"])
    shown = ctl(daemon, "dead", "show", first)
    assert f"reason     {rows[0]['reason']}\n" in shown
    assert re.search(r"^died +20\d\d-", shown, re.MULTILINE)
    assert ctl(daemon, "dead", "show", first, "--raw") == "bad/1"
    exported = [
        json.loads(line)
        for line in ctl(daemon, "dead", "export").splitlines()
    ]
    assert [(e["topic"], e["payload"]) for e in exported] == [
        ("bad/1", "bad/1"), ("bad/2", "bad/2"),
    ]
    assert not {"reason", "died_at", "seq"} & set(exported[0])
    # The rules are put right, and one is tried again.
    rules.write_text("topic readwrite #\n")
    broker.restart()
    subscriber = make_subscriber(broker.port, topic="bad/#")
    assert ctl(daemon, "dead", "requeue", first) == (
        "1 dead letter back in the queue\n"
    )
    ctl(daemon, "reconnect")
    assert [r.topic for r in subscriber.wait_for(1)] == ["bad/1"]
    assert ctl(daemon, "dead", "purge", "--topic", "nothing") == (
        "0 dead letters thrown away\n"
    )
    assert ctl(daemon, "dead", "purge", "--topic", "bad/+") == (
        "1 dead letter thrown away\n"
    )
    assert ctl(daemon, "dead", "list") == ""


@pytest.mark.long
def test_all_dead_letters_again(ctl, refused, make_subscriber):
    daemon, broker, rules = refused
    rules.write_text("topic readwrite #\n")
    broker.restart()
    subscriber = make_subscriber(broker.port, topic="bad/#")
    assert ctl(daemon, "dead", "requeue") == (
        "2 dead letters back in the queue\n"
    )
    ctl(daemon, "reconnect")
    records = subscriber.wait_for(2)
    assert [r.topic for r in records] == ["bad/1", "bad/2"]
    assert state_of(ctl, daemon)["queue"]["dead_letters"] == 0


# --- in a terminal ------------------------------------------------------------


@pytest.fixture
def terminal():
    made = []

    def make(*size):
        made.append(Terminal(*size))
        return made[-1]

    yield make
    for one in made:
        one.close()


class Feeder:
    """Feeds so many messages a second until it is told to stop."""

    def __init__(self, daemon, a_second):
        self._daemon = daemon
        self._a_second = a_second
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self):
        with Client(self._daemon.socket_path) as client:
            while not self._end.wait(0.1):
                for _ in range(self._a_second // 10):
                    client.publish(topic="t", payload="x" * 100)

    def stop(self):
        self._end.set()
        self._thread.join()


@pytest.mark.timeout(120)
def test_watch_an_outage(binary, ctl, gateway, make_mosquitto, terminal):
    """The backlog grows while the broker is away, and goes when it is back."""
    broker = make_mosquitto().start()
    daemon = gateway(broker.port)
    wait_state(ctl, daemon, lambda s: s["state"] == "connected", "connected")
    shell = terminal(100, 34)
    settings = shell.settings()
    feeder = Feeder(daemon, 200)
    try:
        shell.command(f"{program(binary)} -c {daemon.config_path} watch")
        shell.wait_for(rf"● connected to 127\.0\.0\.1:{broker.port}")
        shell.wait_for(r"^accepted +[12]\d\d(\.\d)? .*█")
        shell.wait_for(r"^delivered +[12]\d\d(\.\d)? .*█")
        broker.stop()
        shell.wait_for(r"^● (disconnected|connecting|error|offline)")
        shell.wait_for(r"^delivered +0 ", 20)
        shell.wait_for(r"^queued +[1-9][\d,]{2,}(\.\d)? .*█", 20)
        broker.start()
        shell.wait_for(r"● connected", 20)
        shell.wait_for(r"^queued +\d(\d)?(\.\d)? ", 30)
    finally:
        feeder.stop()
    shell.key("q")
    shell.wait_for(PROMPT)
    assert shell.state("alternate_on") == "0"
    assert shell.settings() == settings


@pytest.mark.timeout(120)
def test_watch_a_restart_of_the_gateway(binary, gateway, mosquitto, terminal):
    daemon = gateway(mosquitto.port)
    shell = terminal(100, 34)
    shell.command(f"{program(binary)} -c {daemon.config_path} watch")
    shell.wait_for("● connected")
    before = daemon.process.pid
    shell.wait_for(rf"process {before},")
    daemon.stop()
    shell.wait_for("● not reachable: the gateway does not run")
    daemon.start()
    shell.wait_for("● connected", 20)
    shell.wait_for(rf"process {daemon.process.pid},")
    daemon.kill9()
    shell.wait_for("● not reachable: the gateway does not run")
    shell.key("q")
    shell.wait_for(PROMPT)
    assert shell.state("alternate_on") == "0"


@pytest.mark.timeout(120)
def test_flush_on_a_terminal(binary, ctl, gateway, make_mosquitto, terminal):
    port = free_port()
    daemon = gateway(port, mqtt={"max_rate": "64K"})
    ctl(daemon, "pub", "-t", "b", "-l", "-q", "1",
        input="".join(f"{number} {'x' * 200}\n" for number in range(2000)))
    shell = terminal(100, 24)
    settings = shell.settings()
    shell.command(f"clear; {program(binary)} -c {daemon.config_path} flush")
    shell.wait_for(r"^░+ +0 %  2,000 left")
    make_mosquitto(port=port).start()
    shell.wait_for(r"^█+░+ +\d+ %  [\d,]+ left, [\d.,]+/s, \d.* to go$", 30)
    shell.wait_for(r"^the queue is empty: [\d,]+ messages delivered in ", 60)
    assert shell.settings() == settings
    assert Database(daemon.queue_path).count() == 0


def test_purge_on_a_terminal(binary, ctl, gateway, terminal):
    daemon = gateway(free_port())
    feed(daemon, 1234)
    shell = terminal(100, 24)
    line = f"{program(binary)} -c {daemon.config_path} queue purge"
    shell.command(f"clear; {line}; echo \"ended $?\"")
    shell.wait_for(r"^Throw away all 1,234 messages of the queue\?")
    shell.command("n")
    shell.wait_for("^ended 1$")
    assert Database(daemon.queue_path).count() == 1234
    shell.command(f"clear; {line}; echo \"ended $?\"")
    shell.wait_for(r"\[y/N\]")
    shell.command("y")
    screen = shell.wait_for("^ended 0$")
    assert "1,234 messages thrown away" in screen
    assert Database(daemon.queue_path).count() == 0
