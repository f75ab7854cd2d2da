# SPDX-License-Identifier: MIT
"""What went over a TCP connection, asked of the kernel (sock_diag), without touching either end."""

import socket
import struct
import time

from .parts import Trouble, wait_until

SOCK_DIAG_BY_FAMILY = 20
NLM_F_REQUEST, NLM_F_DUMP = 1, 0x300
INET_DIAG_INFO = 2
ESTABLISHED = 1
HEADER = struct.Struct("=IHHII")
REQUEST = struct.Struct("=BBBBI")
PORTS = struct.Struct("!HH")
BYTES_ACKED = 120  # in struct tcp_info; bytes_received follows


class Connection:
    """The established connection from this machine to `port` on 127.0.0.1, once there is one."""

    def __init__(self, port, seconds=60.0, check=lambda: None):
        self.netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 4)
        try:
            self.id = wait_until(
                lambda: check() or self._find(port), seconds, "a connection to the broker", 0.002
            )
        except Exception:
            self.close()
            raise

    def close(self):
        self.netlink.close()

    def _ask(self, identity, flags):
        body = REQUEST.pack(socket.AF_INET, socket.IPPROTO_TCP, 1 << (INET_DIAG_INFO - 1), 0,
                            1 << ESTABLISHED) + identity
        self.netlink.send(
            HEADER.pack(HEADER.size + len(body), SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | flags, 1, 0)
            + body
        )
        while True:
            data = self.netlink.recv(65536)
            at = 0
            while at + HEADER.size <= len(data):
                length, kind, _, _, _ = HEADER.unpack_from(data, at)
                if kind == 3:  # the end of a dump
                    return
                if kind == 2:  # an error: the connection is gone
                    return
                yield data[at + HEADER.size:at + length]
                at += (length + 3) & ~3
            if not flags & NLM_F_DUMP:
                return

    def _find(self, port):
        identity = PORTS.pack(0, port) + bytes(36) + b"\xff" * 8
        found = None
        for message in self._ask(identity, NLM_F_DUMP):
            if message[1] == ESTABLISHED and PORTS.unpack_from(message, 4)[1] == port:
                found = message[4:52]
        return found

    def bytes(self):
        """Bytes that the peer has acknowledged, and that came from it; None when it is gone."""
        for message in self._ask(self.id, 0):
            at = 72
            while at + 4 <= len(message):
                length, kind = struct.unpack_from("=HH", message, at)
                if kind == INET_DIAG_INFO:
                    return struct.unpack_from("=QQ", message, at + 4 + BYTES_ACKED)
                at += (length + 3) & ~3
        return None


class Drained:
    """A drain: how long it took from the first message that left to the last acknowledgement."""

    def __init__(self, seconds, sent, received):
        self.seconds, self.sent, self.received = seconds, sent, received


def watch_drain(daemon, port, messages, payload, still=0.4, limit=300.0, skip=0):
    """Follows the daemon's connection until nothing moves any more and the queue is empty. With
    `skip`, the time begins when so many bytes have come, as counted from the first message."""
    connection = Connection(port, check=daemon.check)
    try:
        start = last = None
        before = (0, 0)
        end = time.monotonic() + limit
        while True:
            now, moved = time.monotonic(), connection.bytes()
            if moved is None and start is None:  # the one that ends an old session
                connection.close()
                connection = Connection(port, check=daemon.check)
                continue
            if moved is None:
                raise Trouble("the daemon lost its connection")
            if start is None and moved[0] > 1000:  # more than a CONNECT
                start = now
                came = moved[1]
            if skip and start and moved[1] - came >= skip:
                start, skip = now, 0
            if moved != before:
                before, last = moved, now
            elif start and now - last > still and daemon.count() == 0:
                break
            if now > end:
                raise Trouble(f"not drained in {limit:.0f} s, {daemon.count()} messages left")
            time.sleep(0.004 if start else 0.001)
    finally:
        connection.close()
    # A PUBACK has four bytes at least.
    if before[0] < messages * payload or before[1] < messages * 4:
        raise Trouble(f"{before[0]} bytes went and {before[1]} came for {messages} messages")
    return Drained(last - start, *before)
