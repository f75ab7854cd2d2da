# SPDX-License-Identifier: MIT
"""The operator's socket: every command, and whoever misuses it."""

import base64
import json
import os
import random
import re
import select
import signal
import socket
import sqlite3
import stat
import time
from contextlib import closing

import pytest
from harness import Client, Database, env_int, wait_until
from harness.client import Feeder, all_queued
from harness.control import Control, ask, status
from harness import mqttwire as wire
from harness.fakebroker import OnLasting
from harness.ports import free_port
from harness.steps import feed, numbered, payload, payloads

#: Rows that are streamed while others work.
ROWS = env_int("MQTTGW_CONTROL_ROWS", 200000)


def dead_rows(daemon):
    return Database(daemon.queue_path).query(
        "SELECT id, topic, payload, qos, retained, timestamp, reason, died_at"
        " FROM dead_letters ORDER BY id"
    )


def counts(daemon):
    """What meta says of both tables, which must be what is there."""
    row = Database(daemon.queue_path).query(
        "SELECT (SELECT value FROM meta WHERE key = 'queue_messages'),"
        " (SELECT count(*) FROM queue),"
        " (SELECT value FROM meta WHERE key = 'dead_letters'),"
        " (SELECT count(*) FROM dead_letters)"
    )[0]
    assert row[0] == row[1] and row[2] == row[3], row
    return row[0], row[2]


def bury(daemon, count, size=0, topic="grave/%d"):
    """Put so many dead letters into the database of a stopped daemon."""
    with closing(sqlite3.connect(str(daemon.queue_path))) as db:
        db.executemany(
            "INSERT INTO dead_letters VALUES (?, ?, ?, 1, 0, ?, 'r', 7)",
            [
                (n, topic % (n % 2), payload(n) + b"." * size, 1000 + n)
                for n in range(1, count + 1)
            ],
        )
        db.execute(
            "UPDATE meta SET value = ? WHERE key = 'dead_letters'", (count,)
        )
        # As the ids of rows that were in the queue before.
        db.execute(
            "UPDATE sqlite_sequence SET seq = max(seq, ?)"
            " WHERE name = 'queue'", (count,)
        )
        db.commit()


def with_dead(make_daemon, count, size=0, **queue):
    """A daemon without a broker that has so many dead letters."""
    daemon = make_daemon(free_port(), queue=queue).start()
    daemon.stop()
    bury(daemon, count, size)
    return daemon.start()


# --- the socket ----------------------------------------------------------------


def test_socket_is_the_owners_and_groups(offline):
    """Others never get in, and it goes with the daemon."""
    st = os.stat(offline.control_path)
    assert stat.S_IMODE(st.st_mode) == 0o660
    assert (st.st_uid, st.st_gid) == (os.geteuid(), os.getegid())
    offline.stop()
    assert not offline.control_path.exists()


def test_stale_socket_is_replaced(offline):
    offline.kill9()
    assert offline.control_path.exists()
    offline.start()
    assert status(offline)["pid"] == offline.process.pid


def test_without_its_directory_messages_are_taken(make_daemon, tmp_path):
    """The log says what to do; everything else works."""
    daemon = make_daemon(
        free_port(), control={"path": str(tmp_path / "none" / "control.sock")}
    ).start()
    assert feed(daemon, 10)
    assert re.search(
        r"error: .*/none/control\.sock: .*Make its directory", daemon.output()
    )


# --- status and the short commands ---------------------------------------------


def test_status_tells_how_things_stand(make_daemon, mosquitto):
    daemon = make_daemon(mosquitto.port).start()
    feed(daemon, 25)
    Database(daemon.queue_path).wait_empty()
    wait_until(
        lambda: status(daemon)["queue"]["messages"] == 0, 5.0, "an empty queue"
    )
    now = status(daemon)
    assert now["gateway"] == "test-gateway"
    assert now["pid"] == daemon.process.pid
    assert now["socket"] == str(daemon.socket_path)
    assert now["state"] == "connected"
    assert now["broker"] == f"127.0.0.1:{mosquitto.port}"
    assert [b["up"] for b in now["brokers"]] == [True]
    assert now["brokers"][0]["attempts"]["success"] == 1
    assert now["why"] == "" and now["last_failure"] is None
    assert now["totals"] == {
        "accepted": 25, "delivered": 25, "refused": 0, "dropped": 0
    }
    assert now["queue"]["oldest"] is None
    assert now["queue"]["max_messages"] is None
    assert now["restart_needed"] == [] and now["stopping"] is False
    mosquitto.stop()
    feed(daemon, 3, 100)
    wait_until(
        lambda: status(daemon)["state"] != "connected", 10.0, "a lost broker"
    )
    now = status(daemon)
    assert now["queue"]["messages"] == 3
    assert now["why"] and now["last_failure"]["broker"] == now["broker"]
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", now["last_failure"]["time"]
    )


