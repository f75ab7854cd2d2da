# SPDX-License-Identifier: MIT
"""The queue's bounds: what is refused, what is dropped, and what never is."""

import re
import time

import pytest
from harness import Client, Database, wait_until
from harness.client import all_queued
from harness import mqttwire as wire
from harness.fakebroker import OnLasting
from harness.ports import free_port
from harness.steps import count_lines, feed, numbered, payload, payloads


@pytest.fixture
def offline_with(make_daemon):
    """A daemon without a broker, with these settings of the queue."""
    return lambda **queue: make_daemon(free_port(), queue=queue).start()


def ask(daemon, messages):
    """Feed and return the replies, whatever they are."""
    with Client(daemon.socket_path, timeout=60) as client:
        return client.feed(messages)


def statuses(replies):
    return [reply.get("error", reply["status"]) for reply in replies]


def numbers_left(daemon):
    rows = Database(daemon.queue_path).query(
        "SELECT payload FROM queue ORDER BY id"
    )
    return [bytes(row[0]) for row in rows]


def counted(daemon):
    """What meta says, which must be what is there."""
    said, there = Database(daemon.queue_path).query(
        "SELECT (SELECT value FROM meta WHERE key = 'queue_messages'),"
        " (SELECT count(*) FROM queue)"
    )[0]
    assert said == there
    return said


def wait_counted(daemon, count):
    wait_until(lambda: counted(daemon) == count, 20.0, f"{count} rows left")


def hold(conn):
    """Take the connection and every message, and acknowledge nothing."""
    conn.connack()
    while True:
        conn.read(timeout=60)


def wait_held(broker, count):
    """Wait until the broker has got so many messages."""

    def got():
        received = [p for conn in broker.lasting() for p in conn.received]
        return sum(isinstance(p, wire.Publish) for p in received)

    wait_until(lambda: got() == count, 20.0, f"{count} messages held")


def test_max_messages_rejects(offline_with):
    daemon = offline_with(max_messages=100)
    replies = ask(daemon, numbered(150))
    assert statuses(replies) == ["queued"] * 100 + ["queue-full"] * 50
    assert "queue.max_messages" in replies[-1]["message"]
    assert "100" in replies[-1]["message"]
    assert numbers_left(daemon) == payloads(100)
    # In turns of one line each, too.
    with Client(daemon.socket_path) as client:
        for message in numbered(3, first=150):
            assert statuses(client.feed([message])) == ["queue-full"]
    daemon.restart()
    assert statuses(ask(daemon, numbered(1))) == ["queue-full"]
    assert counted(daemon) == 100


def test_acceptance_resumes_when_rows_are_delivered(offline_with, make_fake):
    daemon = offline_with(max_messages=100)
    feed(daemon, 100)
    assert statuses(ask(daemon, numbered(1))) == ["queue-full"]
    broker = make_fake()
    daemon.settings["brokers"][0]["port"] = broker.port
    daemon.write_config()
    daemon.restart()
    broker.wait_delivered(100)
    Database(daemon.queue_path).wait_empty()
    feed(daemon, 100, first=100)
    broker.wait_delivered(200)


def test_drop_oldest(offline_with):
    daemon = offline_with(max_messages=100, overflow="drop-oldest")
    seqs = feed(daemon, 2500)
    assert seqs == sorted(seqs)
    wait_counted(daemon, 100)
    assert numbers_left(daemon) == payloads(100, first=2400)
    for number in range(2500, 2510):
        feed(daemon, 1, first=number)
        wait_counted(daemon, 100)
    assert numbers_left(daemon) == payloads(100, first=2410)
    # Said at once, with the number, and then once a minute.
    lines = re.findall(r"the (\d+) oldest messages dropped", daemon.output())
    assert len(lines) == 1
    assert 1 <= int(lines[0]) <= 2400


