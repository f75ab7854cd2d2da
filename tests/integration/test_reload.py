# SPDX-License-Identifier: MIT
"""SIGHUP: a new configuration, whole or not at all, and nothing is lost.

Environment:

MQTTGW_RELOADS  reloads under load (default 50)
"""

import os
import re
import signal
import socket
import sqlite3
import time
from urllib.request import urlopen

import pytest
from harness.client import Client, encode
from harness.control import Control, ask, status
from harness.database import Database
from harness.fakebroker import OnLasting
from harness.ports import LOOPBACK, free_port
from harness.steps import feed, numbered, payloads, use_brokers
from harness.subscriber import duplicates, first_deliveries
from harness.traffic import Traffic, numbers
from harness.waiting import env_int, wait_until

RELOADS = env_int("MQTTGW_RELOADS", 50)

RELOADED = r"reloaded: "
STAYS = r"the old configuration stays"
ANSWERED = rf"{RELOADED}|{STAYS}"


def count(daemon, pattern):
    return len(re.findall(pattern, daemon.output()))


def reload(daemon, answer=RELOADED):
    """SIGHUP; waits until the log tells what came of it."""
    seen = count(daemon, answer)
    daemon.process.signal(signal.SIGHUP)
    wait_until(
        lambda: daemon.check_alive() or count(daemon, answer) > seen,
        10,
        f"log line matching {answer!r}",
    )


def change(daemon, **groups):
    """Other values for keys of these groups, in the file."""
    for name, members in groups.items():
        daemon.settings[name] = {**daemon.settings.get(name, {}), **members}
    daemon.write_config()


def change_and_reload(daemon, **groups):
    change(daemon, **groups)
    reload(daemon)


def spoil(daemon):
    """A fault on a line of its own; returns the number of the line."""
    text = daemon.config_path.read_text()
    daemon.config_path.write_text(text + "nonsense = 1;\n")
    return text.count("\n") + 1


def descriptors(daemon):
    return len(os.listdir(f"/proc/{daemon.process.pid}/fd"))


def last_line(daemon, pattern):
    """The last line of the log that matches."""
    lines = [
        line for line in daemon.output().splitlines()
        if re.search(pattern, line)
    ]
    assert lines, f"no line matches {pattern!r}"
    return lines[-1]


# --- under load -------------------------------------------------------------


def judge(subscribers, sent):
    """All came somewhere, at each broker in order; returns a summary."""

    def complete():
        have = {
            int(record.payload.split()[0])
            for subscriber in subscribers
            for record in list(subscriber.records)
        }
        return {n for n in range(sent) if n % 3} <= have

    wait_until(complete, 30, "every message of QoS 1 and 2", interval=0.1)
    records = [list(subscriber.records) for subscriber in subscribers]
    for each in records:
        for qos in (0, 1, 2):
            came = first_deliveries(numbers(each, qos))
            assert came == sorted(came)
    together = [record for each in records for record in each]
    lost = set(range(0, sent, 3)) - set(numbers(together, 0))
    doubled = [duplicates(numbers(together, qos)) for qos in (0, 1, 2)]
    assert doubled[2] == 0
    return (
        f"{sent} messages, {[len(each) for each in records]} a broker; QoS "
        f"0: {len(lost)} lost; doubled by QoS: {doubled}"
    )