def test_metrics_are_those_of_http(offline):
    feed(offline, 4)
    text = ask(offline, "metrics")["text"]
    assert re.search(r"^mqttgw_queue_messages 4$", text, re.MULTILINE)


def test_reconnect_ends_the_wait(make_daemon, make_mosquitto):
    """With an hour to wait, a request connects at once."""
    broker = make_mosquitto()
    daemon = make_daemon(
        broker.port, retry={"base": 3600.0, "max": 3600.0, "jitter": "none"}
    ).start()
    wait_until(
        lambda: (status(daemon)["next_attempt"] or 0) > 1000,
        10.0, "a long wait",
    )
    broker.start()
    assert ask(daemon, "reconnect") == {"status": "ok"}
    wait_until(
        lambda: status(daemon)["state"] == "connected", 10.0, "a connection"
    )


@pytest.mark.parametrize("line, error", [
    (b"nonsense", "bad-json"),
    (b"[1]", "bad-json"),
    (b'{"command":"status"', "bad-json"),
    (b'{"command":"status"} {}', "bad-json"),
    (b"\xff\xfe", "bad-json"),
    (b"{}", "bad-command"),
    (b'{"command":7}', "bad-command"),
    (b'{"command":"halt"}', "bad-command"),
    (b'{"command":"status\\u0000"}', "bad-command"),
    (b'{"command":"status","x":1}', "bad-field"),
    (b'{"command":"status","command":"status"}', "bad-field"),
    (b'{"command":"queue-list","limit":0}', "bad-field"),
    (b'{"command":"queue-list","limit":"3"}', "bad-field"),
    (b'{"command":"queue-list","limit":1.5}', "bad-field"),
    (b'{"command":"queue-list","after":-1}', "bad-field"),
    (b'{"command":"queue-list","topic":"a#"}', "bad-field"),
    (b'{"command":"queue-purge","Topic":"a"}', "bad-field"),
    (b'{"command":"queue-show"}', "bad-field"),
    (b'{"command":"dead-purge","seq":1,"topic":"a"}', "bad-field"),
    (b'{"command":"queue-show","seq":1}', "not-found"),
    (b'{"command":"dead-requeue","seq":1}', "not-found"),
])
def test_bad_requests_are_answered_and_harm_nobody(offline, line, error):
    with Control(offline) as control:
        control.send(line + b'\n\r\n  \n{"command":"reconnect"}\r\n')
        bad, good = control.replies(2)
        assert bad["status"] == "error" and bad["error"] == error
        assert bad["message"]
        assert good == {"status": "ok"}


def test_long_lines_garbage_and_halves(offline):
    with Control(offline) as control:
        control.send(b" " * 70000, read=False)
        last = control.until_closed()
        assert [reply["error"] for reply in last] == ["bad-json"]
    chance = random.Random(env_int("MQTTGW_SEED", 1))
    for _ in range(50):
        with Control(offline) as control:
            try:
                control.send(chance.randbytes(chance.randrange(1, 3000)))
            except ConnectionError:
                pass
    # A line that comes byte by byte, and one without its end.
    with Control(offline) as control:
        for byte in b'{"command":"reconnect"}\n':
            control.send(bytes([byte]))
        assert control.reply() == {"status": "ok"}
        control.send(b'{"command":"reconnect"}')
        control.shutdown()
        assert control.until_closed() == [{"status": "ok"}]
    assert status(offline)["pid"]