def test_lowered_bound(offline_with):
    """A bound that is lower than what is there takes effect at the start."""
    daemon = offline_with()
    feed(daemon, 5000)
    daemon.settings["queue"].update(max_messages=10, overflow="drop-oldest")
    daemon.write_config()
    daemon.restart()
    wait_counted(daemon, 10)
    assert numbers_left(daemon) == payloads(10, first=4990)


@pytest.mark.parametrize("version", ["3.1.1", "5"])
def test_what_is_in_flight_is_never_dropped(make_daemon, make_fake, version):
    """Rows with the uplink stay; the next ones go."""
    broker = make_fake(OnLasting(hold))
    daemon = make_daemon(
        broker.port,
        mqtt={"version": version, "inflight_max": 20},
        queue={"max_messages": 50, "overflow": "drop-oldest"},
    ).start()
    feed(daemon, 20)
    wait_held(broker, 20)
    feed(daemon, 1000, first=20)
    wait_counted(daemon, 50)
    assert numbers_left(daemon) == payloads(20) + payloads(30, first=990)


def test_all_in_flight_is_full(make_daemon, make_fake):
    broker = make_fake(OnLasting(hold))
    daemon = make_daemon(
        broker.port,
        mqtt={"inflight_max": 20},
        queue={"max_messages": 20, "overflow": "drop-oldest"},
    ).start()
    feed(daemon, 20)
    wait_held(broker, 20)
    replies = ask(daemon, numbered(5, first=20))
    assert statuses(replies) == ["queue-full"] * 5
    assert counted(daemon) == 20


def test_overflow_while_delivering(make_daemon, make_mosquitto, make_subscriber):
    """What is dropped was not delivered, and all else was, in order."""
    broker = make_mosquitto().start()
    subscriber = make_subscriber(broker.port)
    daemon = make_daemon(
        broker.port,
        mqtt={"inflight_max": 5},
        queue={"max_messages": 200, "overflow": "drop-oldest"},
    ).start()
    feed(daemon, 20000)
    Database(daemon.queue_path).wait_empty()
    feed(daemon, 1, first=20000)
    subscriber.wait_payloads([payload(20000)])
    got = subscriber.payloads()
    assert got == sorted(set(got))
    daemon.stop()
    lines = re.findall(r"the (\d+) oldest messages dropped", daemon.output())
    dropped = sum(int(number) for number in lines)
    assert dropped > 0
    assert len(got) + dropped == 20001


