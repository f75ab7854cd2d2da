# SPDX-License-Identifier: MIT
"""Clients that mean no good, or know no better: their neighbours are served,
memory stays within its bound, and it is told.

Environment:

MQTTGW_HOSTILE  clients in a crowd (default 1000)
MQTTGW_STORM    connections of a storm (default 4000)
"""

import os
import re
import resource
import select
import socket
import threading
import time

import pytest
from harness import Client, env_int
from harness.client import encode
from harness.control import Control
from harness.ports import free_port
from harness.waiting import wait_until

CROWD = env_int("MQTTGW_HOSTILE", 1000)
STORM = env_int("MQTTGW_STORM", 4000)

MIB = 1 << 20
#: Of a line that needs room of its own.
LONG = 100_000
#: What memory may grow by besides the bound that is configured.
SLACK = 12 * MIB

START = b'{"topic":"t","id":"long","payload":"'


@pytest.fixture(autouse=True)
def descriptors():
    """Enough of them for a crowd, for these tests."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CROWD + 1000
    assert hard == resource.RLIM_INFINITY or hard >= wanted
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def crowd(make_daemon, measured):
    """Calls a daemon and its rude clients into being."""
    made = []

    class Crowd:
        def __init__(self, **settings):
            self.daemon = make_daemon(free_port(), socket=settings).start()
            # Before there is a crowd: select() takes low descriptors only.
            self.good = [
                Client(self.daemon.socket_path, timeout=60) for _ in range(4)
            ]
            self.control = Control(self.daemon)
            made.extend([*self.good, self.control])
            self.serve("before", 5)
            self.memory = self.daemon.memory("VmHWM")
            self.refused = self.counted("too-large")

        def clients(self):
            return self.control.command("status")["clients"]

        def queued(self):
            return self.control.command("status")["queue"]["messages"]

        def rude(self, count):
            """Connections that never wait for anything."""
            clients = []
            for _ in range(count):
                sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                sock.connect(str(self.daemon.socket_path))
                sock.setblocking(False)
                clients.append(sock)
            made.extend(clients)
            return clients

        def serve(self, when, rounds=25, size=10, neighbours=4):
            """Each neighbour's lines are answered, one after the other."""
            good = self.good[:neighbours]
            line = encode({"topic": "t", "id": 1, "payload": "x" * size})
            begin, slowest = time.monotonic(), 0.0
            for _ in range(rounds):
                for client in good:
                    sent = time.monotonic()
                    assert client.ask(line)["status"] == "queued"
                    slowest = max(slowest, time.monotonic() - sent)
            measured(
                f"{when}: {rounds * len(good)} lines of {len(line)} bytes"
                f" in {time.monotonic() - begin:.2f} s, slowest"
                f" {slowest * 1000:.1f} ms"
            )

        def check_memory(self, what, bound):
            """It has not grown by more than this since the beginning."""
            grown = self.daemon.memory("VmHWM") - self.memory
            measured(f"{what}: memory grew by {grown / MIB:.1f} MiB")
            if not self.daemon.sanitized:
                assert grown < bound, f"grew by {grown} bytes"

        def counted(self, error):
            text = self.control.command("metrics")["text"]
            found = re.search(
                r'^mqttgw_messages_refused_total\{error="' + error
                + r'"\} (\d+)$', text, re.MULTILINE
            )
            return int(found.group(1)) if found else 0

    yield Crowd
    for each in made:
        each.close()


def pour(sock, data):
    """Send what goes now; how much that was."""
    try:
        return sock.send(data)
    except BlockingIOError:
        return 0


def read_all(sock, timeout=20.0):
    """All that comes up to the end of the connection."""
    sock.settimeout(timeout)
    data = b""
    try:
        while True:
            piece = sock.recv(65536)
            if not piece:
                return data
            data += piece
    except ConnectionResetError:
        return data