def test_more_clients_than_there_are_places(offline):
    clients = [Control(offline) for _ in range(32)]
    try:
        for client in clients:
            assert client.command("reconnect") == {"status": "ok"}
        with Control(offline) as late:
            said = late.until_closed()
        assert [reply["error"] for reply in said] == ["too-many-clients"]
        clients.pop().close()

        wait_until(
            lambda: ask(offline, "reconnect")["status"] == "ok",
            5.0, "a place that became free",
        )
    finally:
        for client in clients:
            client.close()


# --- rows ----------------------------------------------------------------------


def test_rows_show_what_is_there(offline):
    messages = [
        {"topic": "a/b", "payload": "x" * 99 + "ä", "qos": 2, "retain": True,
         "timestamp": 12345, "id": 0},
        {"topic": "a/c", "payload_base64": "/wA=", "id": 1, "qos": 0},
        {"topic": "ä", "payload": "", "id": 2},
        {"topic": "a/b", "payload": "nul\0here", "id": 3},
    ]
    with Client(offline.socket_path) as client:
        ids = all_queued(client.feed(messages), range(4))
    with Control(offline) as control:
        rows, last = control.rows("queue-list")
        assert last == {"status": "ok", "count": 4}
        assert [row["seq"] for row in rows] == ids
        assert rows[0] == {
            "status": "row", "seq": ids[0], "topic": "a/b", "qos": 2,
            "retain": True, "timestamp": 12345, "bytes": 101,
            "payload": "x" * 99,
        }
        assert "payload" not in rows[1] and rows[1]["bytes"] == 2
        assert rows[2]["payload"] == "" and rows[3]["payload"] == "nul\0here"
        rows, last = control.rows("queue-list", topic="a/+", limit=2)
        assert [row["seq"] for row in rows] == ids[:2] and last["count"] == 2
        rows, last = control.rows("queue-list", topic="a/b", after=ids[0])
        assert [row["seq"] for row in rows] == ids[3:]
        rows, last = control.rows("queue-list", topic="nothing/#")
        assert rows == [] and last == {"status": "ok", "count": 0}
        shown = control.command("queue-show", seq=ids[1])
        assert shown["status"] == "ok" and shown["payload_base64"] == "/wA="
        assert control.command("queue-show", seq=ids[0])["payload"] == (
            "x" * 99 + "ä"
        )


def test_export_can_be_fed_back(offline, make_daemon):
    """Byte for byte: what comes out is what the local socket takes."""
    chance = random.Random(3)
    with Client(offline.socket_path) as client:
        all_queued(
            client.feed(
                {
                    "topic": f"t/{n}",
                    "payload_base64": base64.b64encode(
                        chance.randbytes(chance.randrange(0, 3))
                        if n % 2 else b"text"
                    ).decode(),
                    "qos": n % 3,
                    "retain": n % 5 == 0,
                    "timestamp": n * 1000,
                    "id": n,
                }
                for n in range(300)
            ),
            range(300),
        )
    with Control(offline) as control:
        rows, last = control.rows("queue-export")
    assert last == {"status": "ok", "count": 300}
    other = make_daemon(free_port()).start()
    with Client(other.socket_path) as client:
        all_queued(
            client.feed({**row["line"], "id": n} for n, row in enumerate(rows)),
            range(300),
        )
    same = "SELECT topic, payload, qos, retained, timestamp FROM queue"
    assert Database(other.queue_path).query(same) == Database(
        offline.queue_path
    ).query(same)


@pytest.mark.long
@pytest.mark.timeout(300)
def test_streaming_holds_up_nobody(offline, measured):
    """Rows by the hundred thousand, while a client feeds and a reader naps."""
    feed(offline, ROWS)
    before = offline.memory("VmHWM")
    with Control(offline, timeout=120) as sleeper, \
            Control(offline, timeout=120) as control:
        sleeper.request("queue-export")
        feeder = Feeder(offline.socket_path, numbered(20000, ROWS))
        begin = time.monotonic()
        rows, last = control.rows("queue-list")
        took = time.monotonic() - begin
        all_queued(feeder.join(), range(ROWS, ROWS + 20000))
        assert last["status"] == "ok" and last["count"] == len(rows)
        seqs = [row["seq"] for row in rows]
        assert seqs == sorted(set(seqs)) and len(seqs) >= ROWS
        assert status(offline)["queue"]["messages"] == ROWS + 20000
        grown = offline.memory("VmHWM") - before
        measured(
            f"{len(rows)} rows in {took:.1f} s beside a feed of 20000; "
            f"memory grew by {grown >> 10} KiB"
        )
        if not offline.sanitized:
            assert grown < 8 << 20
        # The sleeper gets all of it, now that it reads.
        count = 0
        while sleeper.reply()["status"] == "row":
            count += 1
        assert count >= ROWS