@pytest.mark.long
@pytest.mark.timeout(300)
def test_reload_under_load(
    make_daemon, make_mosquitto, make_subscriber, measured
):
    """Brokers, window, bounds and prefix change while messages flow."""
    brokers = [make_mosquitto().start() for _ in range(2)]
    ports = [broker.port for broker in brokers]
    subscribers = [make_subscriber(port) for port in ports]
    daemon = use_brokers(make_daemon(ports[0]), *ports).start()
    idle = Client(daemon.socket_path)
    traffic = Traffic(daemon, rate=400)
    traffic.wait_more(100)
    fds, memory, good, faulty = [], [], 0, 0
    for number in range(RELOADS):
        if number % 2:
            line = spoil(daemon)
            reload(daemon, STAYS)
            assert f"{daemon.config_path}:{line}: " in daemon.output()
            faulty += 1
        else:
            turn = number // 2
            use_brokers(daemon, *(ports if turn % 2 else ports[::-1]))
            change_and_reload(
                daemon,
                mqtt={
                    "inflight_max": turn % 3 * 20,
                    "topic_prefix": f"p{turn}/" if turn % 4 else "",
                },
                queue={
                    "max_messages": 10**6 + turn,
                    "commit_delay": turn % 5 * 0.01,
                },
                socket={"max_clients": 10 + turn},
            )
            good += 1
        traffic.wait_more(40)
        fds.append(descriptors(daemon))
        memory.append(daemon.memory())
    count_sent = traffic.end()
    summary = judge(subscribers, count_sent)
    assert traffic.producer.connections == 1
    assert idle.ask({"topic": "t", "id": 0, "payload": "0"})["id"] == 0
    idle.close()
    assert all(len(subscriber.records) > 100 for subscriber in subscribers)
    wait_until(
        lambda: descriptors(daemon) <= fds[0] + 1, 10, "descriptors as before"
    )
    if not daemon.sanitized:
        assert memory[-1] - memory[len(memory) // 4] < 4 << 20
    measured(f"{good} good and {faulty} faulty reloads: {summary}")


def test_a_commit_that_waits_is_answered(make_daemon, make_mosquitto):
    """Lines that wait for company are committed, not lost, by a reload."""
    broker = make_mosquitto().start()
    daemon = make_daemon(broker.port, queue={"commit_delay": 30.0}).start()
    # What it notes of a new session would end the wait.
    wait_until(
        lambda: Database(daemon.queue_path).query(
            "SELECT value FROM meta WHERE key LIKE 'session %'"
        ),
        10,
        "a note about the session",
    )
    with Client(daemon.socket_path) as client:
        client.send(b"".join(encode(m) for m in numbered(10)))
        time.sleep(0.3)
        assert client.pending() == 0
        change_and_reload(daemon, queue={"commit_delay": 0.0})
        assert len(client.replies(10)) == 10
        client.send(b"".join(encode(m) for m in numbered(10, first=10)))
        assert len(client.replies(10)) == 10
    Database(daemon.queue_path).wait_empty()


def test_delivered_rows_are_not_sent_again(make_daemon, make_fake):
    """Acknowledged rows whose removal waits are unknown to the next uplink.

    The broker takes all but the last two; those are sent once more.
    """
    broker = make_fake()
    daemon = make_daemon(broker.port, queue={"commit_delay": 20.0}).start()
    for turn in range(10):
        with Client(daemon.socket_path) as client:
            client.send(
                b"".join(encode(m) for m in numbered(30, first=30 * turn))
            )
            change_and_reload(daemon, mqtt={"keepalive": 50 + turn})
            assert len(client.replies(30)) == 30
        broker.wait_delivered(30 * (turn + 1))
    change_and_reload(daemon, mqtt={"keepalive": 100})
    broker.wait_delivered(300)
    Database(daemon.queue_path).wait_empty(60)
    assert broker.payloads() == payloads(300)


# --- what reconnects, and what does not --------------------------------------


def test_nothing_changed(make_daemon, make_fake):
    """The connection is left alone."""
    broker = make_fake()
    daemon = make_daemon(broker.port).start()
    feed(daemon, 1)
    broker.wait_delivered(1)
    connections = len(broker.connections)
    reload(daemon)
    assert "reloaded: nothing has changed" in daemon.output()
    feed(daemon, 1, first=1)
    broker.wait_delivered(2)
    assert len(broker.connections) == connections


def test_live_keys_leave_the_connection_alone(make_daemon, make_fake):
    broker = make_fake()
    daemon = make_daemon(broker.port).start()
    feed(daemon, 1)
    broker.wait_delivered(1)
    connections = len(broker.connections)
    change_and_reload(
        daemon,
        queue={"max_messages": 1000, "max_age": 60.0, "max_bytes": "8M"},
        socket={"max_clients": 5, "default_qos": 0},
        log={"level": "debug"},
    )
    line = last_line(daemon, RELOADED)
    for key in (
        "socket.default_qos", "socket.max_clients", "queue.max_messages",
        "queue.max_bytes", "queue.max_age", "log.level",
    ):
        assert key in line
    assert "connecting anew" not in line
    feed(daemon, 1, first=1)
    broker.wait_delivered(2)
    assert broker.delivered[-1].qos == 0
    assert len(broker.connections) == connections


def test_broker_changes(make_daemon, make_fake):
    """DISCONNECT at the old one after its last PUBACK, then the new one."""
    old, new = make_fake(), make_fake()
    daemon = make_daemon(old.port).start()
    feed(daemon, 50)
    old.wait_delivered(50)
    before = len(old.disconnects)
    use_brokers(daemon, new.port)
    reload(daemon)
    assert "brokers[0].port; connecting anew" in last_line(daemon, RELOADED)
    feed(daemon, 50, first=50)
    new.wait_delivered(50)
    assert len(old.disconnects) == before + 1
    assert old.payloads() == payloads(50)
    assert new.payloads() == payloads(50, first=50)


def test_session_is_kept_over_a_reload(make_daemon, make_fake):
    """With nothing in flight the next uplink goes on with the session."""
    broker = make_fake()
    daemon = make_daemon(broker.port).start()
    feed(daemon, 5)
    broker.wait_delivered(5)
    lasting = len(broker.lasting())
    connections = len(broker.connections)
    change_and_reload(daemon, mqtt={"keepalive": 17})
    feed(daemon, 5, first=5)
    broker.wait_delivered(10)
    assert len(broker.lasting()) == lasting + 1
    assert len(broker.connections) == connections + 1
    assert broker.connects[-1].keepalive == 17


def test_what_is_in_flight_is_finished_first(make_daemon, make_fake):
    """A broker that answers late is given the time; nothing comes twice."""

    def late(conn):
        conn.connack()
        packet = conn.read(20)
        time.sleep(1.0)
        conn.take(packet)
        conn.serve()

    old, new = make_fake(OnLasting(late)), make_fake()
    daemon = make_daemon(old.port).start()
    feed(daemon, 20, qos=1)
    wait_until(
        lambda: any(conn.received for conn in old.lasting()), 10, "a PUBLISH"
    )
    use_brokers(daemon, new.port)
    reload(daemon)
    feed(daemon, 20, first=20, qos=1)
    new.wait_delivered(20)
    assert old.payloads() == payloads(20)
    assert new.payloads() == payloads(20, first=20)


def test_a_broker_that_answers_no_more(make_daemon, make_fake):
    """The next uplink begins after a bound; what was in flight is sent."""

    def deaf(conn):
        conn.connack()
        while True:
            conn.read(60)

    old, new = make_fake(OnLasting(deaf)), make_fake()
    daemon = make_daemon(old.port).start()
    feed(daemon, 20)
    wait_until(
        lambda: any(conn.received for conn in old.lasting()), 10, "a PUBLISH"
    )
    use_brokers(daemon, new.port)
    begin = time.monotonic()
    reload(daemon)
    # Two more while the uplink leaves: the last one counts.
    change_and_reload(daemon, mqtt={"keepalive": 30})
    change_and_reload(daemon, mqtt={"keepalive": 31})
    new.wait_delivered(20)
    assert time.monotonic() - begin < 15
    assert new.payloads() == payloads(20)
    assert {connect.keepalive for connect in new.connects} == {31}


def test_broker_is_down(make_daemon, make_fake):
    """SIGHUP ends the wait; so does another broker in the file."""
    broker, other = make_fake(), make_fake()
    broker.down()
    slow = {"base": 300.0, "max": 300.0, "jitter": "none"}
    daemon = make_daemon(broker.port, retry=slow).start()
    feed(daemon, 5)
    daemon.wait_output(r"next attempt in 300")
    broker.up()
    reload(daemon)
    broker.wait_delivered(5)
    broker.down()
    other.down()
    use_brokers(daemon, other.port)
    reload(daemon)
    daemon.wait_output(rf":{other.port}: .*next attempt in")
    feed(daemon, 5, first=5)
    use_brokers(daemon, broker.port)
    broker.up()
    reload(daemon)
    broker.wait_delivered(10)
    daemon.stop()


def test_new_password(make_daemon, make_mosquitto, make_subscriber):
    """The file has another content: nothing in the configuration changed."""
    broker = make_mosquitto(users={"sub": "s", "gw": "right"}).start()
    subscriber = make_subscriber(broker.port, username="sub", password="s")
    daemon = make_daemon(broker.port, retry={"set_aside": 600.0})
    secret = daemon.directory / "secret"
    secret.write_text("wrong\n")
    secret.chmod(0o600)
    daemon.settings["brokers"][0].update(
        username="gw", password_file=str(secret)
    )
    daemon.write_config()
    daemon.start()
    feed(daemon, 10)
    daemon.wait_output("(?i)set aside")
    secret.write_text("right\n")
    reload(daemon)
    assert "brokers[0].password; " in last_line(daemon, RELOADED)
    subscriber.wait_payloads(payloads(10))
    assert "right" not in daemon.output()


def test_credentials_are_a_snapshot(make_daemon, make_mosquitto):
    """A name without a slash is said to be as it was at the start."""
    broker = make_mosquitto().start()
    daemon = make_daemon(broker.port)
    folder = daemon.directory / "credentials"
    folder.mkdir()
    (folder / "broker-password").write_text("secret word\n")
    daemon.extra_env["CREDENTIALS_DIRECTORY"] = str(folder)
    daemon.settings["brokers"][0].update(
        username="gw", password_file="broker-password"
    )
    daemon.write_config()
    daemon.start()
    reload(daemon)
    assert re.search(
        "broker-password: a systemd credential, as it was when systemd last "
        "handed it over",
        daemon.output(),
    )
    assert "secret word" not in daemon.output()


# --- bounds -----------------------------------------------------------------


def test_bounds_of_the_queue(make_daemon):
    """Lowered: refused at once; raised: taken again; dropped: the oldest."""
    daemon = make_daemon(free_port()).start()
    database = Database(daemon.queue_path)
    feed(daemon, 20)
    change_and_reload(daemon, queue={"max_messages": 10})
    with Client(daemon.socket_path) as client:
        reply = client.ask({"topic": "t", "id": 1})
        assert reply["error"] == "queue-full"
        change_and_reload(daemon, queue={"max_messages": 21})
        assert client.ask({"topic": "t", "id": 2})["status"] == "queued"
        assert client.ask({"topic": "t", "id": 3})["error"] == "queue-full"
        assert database.count() == 21
        change_and_reload(
            daemon, queue={"max_messages": 5, "overflow": "drop-oldest"}
        )
        database.wait_count(5)
        assert client.ask({"topic": "t", "id": 4})["status"] == "queued"
        database.wait_count(5)
        change_and_reload(daemon, queue={"max_messages": "none"})
        for number in range(10):
            reply = client.ask({"topic": "t", "id": number})
            assert reply["status"] == "queued"
        assert database.count() == 15
        change_and_reload(daemon, queue={"max_bytes": "256K"})
        big = "x" * 100000
        for number in range(10):
            reply = client.ask({"topic": "t", "id": number, "payload": big})
            assert reply["status"] == "queued"
        wait_until(
            lambda: database.count() < 8, 10, "large messages make room"
        )


def test_max_age(make_daemon, make_fake, clock):
    """What is too old by a new bound goes without waiting for a minute, and
    brokers are told of the bound from then on."""
    broker = make_fake()
    broker.down()
    daemon = make_daemon(broker.port)
    clock.give(daemon)
    daemon.start()
    old = int((time.time() - 3600) * 1000)
    feed(daemon, 10, timestamp=old)
    feed(daemon, 5, first=10)
    change_and_reload(daemon, queue={"max_age": 600.0})
    Database(daemon.queue_path).wait_count(5, 10)
    broker.up()
    broker.wait_delivered(5)
    assert broker.payloads() == payloads(5, first=10)
    for message in broker.delivered:
        assert 500 < message.properties["message_expiry"] <= 600
    connections = len(broker.connections)
    change_and_reload(daemon, queue={"max_age": "none"})
    # Its chores come within 20 ms.
    time.sleep(0.5)
    feed(daemon, 1, first=15)
    broker.wait_delivered(6)
    assert "message_expiry" not in broker.delivered[-1].properties
    assert len(broker.connections) == connections


def test_bounds_of_clients(make_daemon):
    """Clients stay; one more is refused, or taken, by the new bound."""
    daemon = make_daemon(
        free_port(), socket={"max_message_bytes": "1K", "max_clients": 3}
    ).start()
    clients = [Client(daemon.socket_path) for _ in range(3)]
    for client in clients:
        assert client.ask({"topic": "t", "id": 1})["status"] == "queued"
    change_and_reload(daemon, socket={"max_clients": 1})
    for client in clients:
        assert client.ask({"topic": "t", "id": 2})["status"] == "queued"
    with Client(daemon.socket_path) as more:
        assert [r["error"] for r in more.until_closed()] == [
            "too-many-clients"
        ]
    change_and_reload(
        daemon, socket={"max_clients": 4, "max_message_bytes": "200K"}
    )
    with Client(daemon.socket_path) as more:
        line = {"topic": "t", "id": 3, "payload": "x" * 150000}
        assert more.ask(line)["status"] == "queued"
        # And by one that was there before.
        assert clients[0].ask(line)["status"] == "queued"
    change_and_reload(daemon, socket={"max_message_bytes": "1K"})
    clients[1].send(encode(line))
    assert [r["error"] for r in clients[1].until_closed()] == ["too-large"]
    assert clients[2].ask({"topic": "t", "id": 4})["status"] == "queued"
    for client in clients:
        client.close()


# --- what is served elsewhere -------------------------------------------------


def settled(daemon):
    """Descriptors, once the uplink has all that it opens only once."""
    daemon.wait_output("Connection refused")
    return descriptors(daemon)


def test_control_moves(make_daemon):
    """The old socket goes with its connections, the new one is as good."""
    daemon = make_daemon(free_port()).start()
    feed(daemon, 3)
    old, new = daemon.control_path, daemon.directory / "other.sock"
    with Control(daemon) as events:
        hello = events.command("events")
        before = settled(daemon)
        change_and_reload(daemon, control={"path": str(new)})
        assert events.until_closed() == []
    assert "reloaded: control.path" in last_line(daemon, RELOADED)
    assert not old.exists()
    daemon.control_path = new
    assert status(daemon)["restart_needed"] == []
    assert ask(daemon, "queue-purge")["count"] == 3
    # What it says of itself is of the configuration in use.
    for _ in range(3):
        change_and_reload(daemon, log={"level": "debug"})
        # The same process: who has read its alerts need not read them again.
        assert ask(daemon, "events") == hello
        change_and_reload(daemon, log={"level": "info"})
    wait_until(
        lambda: descriptors(daemon) <= before - 1, 10, "descriptors closed"
    )
    daemon.stop()
    assert not new.exists()


@pytest.mark.parametrize("why", ["folder", "file", "in use", "own"])
def test_control_cannot_move(make_daemon, why):
    """Then nothing of that file is applied, and the old socket stays."""
    daemon = make_daemon(free_port(), socket={"max_clients": 2}).start()
    path = daemon.directory / "other.sock"
    with socket.socket(socket.AF_UNIX) as other, Control(daemon) as events:
        if why == "folder":
            path = daemon.directory / "none" / "other.sock"
        elif why == "file":
            path.write_text("mine")
        elif why == "in use":
            other.bind(str(path))
            other.listen()
        else:
            # The same file by another name.
            path = daemon.state / ".." / "control.sock"
        hello = events.command("events")
        before = settled(daemon)
        change(
            daemon,
            control={"path": str(path)},
            socket={"max_clients": 100},
            queue={"max_messages": 1},
        )
        reload(daemon, STAYS)
        assert f"{path}: cannot be control.path: " in daemon.output()
        assert status(daemon)["max_clients"] == 2
        assert ask(daemon, "events")["instance"] == hello["instance"]
        feed(daemon, 2)
        wait_until(
            lambda: descriptors(daemon) <= before, 10, "descriptors closed"
        )
    if why == "file":
        assert path.read_text() == "mine"
    change_and_reload(daemon, control={"path": str(daemon.control_path)})
    assert "max_clients" in last_line(daemon, RELOADED)
    assert status(daemon)["max_clients"] == 100
    assert ask(daemon, "events")["instance"] == hello["instance"]


def metrics_of(port):
    try:
        with urlopen(f"http://{LOOPBACK}:{port}/metrics", timeout=5) as page:
            return page.read().decode()
    except OSError:
        return ""


def test_metrics_move(make_daemon):
    """On, elsewhere, to where somebody else is, and off."""
    daemon = make_daemon(free_port())
    if not daemon.has_http:
        pytest.skip("NOT TESTED: this build has no HTTP")
    daemon.start()
    feed(daemon, 4)
    before = settled(daemon)
    first, second, third = free_port(), free_port(), free_port()

    def listen(port):
        address = f"{LOOPBACK}:{port}" if port else ""
        change_and_reload(daemon, metrics={"listen": address})
        assert "reloaded: metrics.listen" in last_line(daemon, RELOADED)

    listen(first)
    assert "mqttgw_queue_messages 4\n" in metrics_of(first)
    listen(second)
    assert "mqttgw_queue_messages 4\n" in metrics_of(second)
    assert not metrics_of(first)
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind((LOOPBACK, third))
        other.listen()
        listen(third)
        assert "in use; end the other program" in daemon.output()
        assert not metrics_of(second)
        # The address outlives the configuration that named it.
        change_and_reload(daemon, log={"level": "debug"})
    wait_until(
        lambda: "mqttgw_queue_messages 4\n" in metrics_of(third),
        20, "metrics once the address is free",
    )
    listen(None)
    assert not metrics_of(third)
    wait_until(
        lambda: descriptors(daemon) <= before, 10, "descriptors closed"
    )


# --- what does not change -----------------------------------------------------


def test_restart_needed(make_daemon):
    """Named with the value that goes on; forgotten when it is back."""
    daemon = make_daemon(free_port()).start()
    before = dict(daemon.settings["socket"]), dict(daemon.settings["queue"])
    change_and_reload(
        daemon,
        socket={"path": str(daemon.directory / "other"), "max_clients": 7},
        queue={"sync": "normal"},
    )
    output = daemon.output()
    assert (
        f'socket.path: needs a restart, goes on with "{daemon.socket_path}"'
        in output
    )
    assert 'queue.sync: needs a restart, goes on with "full"' in output
    assert (
        "reloaded: socket.max_clients; restart needed for socket.path, "
        "queue.sync" in output
    )
    feed(daemon, 3)
    seen = count(daemon, "needs a restart")
    change_and_reload(daemon, log={"level": "debug"})
    assert count(daemon, "needs a restart") == seen + 2
    daemon.settings["socket"], daemon.settings["queue"] = before
    daemon.write_config()
    reload(daemon)
    assert "restart needed" not in last_line(daemon, RELOADED)
    assert count(daemon, "needs a restart") == seen + 2
    daemon.stop()


@pytest.mark.parametrize("kind", ["missing", "directory", "fifo", "syntax"])
def test_a_file_that_cannot_be_used(make_daemon, make_fake, kind):
    broker = make_fake()
    daemon = make_daemon(broker.port).start()
    feed(daemon, 1)
    broker.wait_delivered(1)
    path = daemon.config_path
    text = path.read_text()
    path.unlink()
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "syntax":
        path.write_text("socket: {\n  path = ;\n};\n")
    reload(daemon, STAYS)
    expected = {
        "missing": f"{path}: cannot read: ",
        "directory": f"{path}: is not a regular file",
        "fifo": f"{path}: is not a regular file",
        "syntax": f"{path}:2: ",
    }[kind]
    assert expected in daemon.output()
    if kind == "directory":
        path.rmdir()
    elif kind != "missing":
        path.unlink()
    feed(daemon, 1, first=1)
    broker.wait_delivered(2)
    path.write_text(text)
    reload(daemon)
    # Said behind the log line.
    wait_until(
        lambda: daemon.notify.lines.count("READY=1") == 3, 10, "READY=1"
    )
    assert daemon.notify.lines.count("RELOADING=1") == 2
    stamps = [
        line for line in daemon.notify.lines
        if line.startswith("MONOTONIC_USEC=")
    ]
    assert len(stamps) == 2
    now = time.clock_gettime(time.CLOCK_MONOTONIC)
    assert 0 < now - int(stamps[-1].split("=")[1]) / 1e6 < 60


def test_all_faults_are_told(make_daemon):
    """One line each, with its number, and none of the good values."""
    daemon = make_daemon(free_port(), socket={"max_clients": 2}).start()
    path = daemon.config_path
    path.write_text(
        "socket: { max_clients = 100;\n"
        "  default_qos = 3; };\n"
        "sockets: { };\n"
        'queue: { sync = "sometimes"; };\n'
    )
    reload(daemon, STAYS)
    for line in (2, 3, 4):
        assert f"{path}:{line}: " in daemon.output()
    clients = [Client(daemon.socket_path) for _ in range(3)]
    assert clients[2].until_closed()[0]["error"] == "too-many-clients"
    for client in clients:
        client.close()


# --- at odd moments -----------------------------------------------------------


def test_two_at_once(make_daemon, make_fake):
    broker, other = make_fake(), make_fake()
    daemon = make_daemon(broker.port).start()
    feed(daemon, 10)
    use_brokers(daemon, other.port)
    for _ in range(5):
        daemon.process.signal(signal.SIGHUP)
    feed(daemon, 10, first=10)
    wait_until(
        lambda: set(broker.payloads()) | set(other.payloads())
        == set(payloads(20)),
        20,
        "all messages at one of the two",
    )
    assert len(broker.payloads()) + len(other.payloads()) == 20
    daemon.stop()


@pytest.mark.long
def test_while_the_disk_fails(make_daemon, make_fake):
    """Somebody holds the database: what was delivered cannot be removed, and
    the next uplink waits for that. Nothing is sent twice."""
    old, new = make_fake(), make_fake()
    daemon = make_daemon(old.port, log={"level": "debug"}).start()
    feed(daemon, 10)
    old.wait_delivered(10)
    Database(daemon.queue_path).wait_empty()
    with Client(daemon.socket_path) as client:
        client.send(b"".join(encode(m) for m in numbered(10, first=10)))
        client.replies(10)
        old.wait_delivered(20)
        lock = sqlite3.connect(daemon.queue_path, isolation_level=None)
        lock.execute("BEGIN IMMEDIATE")
        try:
            reply = client.ask({"topic": "t", "id": 1})
            assert reply["error"] == "storage"
            use_brokers(daemon, new.port)
            reload(daemon)
            change_and_reload(daemon, queue={"max_messages": 11})
            # The last note waits for the disk, then the uplink is hurried.
            daemon.wait_output("the uplink does not come to its end", 15)
            time.sleep(1.0)
            assert not new.connections
        finally:
            lock.execute("ROLLBACK")
            lock.close()
        daemon.wait_output("can be written again; lines are taken", 20)
        client.send(b"".join(encode(m) for m in numbered(10, first=20)))
        assert all(r["status"] == "queued" for r in client.replies(10))
    new.wait_delivered(10)
    assert old.payloads() == payloads(20)
    assert new.payloads() == payloads(10, first=20)


def test_while_stopping(make_daemon, make_fake):
    """It is ignored, and the stop goes on."""

    def deaf(conn):
        conn.connack()
        while True:
            conn.read(60)

    broker = make_fake(OnLasting(deaf))
    daemon = make_daemon(broker.port).start()
    feed(daemon, 10)
    wait_until(
        lambda: any(conn.received for conn in broker.lasting()), 10, "PUBLISH"
    )
    use_brokers(daemon, free_port())
    daemon.terminate()
    daemon.wait_output("stopping")
    daemon.process.signal(signal.SIGHUP)
    daemon.wait_output("SIGHUP: stopping, nothing is reloaded")
    assert daemon.wait() == 0
    assert not re.search(RELOADED, daemon.output())


def test_stop_while_the_uplink_changes(make_daemon, make_fake):
    def deaf(conn):
        conn.connack()
        while True:
            conn.read(60)

    broker = make_fake(OnLasting(deaf))
    daemon = make_daemon(broker.port).start()
    feed(daemon, 10)
    wait_until(
        lambda: any(conn.received for conn in broker.lasting()), 10, "PUBLISH"
    )
    use_brokers(daemon, free_port())
    reload(daemon)
    daemon.stop(timeout=15)
    assert Database(daemon.queue_path).count() == 10


def test_presence_over_a_reload(make_daemon, mosquitto, make_subscriber):
    """As a restart tells it: offline, then online, and never stale."""
    daemon = make_daemon(
        mosquitto.port,
        mqtt={
            "will": {"topic": "p", "payload": "offline"},
            "birth": {"topic": "p", "payload": "online"},
        },
    )
    subscriber = make_subscriber(mosquitto.port, topic="p")
    daemon.start()
    subscriber.wait_for(1)
    change_and_reload(daemon, queue={"max_messages": 100})
    change_and_reload(daemon, mqtt={"keepalive": 20})
    subscriber.wait_for(3)
    told = [record.payload for record in subscriber.records]
    assert told == [b"online", b"offline", b"online"]


def test_listed_broker_is_left_for_discovery(make_daemon, make_fake):
    """From a list in the configuration to one in a file, and back."""
    first, second = make_fake(), make_fake()
    daemon = make_daemon(first.port).start()
    feed(daemon, 3)
    first.wait_delivered(3)
    listed = daemon.settings.pop("brokers")
    found = daemon.directory / "brokers.conf"
    found.write_text(
        f'brokers: ( {{ host = "{LOOPBACK}"; port = {second.port}; }} );\n'
    )
    change_and_reload(daemon, discovery={"file": str(found)})
    feed(daemon, 3, first=3)
    second.wait_delivered(3)
    del daemon.settings["discovery"]
    daemon.settings["brokers"] = listed
    daemon.write_config()
    reload(daemon)
    feed(daemon, 3, first=6)
    first.wait_delivered(6)
    daemon.stop()


def test_what_is_shown_is_of_the_new_uplink(make_daemon, make_fake):
    old, new = make_fake(), make_fake()
    names = [f"{LOOPBACK}:{fake.port}" for fake in (old, new)]
    daemon = make_daemon(old.port).start()
    feed(daemon, 5)
    old.wait_delivered(5)
    daemon.settings["brokers"][0]["port"] = new.port
    change_and_reload(daemon, mqtt={"max_rate": 1000})
    wait_until(
        lambda: status(daemon)["broker"] == names[1]
        and status(daemon)["state"] == "connected",
        10,
        "the new broker's connection",
    )
    feed(daemon, 1, first=5)
    new.wait_delivered(6 - 5)
    now = status(daemon)
    assert [(b["name"], b["up"], b["current"]) for b in now["brokers"]] == [
        (names[1], True, True)
    ]
    assert now["brokers"][0]["attempts"]["success"] == 1
    assert now["window"] > 0 and now["next_attempt"] is None
    assert (now["held"], now["last_failure"]) == (False, None)
    assert now["totals"]["delivered"] == 6

    # No list is known any more, whatever the uplink before this one had.
    del daemon.settings["brokers"]
    missing = str(daemon.directory / "none.conf")
    change_and_reload(daemon, discovery={"file": missing})
    feed(daemon, 1, first=6)
    wait_until(
        lambda: status(daemon)["why"].startswith("no broker is known: "),
        10,
        "the reason why nothing moves",
    )
    now = status(daemon)
    assert missing in now["why"]
    assert (now["state"], now["brokers"]) == ("offline", [])
    assert (now["inflight"], now["window"]) == (0, 0)
    daemon.stop()