def test_a_crowd_that_says_nothing(crowd):
    """Idle connections cost little; those over the bound are told."""
    all_in = crowd(max_clients=CROWD + 4)
    rude = all_in.rude(CROWD)
    wait_until(
        lambda: all_in.clients() == CROWD + 4,
        20, "all are connected",
    )
    all_in.serve(f"{CROWD} idle clients")
    more = all_in.rude(50)
    for sock in more:
        assert b'"too-many-clients"' in read_all(sock)
    assert all_in.counted("too-many-clients") == 50
    told = re.findall("a client is refused: .*", all_in.daemon.output())
    assert 1 <= len(told) < 5
    all_in.check_memory(f"{CROWD} idle clients", SLACK)
    rude.pop().close()
    wait_until(
        lambda: all_in.clients() == CROWD + 3,
        10, "a place becomes free",
    )
    late, = all_in.rude(1)
    late.send(b'{"topic":"t","id":"late"}\n')
    late.shutdown(socket.SHUT_WR)
    assert b'"queued"' in read_all(late)


def test_short_half_lines(crowd):
    """Less than 4 KiB of a line may stay for ever; all others go on."""
    bad = crowd(max_buffered_bytes="2M", max_clients=CROWD + 10)
    rude = bad.rude(CROWD)
    for sock in rude:
        assert pour(sock, START + b"x" * 3000) > 3000
    bad.serve(f"{CROWD} short half lines")
    bad.serve(f"{CROWD} short half lines", 5, LONG)
    # The daemon has room of its own for so much of each.
    bad.check_memory(
        f"{CROWD} short half lines", 2 * MIB + CROWD * 10000 + SLACK
    )
    rude[0].sendall(b'"}\n')
    rude[0].setblocking(True)
    assert b'"queued"' in rude[0].recv(1000)


@pytest.mark.long
def test_long_half_lines(crowd, measured):
    """Those who have taken all the room and do not go on lose it when it is
    needed; short lines do not even notice."""
    bad = crowd(max_buffered_bytes="4M")
    rude = bad.rude(100)
    for sock in rude:
        assert pour(sock, START + b"x" * LONG) > LONG
    bad.serve("100 long half lines")
    bad.serve("100 long half lines", 5, LONG)
    for sock in rude[5:]:
        sock.close()
    # One that is longer than a socket holds needs room for all of it.
    begin = time.monotonic()
    with Client(bad.daemon.socket_path, timeout=60) as client:
        reply = client.ask(START + b"x" * 900_000 + b'"}')
        assert reply["status"] == "queued"
    measured(
        "a line of 900 kB behind half lines that took all room: served after"
        f" {time.monotonic() - begin:.1f} s"
    )
    bad.check_memory("100 long half lines", 5 * MIB + SLACK)
    bad.daemon.wait_output("line is not complete after 10 seconds")
    cut = bad.counted("too-large")
    assert 1 <= cut <= 5
    ready, _, _ = select.select(rude[:5], [], [], 10)
    assert b'"too-large"' in read_all(ready[0])


