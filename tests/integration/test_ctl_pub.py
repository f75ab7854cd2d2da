# SPDX-License-Identifier: MIT
"""mqttgwctl pub: what mosquitto_pub does, but the gateway has it on disk."""

import json
import random
import subprocess
import time

import pytest
from harness import TIME_FACTOR, Client, Database, wait_until
from harness.ctltools import FakeGateway, Stopped, program, run, status
from harness.ports import free_port
from harness.waiting import env_int

LINES = env_int("MQTTGW_MESSAGES", 20000)

BINARY = bytes(range(256)) * 3
TEXT = "grün \u0000 \U0001f600 \"quoted\" \\ \t end"


@pytest.fixture
def gateway(make_daemon):
    """A daemon without a broker: what is published stays to be looked at."""
    return make_daemon(free_port()).start()


@pytest.fixture
def pub(binary):
    def call(daemon, *arguments, **options):
        return run(binary, "-c", daemon.config_path, "pub", *arguments, **options)

    return call


def rows(daemon):
    """(topic, payload, qos, retained) of all, in order."""
    return [
        (topic, bytes(payload), qos, retained)
        for topic, payload, qos, retained in Database(
            daemon.queue_path
        ).query(
            "SELECT topic, CAST(payload AS BLOB), qos, retained "
            "FROM queue ORDER BY id"
        )
    ]


def expect_done(done):
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_text(pub, gateway):
    expect_done(pub(gateway, "-t", "a/b", "-m", "21.5 °C"))
    expect_done(pub(gateway, "--topic=a", "--message=", "-q", "0"))
    expect_done(pub(gateway, "-t", "a", "-m", "x", "-q2", "-r"))
    expect_done(pub(gateway, "-t", "a", "-n", "--retain", "--qos", "1"))
    assert rows(gateway) == [
        ("a/b", "21.5 °C".encode(), 1, 0),
        ("a", b"", 0, 0),
        ("a", b"x", 2, 1),
        ("a", b"", 1, 1),
    ]


def test_the_gateway_has_a_default_of_its_own(pub, make_daemon):
    daemon = make_daemon(free_port(), socket={"default_qos": 2}).start()
    expect_done(pub(daemon, "-t", "a", "-m", "x"))
    assert rows(daemon) == [("a", b"x", 2, 0)]