def test_client_gone_in_the_middle(offline):
    feed(offline, 20000)
    for command in ("queue-list", "queue-export", "events"):
        for _ in range(40):
            with Control(offline) as control:
                control.request(command)
                control.reply()
    assert status(offline)["queue"]["messages"] == 20000
    files = len(os.listdir(f"/proc/{offline.process.pid}/fd"))
    wait_until(
        lambda: len(os.listdir(f"/proc/{offline.process.pid}/fd")) <= 40,
        5.0, f"descriptors given back (there are {files})",
    )


# --- events --------------------------------------------------------------------


def test_events_begin_with_hello_and_end_at_the_stop(offline):
    with Control(offline) as first, Control(offline) as second:
        hello = first.command("events")
        assert hello["kind"] == "hello" and hello["gateway"] == "test-gateway"
        assert re.fullmatch("[0-9a-f]{32}", hello["instance"])
        assert second.command("events", since=0)["instance"] == (
            hello["instance"]
        )
        offline.terminate()
        assert first.until_closed()[-1]["error"] == "stopping"
    assert offline.wait() == 0
    offline.start()
    assert ask(offline, "events")["instance"] != hello["instance"]


def next_alert(events, kind):
    """The next one of this kind; others may come before it."""
    while True:
        alert = events.reply(30)
        assert alert["status"] == "event", alert
        if alert["kind"] == kind:
            return alert


def test_refused_credentials_are_an_alert(make_daemon, make_mosquitto):
    """From the uplink to who listens, who came before and who comes late."""
    broker = make_mosquitto(users={"gw": "right"}).start()
    daemon = make_daemon(
        broker.port, retry={"set_aside": 600.0, "base": 600.0, "max": 600.0}
    )
    daemon.settings["brokers"][0].update(username="gw", password="wr0ng")
    daemon.write_config()
    daemon.start()
    with Control(daemon) as events:
        assert events.command("events", since=0)["kind"] == "hello"
        auth = next_alert(events, "auth")
    assert auth["broker"] == f"127.0.0.1:{broker.port}"
    assert auth["count"] == 1 and auth["message"] in daemon.output()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", auth["time"])
    with Control(daemon) as late:
        assert late.command("events", since=0)["seq"] >= auth["seq"]
        assert next_alert(late, "auth") == auth
    assert "wr0ng" not in daemon.output()


def test_queue_near_its_bound_is_an_alert(make_daemon):
    """Once, and again only after it has been well below. Purged rows count
    for that, too, and a bound that a reload has lowered."""
    daemon = make_daemon(free_port(), queue={"max_messages": 10}).start()
    with Control(daemon) as events, Control(daemon) as control:
        assert events.command("events")["kind"] == "hello"
        feed(daemon, 7)
        feed(daemon, 3, first=7)
        alert = next_alert(events, "queue-high")
        assert "80 % of queue.max_messages: 8 of 10" in alert["message"] or (
            "100 % of queue.max_messages: 10 of 10" in alert["message"]
        )
        assert alert["broker"] is None and alert["count"] == 1
        assert control.command("queue-purge")["count"] == 10
        daemon.wait_output("the queue is back at 0 % of queue.max_messages")
        feed(daemon, 5)
        daemon.settings["queue"]["max_messages"] = 6
        daemon.write_config()
        daemon.process.signal(signal.SIGHUP)
        # Held back for a minute after the one before.
        daemon.wait_output("83 % of queue.max_messages: 5 of 6")
    with Control(daemon) as late:
        assert late.command("events", since=0)["seq"] == alert["seq"]


