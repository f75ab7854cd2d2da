# SPDX-License-Identifier: MIT
"""The local socket: JSON Lines as the contract has it, to the letter."""

import base64
import json
import os
import re
import socket
import time

import pytest
from harness import Client, Database, wait_until
from harness.client import all_queued, encode
from harness.ports import free_port

OK = '{"topic":"t","id":"next"}'


def assert_error(reply, word, names):
    """The reply is this error; its message names the fault."""
    assert set(reply) == {"id", "status", "error", "message"}
    assert reply["status"] == "error"
    assert reply["error"] == word, reply
    assert re.search(names, reply["message"], re.IGNORECASE), reply


# --- error words ------------------------------------------------------------

BAD_LINES = [
    # bad-json
    ("bad-json", "json|object|column|token", "hello"),
    ("bad-json", "object", "[1,2]"),
    ("bad-json", "object", '"topic"'),
    ("bad-json", "object", "17"),
    ("bad-json", "json|column|token|end", '{"topic":"t"'),
    ("bad-json", "json|column|token|end", '{"topic":"t"} x'),
    ("bad-json", "json|column|token|end", '{"topic":"t"}{"topic":"t"}'),
    ("bad-json", "json|column|token", "{'topic':'t'}"),
    ("bad-json", "json|column|token", '{"topic":"t","payload":NaN}'),
    ("bad-json", "json|column|token", '{"topic":"t","payload":01}'),
    ("bad-json", "json|column|token", '{"topic":"t",}'),
    ("bad-json", "json|column|control", '{"topic":"t","payload":"a\tb"}'),
    ("bad-json", "json|column|escape", '{"topic":"t","payload":"\\x41"}'),
    ("bad-json", "json|column|unicode|surrogate",
     '{"topic":"t","payload":"\\ud800"}'),
    ("bad-json", "json|column|utf-?8",
     b'{"topic":"t","payload":"\xff\xfe"}'),
    ("bad-json", "json|column|utf-?8",
     b'{"topic":"t","payload":"\xed\xa0\x80"}'),
    ("bad-json", "json|column|utf-?8", b'{"topic":"\xc0\xaf"}'),
    ("bad-json", "json|column|token|nul", b'{"topic":"t","qos":1\0}'),
    ("bad-json", "json|object", b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c"),
    ("bad-json", "json|object", b"\xef\xbb\xbf" + b'{"topic":"t"}'),
    # bad-topic
    ("bad-topic", "topic.*missing", "{}"),
    ("bad-topic", "topic.*missing", '{"payload":"x"}'),
    ("bad-topic", "topic.*string", '{"topic":7}'),
    ("bad-topic", "topic.*string", '{"topic":null}'),
    ("bad-topic", "topic.*string", '{"topic":["a"]}'),
    ("bad-topic", "topic.*empty", '{"topic":""}'),
    ("bad-topic", "topic.*wildcard", '{"topic":"a/+/b"}'),
    ("bad-topic", "topic.*wildcard", '{"topic":"a/#"}'),
    ("bad-topic", r"topic.*(nul|U\+0000)", '{"topic":"a\\u0000b"}'),
    ("bad-topic", "topic.*control", '{"topic":"a\\nb"}'),
    ("bad-topic", "topic.*control", '{"topic":"a\\u0085b"}'),
    ("bad-topic", "topic.*character", '{"topic":"a\\uffffb"}'),
    ("bad-topic", "topic.*character", '{"topic":"a\\ufdd0b"}'),
    ("bad-topic", "topic.*(long|65.?535)",
     json.dumps({"topic": "x" * 65536})),
    # bad-payload
    ("bad-payload", "payload_base64.*string",
     '{"topic":"t","payload_base64":5}'),
    ("bad-payload", "base64", '{"topic":"t","payload_base64":"abc"}'),
    ("bad-payload", "base64", '{"topic":"t","payload_base64":"ab=c"}'),
    ("bad-payload", "base64", '{"topic":"t","payload_base64":"a b="}'),
    # bad-qos
    ("bad-qos", "qos.*0, 1 or 2", '{"topic":"t","qos":3}'),
    ("bad-qos", "qos.*0, 1 or 2", '{"topic":"t","qos":-1}'),
    ("bad-qos", "qos.*0, 1 or 2", '{"topic":"t","qos":"1"}'),
    ("bad-qos", "qos.*0, 1 or 2", '{"topic":"t","qos":1.5}'),
    ("bad-qos", "qos.*0, 1 or 2", '{"topic":"t","qos":null}'),
    ("bad-qos", "qos.*0, 1 or 2", '{"topic":"t","qos":true}'),
    # bad-field
    ("bad-field", "tpoic", '{"topic":"t","tpoic":"t"}'),
    ("bad-field", "Topic", '{"Topic":"t"}'),
    ("bad-field", "topic.*twice", '{"topic":"t","topic":"t"}'),
    ("bad-field", "qos.*twice", '{"topic":"t","qos":1,"qos":1}'),
    ("bad-field", "topic.*twice", '{"topic":"t","\\u0074opic":"u"}'),
    ("bad-field", "payload.*payload_base64",
     '{"topic":"t","payload":"a","payload_base64":"YQ=="}'),
    ("bad-field", "retain", '{"topic":"t","retain":1}'),
    ("bad-field", "retain", '{"topic":"t","retain":"true"}'),
    ("bad-field", "timestamp", '{"topic":"t","timestamp":"now"}'),
    ("bad-field", "timestamp", '{"topic":"t","timestamp":1.5}'),
    ("bad-field", "timestamp", '{"topic":"t","timestamp":1e30}'),
    ("bad-field", r"\bid\b", '{"topic":"t","id":null}'),
    ("bad-field", r"\bid\b", '{"topic":"t","id":[1]}'),
    ("bad-field", r"\bid\b", '{"topic":"t","id":{}}'),
    ("bad-field", r"\bid\b", '{"topic":"t","id":true}'),
]


def test_every_error_word_for_bad_lines(client, database):
    """Each fault has its word, its message names it, id is null.

    Without an id only errors are answered; a bad line never harms the
    lines around it, so one connection takes them all.
    """
    for word, names, line in BAD_LINES:
        reply = client.ask(line)
        assert_error(reply, word, names)
        assert reply["id"] is None
        assert client.ask(OK)["status"] == "queued", line
    assert database.count() == len(BAD_LINES)


@pytest.mark.parametrize(
    "text", ["7", "-0", "1.50", "1e3", "12345678901234567890123",
             '"a"', '""', '"\\u00e9\\n"', '"é"', '"\\u0000"'],
)
def test_id_comes_back_as_its_text(client, text):
    """Numbers and strings are echoed byte for byte, also with errors."""
    client.send(f'{{"id":{text},"topic":"t"}}\n'.encode())
    client.send(f'{{"topic":"+","id": {text} }}\n'.encode())
    good, bad = client.raw(2)
    assert good.startswith(b'{"id":' + text.encode() + b",")
    assert json.loads(good)["status"] == "queued"
    assert bad.startswith(b'{"id":' + text.encode() + b",")
    assert json.loads(bad)["error"] == "bad-topic"


def test_reply_has_the_documented_form(client):
    client.publish(topic="t", id=7)
    line, = client.raw(1)
    assert re.fullmatch(rb'\{"id":7,"status":"queued","seq":\d+\}', line)


def test_without_id_success_is_silent(client):
    """Only the line that asks, and the one that is wrong, are answered."""
    client.send(b'{"topic":"t"}\n' * 50)
    client.send(b'{"topic":"#"}\n')
    client.send(b'{"topic":"t"}\n' * 50)
    client.publish(topic="t", id="end")
    error, end = client.replies(2)
    assert_error(error, "bad-topic", "wildcard")
    assert error["id"] is None
    assert (end["id"], end["status"], end["seq"]) == ("end", "queued", 101)


# --- lines ------------------------------------------------------------------


def test_line_ends_and_blank_lines(client):
    r"""\r\n is taken, lines of white space are passed over in silence."""
    client.send(b'\n\r\n   \n\t \r\n{"topic":"t","id":1}\r\n')
    client.send(b' {"topic":"t","id":2} \r\n\n{"topic":"t","id":3}\n')
    assert [reply["id"] for reply in client.replies(3)] == [1, 2, 3]
    assert client.pending() == 0


def test_last_line_needs_no_newline(offline, database):
    """It counts when the client shuts down its writing side."""
    with Client(offline.socket_path) as client:
        client.send(b'{"topic":"t","id":1}\n{"topic":"t","id":2}')
        client.shutdown()
        replies = client.until_closed()
    assert [reply["status"] for reply in replies] == ["queued", "queued"]
    assert [reply["id"] for reply in replies] == [1, 2]
    assert database.count() == 2


def test_half_a_line_of_a_client_that_dies_is_not_stored(offline, database):
    """An end without shutdown leaves no message cut in two."""
    with Client(offline.socket_path) as client:
        client.send(b'{"topic":"t","id":1}\n{"topic":"t","payload":"ha')
        assert client.reply()["status"] == "queued"
    with Client(offline.socket_path) as client:
        assert client.ask(OK)["status"] == "queued"
    assert database.count() == 2


def test_one_byte_at_a_time(client, database):
    line = '{"topic":"t/é","payload":"ü\\u0000","id":"x"}\r\n'.encode()
    for byte in line:
        client.send(bytes([byte]))
    assert client.reply()["status"] == "queued"
    assert database.rows()[0][1:3] == ("t/é", "ü\0".encode())


def test_thousands_of_lines_in_one_write(client, database):
    """Replies come in order, whatever stands between good lines."""
    lines = []
    for number in range(5000):
        topic = "#" if number % 10 == 3 else "t"
        lines.append(encode({"topic": topic, "id": number}))
    client.send(b"".join(lines))
    replies = client.replies(5000)
    assert [reply["id"] for reply in replies] == list(range(5000))
    wrong = [r["id"] for r in replies if r["status"] == "error"]
    assert wrong == list(range(3, 5000, 10))
    seqs = [r["seq"] for r in replies if r["status"] == "queued"]
    assert seqs == list(range(1, 4501))
    assert database.count() == 4500


def test_many_clients_at_once(offline, database):
    """Each gets its own replies, in its own order."""
    clients = [Client(offline.socket_path) for _ in range(20)]
    for number in range(100):
        for index, client in enumerate(clients):
            client.publish(
                topic=f"t/{index}", payload=number, id=f"{index}-{number}"
            )
    for index, client in enumerate(clients):
        all_queued(
            client.replies(100), [f"{index}-{n}" for n in range(100)]
        )
        client.close()
    rows = database.rows()
    assert [row[0] for row in rows] == list(range(1, 2001))
    for index in range(20):
        mine = [int(row[2]) for row in rows if row[1] == f"t/{index}"]
        assert mine == list(range(100))


# --- payloads ---------------------------------------------------------------

PAYLOADS = [
    (b'"plain"', b"plain"),
    (b'""', b""),
    (b'"a\\u0000b"', b"a\0b"),
    (b'"\\"\\\\\\/\\b\\f\\n\\r\\t"', b'"\\/\b\f\n\r\t'),
    ('"é\\u20ac"'.encode(), "é€".encode()),
    (b'"\\ud83d\\ude00"', "😀".encode()),
    ("\"\u007f\uffff\"".encode(), "\u007f\uffff".encode()),
    (b"null", b""),
    (b"0", b"0"),
    (b"-0.10e+05", b"-0.10e+05"),
    (b"1E400", b"1E400"),
    (b"123456789012345678901234567890.000",
     b"123456789012345678901234567890.000"),
    (b"true", b"true"),
    (b"false", b"false"),
    (b"[]", b"[]"),
    (b'[ 1,  2.00 ,"x" ]', b'[ 1,  2.00 ,"x" ]'),
    (b'{ "b" :1,"a":\t{"c":[null , {}]}, "b":2 }',
     b'{ "b" :1,"a":\t{"c":[null , {}]}, "b":2 }'),
    (b'{"t":"\\u0000 \\"}],{"}', b'{"t":"\\u0000 \\"}],{"}'),
    ('{"ü":"\\u00fc"}'.encode(), '{"ü":"\\u00fc"}'.encode()),
]


def test_payload_forms(client, database):
    """Strings give their bytes, all else the very text of the line."""
    expected = []
    for text, payload in PAYLOADS:
        expected += [payload, payload]
        client.send(b'{"topic":"t","id":1,"payload":' + text + b"}\n")
        client.send(b'{"payload" :\t' + text + b' , "topic":"t","id":1}\n')
    client.send(b'{"topic":"t","id":1}\n')
    expected.append(b"")
    for reply in client.replies(len(expected)):
        assert reply["status"] == "queued", reply
    assert [row[2] for row in database.rows()] == expected


def test_binary_payloads(client, database):
    """payload_base64 carries every byte; an empty string is empty."""
    payloads = [bytes(range(256)), b"", b"\0", b"\xff\xfe"]
    for payload in payloads:
        text = base64.b64encode(payload).decode()
        reply = client.ask({"topic": "t", "id": 1, "payload_base64": text})
        assert reply["status"] == "queued"
    assert [row[2] for row in database.rows()] == payloads


def test_topics_are_stored_as_they_are(client, database):
    """Also those that a loose column type would turn into numbers."""
    topics = ["1e3", "007", "a//b", "/", " ", "$x", "\u00fc/\U0001f600",
              "x" * 65535]
    for topic in topics:
        assert client.ask({"topic": topic, "id": 1})["status"] == "queued"
    assert [row[1] for row in database.rows()] == topics


# --- bounds -----------------------------------------------------------------


@pytest.mark.parametrize("ended", [True, False], ids=["line", "endless"])
def test_too_large_ends_only_its_connection(make_daemon, ended):
    """What came before is answered, then the error, then the end.

    The bound holds for a line that never ends as well.
    """
    daemon = make_daemon(
        free_port(), socket={"max_message_bytes": 2048}
    ).start()
    line = b'{"topic":"t","id":2,"payload":"' + b"x" * 4000 + b'"}'
    with Client(daemon.socket_path) as other, \
            Client(daemon.socket_path) as client:
        assert other.ask({"topic": "t", "id": 0})["status"] == "queued"
        client.send(b'{"topic":"t","id":1}\n')
        try:
            client.send(line + (b"\n" + OK.encode() + b"\n") * ended)
        except ConnectionError:
            pass
        replies = client.until_closed()
        assert [reply["status"] for reply in replies] == ["queued", "error"]
        assert_error(replies[1], "too-large", "2048")
        assert other.ask({"topic": "t", "id": 3})["status"] == "queued"
    assert Database(daemon.queue_path).count() == 3


def test_a_line_of_just_the_bound_is_taken(make_daemon):
    """The bound counts the line's bytes without its line end."""
    daemon = make_daemon(
        free_port(), socket={"max_message_bytes": 1024}
    ).start()
    frame = len(b'{"topic":"t","id":1,"payload":""}')
    with Client(daemon.socket_path) as client:
        for size, status in ((1023, "queued"), (1024, "queued"),
                             (1025, "error")):
            payload = b"x" * (size - frame)
            reply = client.ask(
                b'{"topic":"t","id":1,"payload":"' + payload + b'"}'
            )
            assert reply["status"] == status, size


def test_too_many_clients(make_daemon):
    """One over the bound is told and closed; a freed place is given."""
    daemon = make_daemon(free_port(), socket={"max_clients": 2}).start()
    first = Client(daemon.socket_path)
    second = Client(daemon.socket_path)
    for client in (first, second):
        assert client.ask(OK)["status"] == "queued"
    with Client(daemon.socket_path) as third:
        reply, = third.until_closed()
        assert_error(reply, "too-many-clients", "2|clients")
        assert reply["id"] is None
    assert first.ask(OK)["status"] == "queued"
    first.close()

    def admitted():
        with Client(daemon.socket_path) as client:
            try:
                return client.ask(OK)["status"] == "queued"
            except ConnectionError:
                return False

    wait_until(admitted, 10, "a client gets the place that became free")
    second.close()


def test_stopping(make_daemon):
    """At a stop each client is told, also one that never said a thing."""
    daemon = make_daemon(free_port()).start()
    clients = [Client(daemon.socket_path) for _ in range(3)]
    assert clients[0].ask(OK)["status"] == "queued"
    assert clients[1].ask(OK)["status"] == "queued"
    clients[1].send(b'{"topic":"t","id":"half')
    daemon.terminate()
    for client in clients:
        replies = client.until_closed()
        assert len(replies) == 1, replies
        assert_error(replies[0], "stopping", "stop")
        assert replies[0]["id"] is None
        client.close()
    assert daemon.wait() == 0


@pytest.mark.timeout(120)
def test_a_client_that_reads_no_replies_is_slowed_down(make_daemon):
    """It is stopped by its own socket; others are served; memory is flat.

    When it reads at last, each line it got rid of is answered, in order.
    """
    daemon = make_daemon(
        free_port(), socket={"max_buffered_bytes": "1M"}
    ).start()
    lines = b"".join(
        encode({"topic": "t", "id": f"{number:06d}" + "x" * 200})
        for number in range(100_000)
    )
    with Client(daemon.socket_path) as quick:
        assert quick.ask(OK)["status"] == "queued"
        before = daemon.memory()
        deaf = Client(daemon.socket_path, timeout=60)
        taken = deaf.send_some(lines, patience=1.0)
        assert taken < len(lines), "it was never slowed down"
        grown = daemon.memory("VmHWM") - before
        for _ in range(50):
            started = time.monotonic()
            assert quick.ask(OK)["status"] == "queued"
            assert time.monotonic() - started < 5
        if not daemon.sanitized:
            assert grown < 16 << 20, f"grew by {grown} bytes"

        whole = lines[:taken].count(b"\n")
        replies = deaf.replies(whole)
        numbers = [int(reply["id"][:6]) for reply in replies]
        assert numbers == list(range(whole))
        assert {reply["status"] for reply in replies} == {"queued"}
        deaf.close()


@pytest.mark.timeout(120)
def test_buffered_lines_are_bounded_for_all_clients_together(make_daemon):
    """Many clients, each with most of a long line: memory stays flat."""
    daemon = make_daemon(
        free_port(),
        socket={"max_buffered_bytes": "2M", "max_message_bytes": "1M"},
    ).start()
    start = b'{"topic":"t","id":1,"payload":"' + b"x" * 900_000
    with Client(daemon.socket_path) as quick:
        assert quick.ask(OK)["status"] == "queued"
        before = daemon.memory()
        slow = [Client(daemon.socket_path, timeout=60) for _ in range(30)]
        sent = [client.send_some(start, patience=0.1) for client in slow]
        if not daemon.sanitized:
            grown = daemon.memory("VmHWM") - before
            assert grown < 16 << 20, f"grew by {grown} bytes"
        assert quick.ask(OK)["status"] == "queued"
        # One after the other they come to their end.
        for client, count in zip(slow, sent):
            client.send(start[count:] + b'"}\n')
            assert client.reply()["status"] == "queued"
            client.close()


def test_clients_that_vanish_do_no_harm(offline, database):
    """Resets in the middle of lines and replies leave others in peace."""
    with Client(offline.socket_path) as client:
        for number in range(200):
            rude = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            rude.connect(str(offline.socket_path))
            rude.sendall(b'{"topic":"rude","id":1}\n{"topic":"ru')
            rude.close()
            assert client.ask(OK)["status"] == "queued"
    assert database.value(
        "SELECT count(*) FROM queue WHERE topic = 't'"
    ) == 200
    rude_rows = database.value(
        "SELECT count(*) FROM queue WHERE topic = 'rude'"
    )
    assert rude_rows <= 200


def test_descriptors_come_back(offline):
    """A thousand connections later there are as few as before."""

    def descriptors():
        path = f"/proc/{offline.process.pid}/fd"
        return len(os.listdir(path))

    with Client(offline.socket_path) as client:
        assert client.ask(OK)["status"] == "queued"
        before = descriptors()
        for _ in range(1000):
            with Client(offline.socket_path) as each:
                each.send(b"{}\n")
        # Give or take those of the uplink, which begins at the same time.
        wait_until(
            lambda: descriptors() < before + 10, 10, "descriptors are closed"
        )
        assert client.ask(OK)["status"] == "queued"


# --- what arrives -----------------------------------------------------------


@pytest.mark.parametrize("version", ["3.1.1", "5"])
def test_messages_arrive_as_sent(
    make_daemon, mosquitto, make_subscriber, version
):
    """Topic, payload, QoS; retain is kept by the broker."""
    subscriber = make_subscriber(mosquitto.port)
    daemon = make_daemon(
        mosquitto.port,
        socket={"default_qos": 2},
        mqtt={"version": version, "client_id": "gw"},
    ).start()
    messages = [
        {"topic": "a/0", "payload": "zero", "qos": 0},
        {"topic": "a/1", "payload": "one", "qos": 1},
        {"topic": "a/2", "payload": "two", "qos": 2},
        {"topic": "a/default", "payload": {"a": [1, 2]}},
        {"topic": "ü/\U0001f600", "payload": "\0ü", "qos": 1},
        {"topic": "empty", "qos": 1},
        {"topic": "kept/0", "payload": "k0", "qos": 0, "retain": True},
        {"topic": "kept/1", "payload": "k1", "qos": 1, "retain": True},
        {"topic": "big", "payload": "x" * 200_000, "qos": 2},
    ]
    with Client(daemon.socket_path) as client:
        all_queued(
            client.feed({**m, "id": i} for i, m in enumerate(messages)),
            range(len(messages)),
        )
    records = subscriber.wait_for(len(messages))
    # A broker passes a QoS 2 message on only when it is released, so
    # that the order holds for each QoS on its own.
    by_qos = [
        [(r.topic, r.payload) for r in records if r.qos == qos]
        for qos in (0, 1, 2)
    ]
    assert by_qos == [
        [("a/0", b"zero"), ("kept/0", b"k0")],
        [("a/1", b"one"), ("ü/\U0001f600", "\0ü".encode()),
         ("empty", b""), ("kept/1", b"k1")],
        [("a/2", b"two"), ("a/default", b'{"a":[1,2]}'),
         ("big", b"x" * 200_000)],
    ]
    late = make_subscriber(mosquitto.port, client_id="late")
    kept = late.wait_for(2)
    assert sorted((r.topic, r.payload, r.retain) for r in kept) == [
        ("kept/0", b"k0", True), ("kept/1", b"k1", True),
    ]
    Database(daemon.queue_path).wait_empty()


def test_default_qos(make_daemon):
    for default in (0, 1, 2):
        daemon = make_daemon(
            free_port(), socket={"default_qos": default}
        ).start()
        with Client(daemon.socket_path) as client:
            client.ask(OK)
            client.ask({"topic": "t", "id": 1, "qos": 1})
        rows = Database(daemon.queue_path).rows()
        assert [row[3] for row in rows] == [default, 1]


# --- the database -----------------------------------------------------------


def test_queue_table(client, database):
    """Columns, types and values are those of the contract."""
    before = int(time.time() * 1000)
    client.ask({"topic": "a", "id": 1, "payload": "x"})
    client.ask({"topic": "b", "id": 2, "qos": 2, "retain": True,
                "payload": {"n": 1}, "timestamp": 1234567890123})
    client.ask({"topic": "c", "id": 3, "qos": 0, "retain": False})
    after = int(time.time() * 1000)

    columns = [
        (name, kind, primary)
        for _, name, kind, _, _, primary
        in database.query("PRAGMA table_info(queue)")
    ]
    assert columns == [
        ("id", "INTEGER", 1),
        ("topic", "TEXT", 0),
        ("payload", "BLOB", 0),
        ("qos", "INTEGER", 0),
        ("retained", "BOOLEAN", 0),
        ("timestamp", "DATETIME", 0),
    ]
    sql = database.value(
        "SELECT sql FROM sqlite_master WHERE name = 'queue'"
    )
    assert "AUTOINCREMENT" in sql
    for _, name, _, notnull, _, _ in database.query(
            "PRAGMA table_info(queue)"):
        assert notnull or name == "id", f"{name} may be NULL"

    types = database.query(
        "SELECT DISTINCT typeof(id), typeof(topic), typeof(payload),"
        " typeof(qos), typeof(retained), typeof(timestamp) FROM queue"
    )
    assert types == [("integer", "text", "blob", "integer", "integer",
                      "integer")]
    first, second, third = database.rows()
    assert first[:5] == (1, "a", b"x", 1, 0)
    assert second == (2, "b", b'{"n":1}', 2, 1, 1234567890123)
    assert third[:5] == (3, "c", b"", 0, 0)
    # Two clocks, each rounded.
    for row in (first, third):
        assert before - 2 <= row[5] <= after + 2


def test_meta_and_pragmas(client, database):
    """The schema's version, write-ahead log, the queue's own name."""
    client.ask(OK)
    assert database.value("PRAGMA user_version") >= 1
    assert database.value("PRAGMA journal_mode") == "wal"
    assert database.value("PRAGMA integrity_check") == "ok"
    uuid = database.value(
        "SELECT value FROM meta WHERE key = 'queue_uuid'"
    )
    assert re.fullmatch(r"[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}", uuid)


def test_queue_uuid_and_ids_go_on_after_restarts(make_daemon):
    """Ids only ascend and are never given twice, crash or not."""
    daemon = make_daemon(free_port()).start()
    database = Database(daemon.queue_path)
    seqs, uuids = [], set()
    for how in ("stop", "kill9", "stop", "kill9"):
        with Client(daemon.socket_path) as client:
            seqs += [client.ask(OK)["seq"] for _ in range(5)]
        uuids.add(database.value(
            "SELECT value FROM meta WHERE key = 'queue_uuid'"
        ))
        daemon.restart(how)
    assert seqs == sorted(set(seqs))
    assert len(uuids) == 1
    assert [row[0] for row in database.rows()] == seqs


def test_ids_do_not_come_again_when_the_queue_was_empty(
    make_daemon, mosquitto
):
    """Delivered and removed ids stay used, over kill -9 as well."""
    daemon = make_daemon(mosquitto.port).start()
    database = Database(daemon.queue_path)
    last = 0
    for how in ("kill9", "stop", "kill9"):
        with Client(daemon.socket_path) as client:
            for _ in range(5):
                seq = client.ask(OK)["seq"]
                assert seq > last
                last = seq
        database.wait_empty()
        daemon.restart(how)


def test_socket_mode(make_daemon):
    for mode in ("0600", "0660", "0666"):
        daemon = make_daemon(free_port(), socket={"mode": mode}).start()
        bits = daemon.socket_path.stat().st_mode & 0o777
        assert bits == int(mode, 8)