@pytest.mark.parametrize(
    "content",
    [b"", b"line\n", TEXT.encode(), BINARY, b"\n\n\n", b"\xed\xa0\x80"],
    ids=["empty", "line", "text", "binary", "newlines", "surrogate"],
)
def test_a_file_and_standard_input(pub, gateway, tmp_path, content):
    """Byte by byte, whatever it is."""
    path = tmp_path / "payload"
    path.write_bytes(content)
    expect_done(pub(gateway, "-t", "f", "-f", path))
    done = pub(gateway, "-t", "s", "-s", input=content, text=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert rows(gateway) == [("f", content, 1, 0), ("s", content, 1, 0)]


def test_the_largest_message(pub, gateway, tmp_path):
    """As base64 it is near the bound of a line."""
    content = random.Random(1).randbytes(700_000)
    path = tmp_path / "payload"
    path.write_bytes(content)
    expect_done(pub(gateway, "-t", "f", "-f", path))
    assert rows(gateway) == [("f", content, 1, 0)]


def test_as_mosquitto_pub_does(pub, make_daemon, mosquitto, make_subscriber):
    """Both are asked to send the same; a subscriber sees no difference."""
    subscriber = make_subscriber(mosquitto.port)
    daemon = make_daemon(mosquitto.port).start()
    # mosquitto_pub -l cannot do NUL.
    text = TEXT.replace("\0", "").encode()
    lines = b"one\n\n two \r\n\xff\xfe\n" + text + b"\nno newline"
    variants = [
        (["-m", "text"], b""),
        (["-n", "-r"], b""),
        (["-s"], BINARY),
        (["-s", "-r"], b"kept"),
        (["-l"], lines),
    ]
    for number, (options, content) in enumerate(variants):
        for qos in "012":
            common = ["-t", f"t/{number}/{qos}", "-q", qos, *options]
            expect_done(
                pub(daemon, *common, input=content.decode("latin-1"),
                    encoding="latin-1")
            )
            wanted = 6 if options == ["-l"] else 1
            ours = subscriber.wait_for(wanted)[:]
            subscriber.records.clear()
            subprocess.run(
                ["mosquitto_pub", "-p", str(mosquitto.port), *common],
                input=content, check=True, timeout=20 * TIME_FACTOR,
            )
            theirs = subscriber.wait_for(wanted)[:]
            subscriber.records.clear()
            assert [tuple(r) for r in ours] == [tuple(r) for r in theirs]


def test_lines_are_pipelined(pub, gateway, measured):
    """Many lines, one by one, in order; replies are read meanwhile."""
    begin = time.monotonic()
    done = pub(
        gateway, "-t", "l", "-l",
        input="".join(f"{n} {'x' * 100}\n" for n in range(LINES)),
    )
    took = time.monotonic() - begin
    expect_done(done)
    assert [payload for _, payload, _, _ in rows(gateway)] == [
        b"%d %s" % (n, b"x" * 100) for n in range(LINES)
    ]
    measured(f"mqttgwctl pub -l: {LINES / took:,.0f} lines/s")


def test_a_line_goes_when_it_comes(binary, gateway):
    """A program that writes now and then is not kept waiting for more."""
    process = subprocess.Popen(
        [program(binary), "-c", gateway.config_path, "pub", "-t", "l", "-l"],
        stdin=subprocess.PIPE,
    )
    try:
        for count in (1, 2):
            process.stdin.write(b"now\n")
            process.stdin.flush()
            wait_until(lambda: len(rows(gateway)) == count, 10, "a row")
        # Longer than anybody would be waited for who owes an answer.
        time.sleep(6)
        assert process.poll() is None
        process.stdin.write(b"later")
        process.stdin.close()
        assert process.wait(10 * TIME_FACTOR) == 0
    finally:
        process.kill()
        process.wait()
    assert [row[1] for row in rows(gateway)] == [b"now", b"now", b"later"]


# --- what is refused ----------------------------------------------------------


def expect_refused(done, *said):
    assert (done.returncode, done.stdout) == (1, ""), done
    lines = done.stderr.splitlines()
    assert len(lines) == len(said), done.stderr
    for line, text in zip(lines, said):
        assert line.startswith("mqttgwctl: ") and text in line


def test_a_topic_that_is_none(pub, gateway):
    expect_refused(pub(gateway, "-t", "a/#", "-m", "x"), "(bad-topic)")
    assert rows(gateway) == []


def test_a_topic_that_is_no_text(pub, gateway):
    done = pub(gateway, "-t", b"\xff".decode(errors="surrogateescape"), "-n")
    assert done.returncode == 2
    assert "not UTF-8" in done.stderr


def test_lines_that_are_refused_are_numbered(pub, make_daemon):
    """The others are taken, before them and behind."""
    daemon = make_daemon(
        free_port(), queue={"max_messages": 3}
    ).start()
    done = pub(daemon, "-t", "l", "-l", input="1\n2\n3\n4\n5\n")
    expect_refused(done, "line 4: ", "line 5: ")
    assert done.stderr.count("(queue-full)") == 2
    assert [row[1] for row in rows(daemon)] == [b"1", b"2", b"3"]


def test_a_line_that_is_too_long(pub, make_daemon):
    """The gateway hangs up on it: what is behind is not accepted."""
    daemon = make_daemon(
        free_port(), socket={"max_message_bytes": "2K"}
    ).start()
    done = pub(daemon, "-t", "l", "-l", input=f"1\n{'x' * 5000}\n3\n")
    expect_refused(done, "line 2: ", "not accepted from line 3 on")
    assert "(too-large)" in done.stderr
    assert [row[1] for row in rows(daemon)] == [b"1"]
    done = pub(daemon, "-t", "l", "-m", "x" * 100_000)
    expect_refused(done, "(too-large)")


def test_files_that_are_none(pub, gateway, tmp_path):
    for path in (tmp_path / "nothing", tmp_path):
        done = pub(gateway, "-t", "f", "-f", path)
        expect_refused(done, str(path))
    assert rows(gateway) == []


def test_too_many_clients(pub, make_daemon, make_client_of):
    daemon = make_daemon(free_port(), socket={"max_clients": 1}).start()
    with make_client_of(daemon):
        done = pub(daemon, "-t", "t", "-m", "x")
    expect_refused(done, "(too-many-clients)")


@pytest.fixture
def make_client_of():
    def make(daemon):
        client = Client(daemon.socket_path)
        # It is served, and thus counted.
        client.publish(topic="t", payload="first", id=1)
        wait_until(lambda: rows(daemon), 10, "the client is served")
        return client

    return make


def test_the_gateway_stops_meanwhile(binary, gateway):
    """What was answered is on disk, the rest is told."""
    process = subprocess.Popen(
        [program(binary), "-c", gateway.config_path, "pub", "-t", "l", "-l"],
        stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )
    process.stdin.write("1\n")
    process.stdin.flush()
    wait_until(lambda: rows(gateway), 10, "a row")
    gateway.stop()
    _, said = process.communicate(timeout=20 * TIME_FACTOR)
    assert process.returncode == 1
    assert "(stopping)" in said
    assert [row[1] for row in rows(gateway)] == [b"1"]


@pytest.mark.parametrize("options", [("-m", "1"), ("-s",)])
def test_a_stop_right_behind_the_answer(binary, options):
    """All is on disk: whoever sent it again would send it twice."""
    said = {"id": None, "status": "error", "error": "stopping", "message": "m"}
    queued = {"id": 1, "status": "queued", "seq": 1}
    local = FakeGateway(
        lambda request: [
            b"".join(json.dumps(line).encode() + b"\n" for line in (queued, said))
        ]
    )
    control = FakeGateway(lambda request: [status(socket=str(local.path))])
    try:
        done = run(
            binary, "--socket", control.path, "pub", "-t", "t", *options,
            input="1\n",
        )
    finally:
        control.close()
        local.close()
    expect_done(done)


def test_a_refusal_commands_no_terminal(binary):
    local = FakeGateway(
        lambda request: [
            {"id": 1, "status": "error", "error": "\x1b[2J", "message": "\x1b[1m"}
        ]
    )
    control = FakeGateway(lambda request: [status(socket=str(local.path))])
    try:
        done = run(
            binary, "--socket", control.path, "pub", "-t", "t", "-m", "x"
        )
    finally:
        control.close()
        local.close()
    expect_refused(done, r"\x1b[1m (\x1b[2J)")


# --- a commit that takes its time ---------------------------------------------


def test_a_long_commit_delay_is_no_hang(pub, make_daemon):
    daemon = make_daemon(free_port(), queue={"commit_delay": 8.0}).start()
    # What the uplink notes when it begins waits for nobody, and takes along
    # the lines that are there.
    daemon.wait_output("Connection refused")
    begin = time.monotonic()
    expect_done(pub(daemon, "-t", "t", "-m", "x"))
    assert time.monotonic() - begin > 7
    assert [row[1] for row in rows(daemon)] == [b"x"]


def test_a_hung_gateway(pub, gateway):
    begin = time.monotonic()
    with Stopped(gateway.process.pid):
        done = pub(gateway, "-t", "t", "-m", "x")
    assert (done.returncode, done.stdout) == (3, "")
    assert "hangs" in done.stderr and done.stderr.count("\n") == 1
    assert time.monotonic() - begin < 8 * TIME_FACTOR


# --- which socket -------------------------------------------------------------


def test_the_gateway_behind_a_control_socket_is_asked(binary, gateway):
    fake = FakeGateway(
        lambda request: [status(socket=str(gateway.socket_path))]
    )
    try:
        done = run(
            binary, "--socket", fake.path, "pub", "-t", "t", "-m", "x"
        )
    finally:
        fake.close()
    expect_done(done)
    assert fake.requests == [{"command": "status"}]
    assert len(rows(gateway)) == 1


def test_the_configuration_may_have_secrets(binary, gateway, tmp_path):
    """Passwords and certificates that this user may not read, or that are
    gone: no reason not to find the sockets, and none to complain."""
    gateway.settings["brokers"][0].update(
        username="u", password_file="/nonexistent/secret",
        tls={"ca_file": "/nonexistent/ca", "insecure": True},
    )
    gateway.write_config()
    gateway.config_path.chmod(0o644)
    expect_done(
        run(binary, "-c", gateway.config_path, "pub", "-t", "t", "-m", "x")
    )
    assert len(rows(gateway)) == 1


def test_a_configuration_that_is_none(binary, tmp_path):
    path = tmp_path / "c.conf"
    done = run(binary, "-c", path, "pub", "-t", "t", "-m", "x")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"mqttgwctl: {path} cannot be read: No such file or directory\n"
    )
    path.write_text("socket: {")
    done = run(binary, "-c", path, "pub", "-t", "t", "-m", "x")
    assert done.returncode == 1
    assert "--check-config" in done.stderr and done.stderr.count("\n") == 1