def test_failing_store_is_an_alert(offline):
    """Also to who listens in the middle of a purge."""
    feed(offline, 10)
    with Control(offline) as events, Control(offline) as control:
        assert events.command("events")["kind"] == "hello"
        lock = sqlite3.connect(offline.queue_path, isolation_level=None)
        try:
            lock.execute("BEGIN IMMEDIATE")
            assert control.command("queue-purge")["error"] == "storage"
            alert = next_alert(events, "store")
            assert "cannot be written" in alert["message"]
            assert status(offline)["store_error"]
        finally:
            lock.close()
        offline.wait_output("can be written again", 20)
        assert control.command("queue-purge")["count"] == 10


# --- purging -------------------------------------------------------------------


def test_purge_by_topic(offline):
    with Client(offline.socket_path, timeout=60) as client:
        all_queued(
            client.feed(
                {"topic": f"t/{n % 3}", "payload": str(n), "id": n}
                for n in range(3000)
            ),
            range(3000),
        )
    assert ask(offline, "queue-purge", topic="t/1") == {
        "status": "ok", "count": 1000, "kept": 0
    }
    assert counts(offline) == (2000, 0)
    assert {row[1] for row in Database(offline.queue_path).rows()} == {
        "t/0", "t/2"
    }
    now = status(offline)
    assert now["totals"]["dropped"] == 1000
    assert now["queue"]["messages"] == 2000
    assert 'dropped_total{reason="purged"} 1000' in ask(
        offline, "metrics"
    )["text"]
    lines = re.findall(r"notice: queue-purge by user (\d+), (.*)",
                       offline.output())
    assert [line[0] for line in lines] == [str(os.geteuid())]
    assert "t/1" in lines[0][1] and "1000" in lines[0][1]
    assert ask(offline, "queue-purge")["count"] == 2000
    assert counts(offline) == (0, 0)
    assert feed(offline, 5) and counts(offline) == (5, 0)


def test_purge_keeps_what_is_in_flight(make_daemon, make_fake):
    """A broker that acknowledges nothing has its messages still to come."""
    def hold(conn):
        conn.connack()
        while True:
            conn.read(timeout=60)

    broker = make_fake(OnLasting(hold))
    daemon = make_daemon(
        broker.port, mqtt={"inflight_max": 7, "ack_timeout": 60.0}
    ).start()
    ids = feed(daemon, 100)
    wait_until(lambda: status(daemon)["inflight"] == 7, 10.0, "7 in flight")
    assert ask(daemon, "queue-purge") == {
        "status": "ok", "count": 93, "kept": 7
    }
    assert [row[0] for row in Database(daemon.queue_path).rows()] == ids[:7]


@pytest.mark.timeout(180)
def test_purge_while_it_drains(make_daemon, mosquitto, make_subscriber):
    """Each message is delivered or purged: none both, none neither."""
    subscriber = make_subscriber(mosquitto.port)
    daemon = make_daemon(
        mosquitto.port, mqtt={"max_rate": "200K", "inflight_max": 20}
    ).start()
    purged = 0
    count = 0
    for _ in range(5):
        feed(daemon, 4000, count)
        count += 4000
        reply = ask(daemon, "queue-purge")
        assert reply["status"] == "ok", reply
        purged += reply["count"]
    Database(daemon.queue_path).wait_empty(60)
    assert purged > 0
    records = subscriber.wait_for(count - purged, check=daemon.check_alive)
    wait_until(
        lambda: status(daemon)["totals"]["delivered"] == count - purged,
        10.0, "all that was not purged is delivered",
    )
    numbers = [record.payload for record in records]
    assert len(set(numbers)) == len(numbers) == count - purged
    assert numbers == sorted(numbers)
    assert status(daemon)["totals"]["dropped"] == purged
    assert counts(daemon) == (0, 0)


# --- dead letters --------------------------------------------------------------