def test_megabytes_without_an_end(crowd):
    """Each is told, and closed; nobody else is."""
    bad = crowd(max_message_bytes="256K", max_buffered_bytes="4M")
    rude = bad.rude(30)
    data = b"x" * MIB
    left = {sock: 4 * MIB for sock in rude}
    ended = 0
    while left:
        _, writable, _ = select.select([], list(left), [], 20)
        assert writable
        for sock in writable:
            try:
                left[sock] -= pour(sock, data[:left[sock]])
            except ConnectionError:
                left[sock] = 0
            if left[sock] <= 0:
                del left[sock]
                ended += 1
                if ended % 10 == 0:
                    bad.serve(f"{ended} floods without an end", 2)
    for sock in rude:
        assert b'"too-large"' in read_all(sock)
    bad.serve("after 30 floods without an end", 5, LONG)
    assert bad.counted("too-large") == 30
    bad.check_memory("30 floods without an end", 5 * MIB + SLACK)


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "count, line, rounds, neighbours",
    [
        (200, b"x\n", 5, 4),
        (40, b'{"topic":"t","id":1}\n', 5, 4),
        # They fill the room; a long line waits until some are cut off.
        (200, b'{"topic":"t","id":"' + b"x" * LONG + b'"}\n', 1, 1),
    ],
    ids=["faults", "lines", "long-ids"],
)
def test_readers_that_never_read(crowd, count, line, rounds, neighbours):
    """Replies take bounded room, and nobody waits for ever for those who read
    none."""
    bad = crowd(max_buffered_bytes="2M")
    block = line * max(1, 65536 // len(line))
    rude = bad.rude(count)
    open_ended = {sock: 0 for sock in rude}
    taken = 0
    # Until all are stuck, each with its socket full.
    while open_ended:
        _, writable, _ = select.select([], list(open_ended), [], 0.5)
        if not writable:
            break
        for sock in writable:
            offset = open_ended[sock]
            sent = pour(sock, block[offset:])
            taken += sent
            open_ended[sock] = (offset + sent) % len(block)
    assert taken < 400 * MIB
    bad.serve(f"{count} that read no replies")
    bad.serve(f"{count} that read no replies", rounds, LONG, neighbours)
    # Besides the bound: room of each client's own.
    bad.check_memory(
        f"{count} that read no replies", 2 * MIB + count * 24000 + SLACK
    )
    # One wakes up, and gets what it has asked for.
    rude[0].setblocking(True)
    rude[0].settimeout(20)
    assert rude[0].recv(1000).startswith(b'{"id":')


def test_connect_storm(crowd):
    """Thousands that connect and are gone again, with and without a word."""
    bad = crowd(max_clients=64)
    stop = threading.Event()
    connected = []

    def storm(number):
        count = 0
        while not stop.is_set():
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                sock.connect(str(bad.daemon.socket_path))
                if count % 3 == number:
                    sock.send(b'{"topic":"storm"')
            except OSError:
                pass
            sock.close()
            count += 1
        connected.append(count)

    threads = [
        threading.Thread(target=storm, args=(number,)) for number in range(3)
    ]
    for thread in threads:
        thread.start()
    try:
        # Most of these are left over from turn to turn.
        many = b"".join(
            encode({"topic": "t", "id": number}) for number in range(5000)
        )
        bad.good[0].send(many)
        replies = bad.good[0].replies(5000, timeout=60)
        assert [reply["id"] for reply in replies] == list(range(5000))
        bad.serve("a storm of connections")
        assert bad.clients() <= 64
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    bad.check_memory(f"a storm of {sum(connected)} connections", SLACK)
    wait_until(
        lambda: bad.clients() == len(bad.good),
        20, "those who are gone are forgotten",
    )


def test_many_short_connections(crowd):
    """Each with a line: all of them are in the queue."""
    bad = crowd()
    before = bad.queued()
    for _ in range(STORM):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.connect(str(bad.daemon.socket_path))
        sock.send(b'{"topic":"storm"}\n')
        sock.close()
    wait_until(
        lambda: bad.queued() == before + STORM,
        30, "all lines are in the queue",
    )
    bad.serve(f"after {STORM} connections with a line each")
    bad.check_memory(f"{STORM} connections with a line each", SLACK)


def test_no_descriptors_left(crowd):
    """Who is connected is served; who is not waits, and is let in later."""
    bad = crowd()
    pid = bad.daemon.process.pid
    used = max(map(int, os.listdir(f"/proc/{pid}/fd")))
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (used + 6, before[1]))
    rude = bad.rude(40)
    bad.daemon.wait_output("cannot accept a client: Too many open files")
    bad.serve("no descriptors left")
    late = bad.rude(1)[0]
    late.send(b'{"topic":"t","id":"late"}\n')
    assert not select.select([late], [], [], 0)[0]
    told = re.findall("cannot accept a client", bad.daemon.output())
    assert len(told) == 1
    for sock in rude:
        sock.close()
    late.setblocking(True)
    late.settimeout(30)
    assert b'"queued"' in late.recv(1000)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
    bad.serve("descriptors are back")
    bad.check_memory("no descriptors left", SLACK)


def test_max_rate(crowd):
    """One that sends too fast is slowed down, not refused; others are not."""
    bad = crowd(max_rate=500, max_inflight_bytes="16K")
    with Client(bad.daemon.socket_path, timeout=60) as fast:
        begin = time.monotonic()
        fast.send(b"".join(
            encode({"topic": "t", "id": number}) for number in range(1000)
        ))
        bad.serve("one at 500 lines a second", 10)
        replies = fast.replies(1000)
        took = time.monotonic() - begin
    assert [reply["status"] for reply in replies] == ["queued"] * 1000
    assert took > 0.95, "a second's lines at once, the others after that"