@pytest.mark.parametrize("overflow", ["reject", "drop-oldest"])
def test_max_bytes(offline_with, overflow):
    daemon = offline_with(max_bytes="4M", overflow=overflow)
    size = 2000
    replies = ask(
        daemon,
        (
            {**message, "payload": message["payload"] + "x" * size}
            for message in numbered(4000)
        ),
    )
    left = counted(daemon)
    # Live pages of 4 MiB less the log hold between a third and all of that.
    assert 4 * 1024 * 1024 / 3 / size < left < 4 * 1024 * 1024 / size
    files = sum(
        path.stat().st_size
        for path in daemon.state.iterdir()
        if path.name in ("queue.db", "queue.db-wal")
    )
    assert files < 6 * 1024 * 1024
    if overflow == "reject":
        said = statuses(replies)
        assert said.count("queued") == left
        assert said.count("queue-full") == 4000 - left
        assert said[: left // 2] == ["queued"] * (left // 2)
        assert "queue.max_bytes" in replies[-1]["message"]
    else:
        all_queued(replies, range(4000))
        first = numbers_left(daemon)[0][:8]
        assert first == payload(4000 - left)


def test_row_beyond_all_bounds(offline_with):
    daemon = offline_with(max_bytes="256K", overflow="drop-oldest")
    feed(daemon, 10)
    replies = ask(
        daemon, [{"topic": "t", "payload": "x" * 600000, "id": 1}]
    )
    assert statuses(replies) == ["queue-full"]
    assert numbers_left(daemon) == payloads(10)


def test_delivered_rows_make_room_at_once(make_daemon, make_fake):
    """A queue for one: the next line is taken as soon as it is empty."""
    broker = make_fake()
    daemon = make_daemon(broker.port, queue={"max_messages": 1}).start()
    for number in range(20):
        # The acknowledgement of the last one is on its way.
        wait_until(
            lambda n=number: statuses(ask(daemon, numbered(1, first=n)))
            == ["queued"],
            0.5,
            "room for one",
        )
        broker.wait_delivered(number + 1)


def test_refusals_are_logged_once_a_minute(offline_with):
    daemon = offline_with(max_messages=1)
    feed(daemon, 1)
    for _ in range(20):
        ask(daemon, numbered(5))
    assert count_lines(daemon, 'lines refused with "queue-full"') == 1


# --- commit_delay ---


def test_commit_delay(offline_with):
    """Replies come after the delay, one commit for all; nothing is lost."""
    daemon = offline_with(commit_delay=0.3)
    # Before its first attempt it has a broker noted, which nothing delays.
    daemon.wait_output("connecting -> ")
    with Client(daemon.socket_path) as one, Client(daemon.socket_path) as two:
        begin = time.monotonic()
        one.publish(topic="t", payload=1, id=1)
        two.publish(topic="t", payload=2, id=2)
        assert one.replies(1)[0]["status"] == "queued"
        assert two.replies(1)[0]["status"] == "queued"
        assert time.monotonic() - begin >= 0.3
    daemon.kill9()
    daemon.start()
    assert counted(daemon) == 2


def test_commit_delay_ends_with_a_stop(offline_with):
    daemon = offline_with(commit_delay=600.0)
    with Client(daemon.socket_path) as client:
        client.publish(topic="t", payload=1, id=1)
        time.sleep(0.2)
        daemon.terminate()
        assert client.replies(1)[0]["status"] == "queued"
    daemon.wait()
    daemon.start()
    assert counted(daemon) == 1


def test_commit_delay_does_not_hold_up_connecting(offline_with, make_fake):
    """The note of a broker is written at once, lines or not."""
    broker = make_fake()
    daemon = offline_with(commit_delay=600.0)
    daemon.settings["brokers"][0]["port"] = broker.port
    daemon.write_config()
    broker.down()
    daemon.restart()
    with Client(daemon.socket_path) as client:
        client.publish(topic="t", payload=1, id=1)
        broker.up()
        broker.wait_connections(1)


def test_commit_delay_and_removals(make_daemon, make_fake):
    broker = make_fake()
    daemon = make_daemon(
        broker.port, queue={"commit_delay": 0.2}
    ).start()
    feed(daemon, 50)
    broker.wait_delivered(50)
    Database(daemon.queue_path).wait_empty()


@pytest.mark.parametrize("bound", ["max_messages", "max_bytes"])
def test_near_a_bound(make_daemon, make_fake, bound):
    """Told at 80 %, once, and when less than 70 % are in use again."""
    most = {"max_messages": 1000, "max_bytes": "8M"}[bound]
    broker = make_fake()
    broker.down()
    daemon = make_daemon(broker.port, queue={bound: most}).start()
    high = rf"warning: the queue is at 8\d % of queue\.{bound}: \d+ of \d+"
    normal = rf"notice: the queue is back at \d+ % of queue\.{bound}"
    count = 0
    while not re.search(high, daemon.output()):
        feed(daemon, 10, first=count, payload="x" * 7000)
        count += 10
        assert count <= 1000
    if bound == "max_messages":
        assert count == 800
    feed(daemon, 10, first=count, payload="x" * 7000)
    count += 10
    assert len(re.findall(high, daemon.output())) == 1
    broker.up()
    daemon.wait_output(normal, 20)
    broker.wait_delivered(count)
    assert len(re.findall(normal, daemon.output())) == 1