def test_dead_letters_are_shown_put_back_and_delivered(
    make_daemon, make_fake
):
    """Really refused by a broker first, which takes them later."""
    refuses = [True]

    def script(conn):
        conn.connack()
        while True:
            packet = conn.read(600)
            if packet.kind != wire.PUBLISH:
                conn.take(packet)
            elif packet.topic == "bad" and refuses[0]:
                conn.puback(packet.mid, 0x83)
            else:
                conn.take(packet)

    broker = make_fake(OnLasting(script))
    daemon = make_daemon(broker.port).start()
    with Client(daemon.socket_path) as client:
        ids = all_queued(
            client.feed(
                {"topic": "bad" if n == 2 else "t", "payload": f"p{n}",
                 "id": n, "timestamp": 99}
                for n in range(6)
            ),
            range(6),
        )
    wait_until(lambda: dead_rows(daemon), 20.0, "a dead letter")
    with Control(daemon) as control:
        (row,), last = control.rows("dead-list")
        assert row["seq"] == ids[2] and "0x83" in row["reason"]
        assert abs(row["died_at"] - time.time() * 1000) < 60000
        assert row["payload"] == "p2" and last["count"] == 1
        (row,), last = control.rows("dead-export", topic="bad")
        assert row["line"] == {
            "topic": "bad", "payload": "p2", "qos": 1, "retain": False,
            "timestamp": 99,
        }
        shown = control.command("dead-show", seq=ids[2])
        assert shown["payload"] == "p2" and "0x83" in shown["reason"]
        assert control.command("dead-requeue", topic="other")["count"] == 0
        refuses[0] = False
        assert control.command("dead-requeue", seq=ids[2]) == {
            "status": "ok", "count": 1
        }
    Database(daemon.queue_path).wait_empty()
    assert dead_rows(daemon) == []
    wait_until(
        lambda: sorted(set(broker.payloads())) == [
            b"p%d" % n for n in range(6)
        ],
        10.0, "all six at the broker",
    )
    wait_until(lambda: counts(daemon) == (0, 0), 10.0, "exact counts")


def test_requeue_gives_new_ids_in_order(make_daemon):
    daemon = with_dead(make_daemon, 1200)
    first = feed(daemon, 3)
    assert ask(daemon, "dead-requeue", topic="grave/1") == {
        "status": "ok", "count": 600
    }
    rows = Database(daemon.queue_path).rows()
    assert len(rows) == 603
    assert min(row[0] for row in rows[3:]) > first[-1]
    assert [row[2] for row in rows[3:]] == payloads(1201)[1::2]
    assert [row[5] for row in rows[3:]] == [1000 + n for n in range(1, 1201, 2)]
    assert ask(daemon, "dead-purge", seq=2) == {"status": "ok", "count": 1}
    assert ask(daemon, "dead-purge") == {"status": "ok", "count": 599}
    assert counts(daemon) == (603, 0)


@pytest.mark.parametrize("overflow", ["reject", "drop-oldest"])
def test_requeue_stops_at_a_bound(make_daemon, overflow):
    """What waits is not dropped for it, whatever the bound's policy is."""
    daemon = with_dead(
        make_daemon, 1000, max_messages=700, overflow=overflow
    )
    feed(daemon, 10)
    reply = ask(daemon, "dead-requeue")
    assert reply["status"] == "error" and reply["error"] == "failed"
    assert "max_messages" in reply["message"]
    assert "690 messages" in reply["message"]
    assert counts(daemon) == (700, 310)
    assert ask(daemon, "queue-purge")["count"] == 700
    assert ask(daemon, "dead-requeue") == {"status": "ok", "count": 310}
    assert counts(daemon) == (310, 0)


@pytest.mark.timeout(240)
def test_kill_while_dead_letters_are_put_back(make_daemon, measured):
    """Every message is in one of the two tables, and in one only."""
    total = 20000
    chance = random.Random(env_int("MQTTGW_SEED", 1))
    daemon = with_dead(make_daemon, total, max_dead_letters="none")
    everything = set(payloads(total + 1)[1:])
    kills = 0
    moved = 0
    while moved < total and kills < env_int("MQTTGW_KILLS", 10):
        with Control(daemon) as control:
            control.request("dead-requeue")
            select.select([control], [], [], chance.uniform(0.0, 0.15))
            daemon.kill9()
        kills += 1
        dead = [row[2] for row in dead_rows(daemon)]
        queued = [row[2] for row in Database(daemon.queue_path).rows()]
        assert len(dead) + len(queued) == total
        assert set(dead) | set(queued) == everything
        assert len(queued) >= moved
        moved = len(queued)
        assert counts(daemon) == (len(queued), len(dead))
        daemon.start()
    assert ask(daemon, "dead-requeue")["count"] == total - moved
    assert counts(daemon) == (total, 0)
    measured(f"{kills} kills while {total} dead letters were put back")


def test_nothing_is_changed_while_it_stops(make_daemon, make_fake):
    """How things stand is told as long as it runs."""
    def hold(conn):
        conn.connack()
        while True:
            conn.read(timeout=60)

    broker = make_fake(OnLasting(hold))
    daemon = make_daemon(broker.port, mqtt={"ack_timeout": 60.0}).start()
    feed(daemon, 5)
    wait_until(lambda: status(daemon)["inflight"] == 5, 10.0, "5 in flight")
    with Control(daemon) as control:
        assert control.command("status")["stopping"] is False
        daemon.terminate()
        daemon.wait_output("notice: stopping")
        assert control.command("status")["stopping"] is True
        for command in ("queue-purge", "dead-purge", "reconnect", "queue-list"):
            assert control.command(command)["error"] == "stopping"
    assert daemon.wait() == 0
    daemon.start()
    assert counts(daemon)[0] == 5


def test_idle_operators_cost_nothing(offline):
    """Connections and endless streams wake nobody."""
    controls = [Control(offline) for _ in range(10)]
    try:
        for control in controls[:5]:
            control.command("events")
        for control in controls[5:]:
            control.command("reconnect")
            control.send(b'{"command":')
        # A reader that stopped in the middle of its rows.
        feed(offline, 5000)
        stuck = Control(offline)
        controls.append(stuck)
        stuck.request("queue-export")
        time.sleep(0.5)
        before = offline.cpu_seconds()
        time.sleep(2.0)
        assert offline.cpu_seconds() - before < 0.3
    finally:
        for control in controls:
            control.close()


def test_hung_up_half_way_is_no_end(offline):
    """A program that says no more still gets its answer, and costs nothing."""
    with Control(offline) as control:
        control.request("events")
        control.shutdown()
        assert control.reply()["kind"] == "hello"
        before = offline.cpu_seconds()
        time.sleep(1.0)
        assert offline.cpu_seconds() - before < 0.2
        offline.check_alive()


def test_damage_met_by_an_export_is_mended(make_daemon):
    """The reader lets go of the database, which is set aside meanwhile."""
    daemon = make_daemon(free_port()).start()
    with Client(daemon.socket_path, timeout=60) as client:
        all_queued(
            client.feed(
                {"topic": "t", "payload": "x" * 3000, "id": n}
                for n in range(3000)
            ),
            range(3000),
        )
    daemon.restart()
    with Control(daemon) as slow:
        # Stays in the middle of its rows.
        slow.request("queue-export")
        slow.reply()
        with open(daemon.queue_path, "r+b") as file:
            size = os.fstat(file.fileno()).st_size
            for page in range(size // 2 // 4096, size // 2 // 4096 + 40):
                file.seek(page * 4096)
                file.write(b"\xa5" * 4096)
        with Control(daemon) as control:
            rows, last = control.rows("queue-list", after=1000)
            assert last["error"] == "storage", last
        while True:
            reply = slow.reply()
            if reply["status"] != "row":
                break
        assert reply["error"] in ("busy", "storage")
    daemon.wait_output("set aside")
    wait_until(
        lambda: ask(daemon, "queue-show", seq=1)["status"] == "ok",
        20.0, "a database that is sound again",
    )
    with Control(daemon) as control:
        rows, last = control.rows("queue-list")
    assert last["status"] == "ok"
    assert 2800 <= len(rows) < 3000
    assert status(daemon)["queue"]["messages"] == len(rows)
    assert list(daemon.state.glob("queue.db.corrupt-*"))
    # Nobody has the old file open any more.
    open_files = [
        os.readlink(f"/proc/{daemon.process.pid}/fd/{fd}")
        for fd in os.listdir(f"/proc/{daemon.process.pid}/fd")
    ]
    assert not [name for name in open_files if "corrupt" in name]
    assert ask(daemon, "queue-purge")["count"] == len(rows)


def test_lines_are_answered_as_json(offline):
    """Each line by itself, whatever was asked."""
    with Control(offline) as control:
        for command in ("status", "metrics", "reconnect"):
            control.request(command)
        for line in control.raw(3):
            assert json.loads(line)["status"] == "ok"


def test_connecting_as_a_datagram_is_refused(offline):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        with pytest.raises(OSError):
            other.connect(str(offline.control_path))
