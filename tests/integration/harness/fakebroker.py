# SPDX-License-Identifier: MIT
"""A broker that does what a test scripts, to the byte.

A script is a function that is given a connection, in a thread of its
own::

    def refuse(conn):
        conn.expect_connect()
        conn.connack(code=5)
        conn.close()

    broker = FakeBroker(refuse, serve)      # first, then all others

What a script asserts wrongly, or what the peer does against the standard,
is raised again by ``FakeBroker.close()``.
"""

import errno
import socket
import ssl
import struct
import threading
import time
from typing import Any, Callable, Dict, List, NamedTuple, Optional

from . import mqttwire as wire
from .ports import LOOPBACK
from .waiting import TIME_FACTOR, Deadline, wait_until


class Ended(Exception):
    """The peer is gone; a script may let it pass."""


class Delivered(NamedTuple):
    """A message the broker has taken over, and when (monotonic clock)."""

    topic: str
    payload: bytes
    qos: int
    retain: bool
    dup: bool
    connection: int
    properties: Dict[str, Any]
    time_ns: int


class Session:
    """What a broker keeps of a client: QoS 2 messages not released yet."""

    def __init__(self) -> None:
        self.unreleased: Dict[int, wire.Publish] = {}


class Connection:
    """One accepted connection, driven by a script."""

    def __init__(
        self, broker: "FakeBroker", sock: socket.socket, number: int
    ) -> None:
        self.broker = broker
        self.number = number
        self.version = wire.V311
        self.connect: Optional[wire.Connect] = None
        self.session = Session()
        self.received: List[wire.Packet] = []
        self.accepted = time.monotonic()
        self._socket = sock
        self._data = b""

    def secure(self, context: ssl.SSLContext) -> None:
        """Shake hands."""
        try:
            self._socket = context.wrap_socket(
                self._socket, server_side=True
            )
        except OSError as error:
            raise Ended(str(error)) from None

    # --- reading ---

    def _packet(self, timeout: float) -> Any:
        """The next packet as (kind, flags, body)."""
        end = time.monotonic() + timeout * TIME_FACTOR
        while True:
            packet, self._data = wire.split(self._data)
            if packet:
                return packet
            left = end - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"no packet within {timeout:g} s")
            self._socket.settimeout(min(left, 0.1))
            try:
                data = self._socket.recv(65536)
            except socket.timeout:
                if self.broker.stopping:
                    raise Ended("the broker is closed") from None
                continue
            except OSError as error:
                raise Ended(str(error)) from None
            if not data:
                raise Ended("closed by the peer")
            self._data += data

    def read(self, timeout: float = 20.0) -> wire.Packet:
        """The next packet, parsed."""
        kind, flags, body = self._packet(timeout)
        if kind == wire.CONNECT:
            raise wire.ProtocolError("a second CONNECT")
        packet = wire.parse(self.version, kind, flags, body)
        self.received.append(packet)
        return packet

    def expect(self, kind: int, timeout: float = 20.0) -> Any:
        """The next packet that is no PINGREQ; it must be of this kind."""
        while True:
            packet = self.read(timeout)
            if packet.kind == wire.PINGREQ and kind != wire.PINGREQ:
                self.send(wire.frame(wire.PINGRESP, 0, b""))
                continue
            if packet.kind != kind:
                raise wire.ProtocolError(
                    f"{packet.name} instead of {wire.NAMES[kind]}"
                )
            return packet

    def expect_connect(self, timeout: float = 20.0) -> wire.Connect:
        kind, flags, body = self._packet(timeout)
        if kind != wire.CONNECT:
            raise wire.ProtocolError(
                f"{wire.NAMES[kind]} instead of CONNECT"
            )
        self.connect = wire.parse_connect(flags, body)
        self.version = self.connect.version
        self.broker.connects.append(self.connect)
        return self.connect

    # --- writing ---

    def send(self, data: bytes) -> None:
        try:
            self._socket.settimeout(20.0 * TIME_FACTOR)
            self._socket.sendall(data)
        except OSError as error:
            raise Ended(str(error)) from None

    def connack(
        self,
        code: int = 0,
        session_present: Optional[bool] = None,
        **properties: Any,
    ) -> None:
        """Answer the CONNECT; an accepted one gets its session.

        Without ``session_present`` the answer is what a broker that keeps
        sessions would say; False forgets what was kept.
        """
        assert self.connect is not None, "CONNACK without CONNECT"
        if code == 0:
            known = self.broker.open_session(self, session_present)
            session_present = known
        self.send(
            wire.connack(
                self.version, code, bool(session_present), properties
            )
        )

    def acknowledge(self, kind: int, mid: int, reason: int = 0) -> None:
        self.send(wire.acknowledgement(self.version, kind, mid, reason))

    def puback(self, mid: int, reason: int = 0) -> None:
        self.acknowledge(wire.PUBACK, mid, reason)

    def pubrec(self, mid: int, reason: int = 0) -> None:
        self.acknowledge(wire.PUBREC, mid, reason)

    def pubcomp(self, mid: int, reason: int = 0) -> None:
        self.acknowledge(wire.PUBCOMP, mid, reason)

    def disconnect(self, reason: int = 0) -> None:
        self.send(wire.disconnect(self.version, reason))

    def cut(self) -> None:
        """End it from another thread; the script sees the peer gone."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def finish(self) -> None:
        """End what is written here and wait for the peer's end.

        Closing while the peer still sends would be answered with RST, and
        what was written last would be lost on the way.
        """
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            return
        self._socket.settimeout(0.1)
        end = time.monotonic() + 10.0 * TIME_FACTOR
        while time.monotonic() < end and not self.broker.stopping:
            try:
                if not self._socket.recv(65536):
                    return
            except socket.timeout:
                continue
            except OSError:
                return

    def close(self, rst: bool = False) -> None:
        if rst:
            # Linger of zero seconds: close() answers with RST.
            self._socket.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
        self._socket.close()

    # --- behaving well ---

    def take(self, packet: wire.Packet) -> None:
        """Do with one packet what a broker does."""
        if packet.kind == wire.PUBLISH:
            assert isinstance(packet, wire.Publish)
            self._take_publish(packet)
        elif packet.kind == wire.PUBREL:
            publish = self.session.unreleased.pop(packet.mid, None)
            if publish:
                self.broker.deliver(self, publish)
                self.pubcomp(packet.mid)
            else:
                # 0x92: packet identifier not found.
                self.pubcomp(packet.mid, 0x92)
        elif packet.kind == wire.PINGREQ:
            self.send(wire.frame(wire.PINGRESP, 0, b""))
        elif packet.kind == wire.DISCONNECT:
            self.broker.disconnects.append(packet)
            raise Ended("DISCONNECT")
        else:
            raise wire.ProtocolError(f"unexpected {packet.name}")

    def _take_publish(self, publish: wire.Publish) -> None:
        if publish.qos == 0:
            self.broker.deliver(self, publish)
        elif publish.qos == 1:
            self.broker.deliver(self, publish)
            self.puback(publish.mid)
        else:
            # A second PUBLISH on the identifier is the same message.
            self.session.unreleased.setdefault(publish.mid, publish)
            self.pubrec(publish.mid)

    def serve(
        self,
        until: Optional[Callable[[], bool]] = None,
        timeout: float = 600.0,
    ) -> None:
        """Behave well until the peer leaves, or ``until()`` is true."""
        while not (until and until()):
            self.take(self.read(timeout))


Script = Callable[[Connection], None]


def serve(conn: Connection) -> None:
    """The script of a good broker."""
    conn.expect_connect()
    accept(conn)


def accept(conn: Connection) -> None:
    """The rest of it, when the CONNECT has been read."""
    conn.connack()
    conn.serve()


class OnLasting:
    """A script that passes over connections that only clear a session.

    The n-th connection whose session lasts gets the n-th body, the last
    body serves all further ones. A body finds the CONNECT read already.
    """

    def __init__(self, *bodies: Script) -> None:
        self.bodies = list(bodies)
        self.count = 0

    def __call__(self, conn: Connection) -> None:
        connect = conn.expect_connect()
        if not connect.lasting:
            accept(conn)
            return
        body = self.bodies[min(self.count, len(self.bodies) - 1)]
        self.count += 1
        body(conn)


class FakeBroker:
    """Listens on a loopback port; the n-th connection gets the n-th script.

    The last script serves all further connections. With ``tls`` it shakes
    hands first.
    """

    def __init__(
        self, *scripts: Script, tls: Optional[ssl.SSLContext] = None
    ) -> None:
        self.scripts: List[Script] = list(scripts) or [serve]
        self._tls = tls
        self.connects: List[wire.Connect] = []
        self.disconnects: List[wire.Packet] = []
        self.delivered: List[Delivered] = []
        self.connections: List[Connection] = []
        self.errors: List[BaseException] = []
        self.stopping = False
        self._sessions: Dict[str, Session] = {}
        self._lock = threading.Lock()
        self._threads: List[threading.Thread] = []
        self.port = 0
        self._is_up = False
        self.up()

    def up(self) -> None:
        """Listen, always on the same port. A new broker is up."""
        self._listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._listener.setsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
        )
        self._bind()
        self.port = self._listener.getsockname()[1]
        self._listener.listen(64)
        self._listener.settimeout(0.05)
        self._is_up = True
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()

    def _bind(self) -> None:
        """Somebody's connection may have borrowed the port meanwhile."""
        deadline = Deadline(10.0)
        while True:
            try:
                self._listener.bind((LOOPBACK, self.port))
                return
            except OSError as error:
                if error.errno != errno.EADDRINUSE or deadline.passed():
                    raise
                time.sleep(0.05)

    def down(self) -> None:
        """Refuse connections and end those there are; forget nothing."""
        self._is_up = False
        self._acceptor.join()
        self._listener.close()
        for conn in list(self.connections):
            conn.cut()

    def _accept(self) -> None:
        while self._is_up:
            try:
                sock, _ = self._listener.accept()
            except socket.timeout:
                continue
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            number = len(self.connections)
            conn = Connection(self, sock, number)
            self.connections.append(conn)
            script = self.scripts[min(number, len(self.scripts) - 1)]
            thread = threading.Thread(
                target=self._run, args=(script, conn), daemon=True
            )
            self._threads.append(thread)
            thread.start()

    def _run(self, script: Script, conn: Connection) -> None:
        try:
            if self._tls:
                conn.secure(self._tls)
            script(conn)
        except Ended:
            pass
        except BaseException as error:
            if not self.stopping:
                self.errors.append(error)
        finally:
            conn.close()

    # --- what connections report ---

    def open_session(
        self, conn: Connection, present: Optional[bool]
    ) -> bool:
        """Give the connection its session; returns whether it was known."""
        assert conn.connect is not None
        client_id = conn.connect.client_id
        with self._lock:
            known = client_id in self._sessions
            if conn.connect.clean or present is False:
                self._sessions.pop(client_id, None)
                known = False
            session = self._sessions.setdefault(client_id, Session())
            if conn.version == wire.V311 and conn.connect.clean:
                # Ends with its connection.
                self._sessions.pop(client_id)
            conn.session = session
        return known if present is None else present

    def deliver(self, conn: Connection, publish: wire.Publish) -> None:
        """The broker takes the message over, before it says so."""
        with self._lock:
            self.delivered.append(
                Delivered(
                    publish.topic,
                    publish.payload,
                    publish.qos,
                    publish.retain,
                    publish.dup,
                    conn.number,
                    publish.properties,
                    time.monotonic_ns(),
                )
            )

    # --- what tests ask ---

    def payloads(self) -> List[bytes]:
        with self._lock:
            return [message.payload for message in self.delivered]

    def lasting(self) -> List[Connection]:
        """The connections whose session lasts, in order."""
        return [c for c in self.connections if c.connect and c.connect.lasting]

    def wait_delivered(
        self, count: int, timeout: float = 20.0
    ) -> List[Delivered]:
        """Wait until the broker has taken over ``count`` messages."""
        self._wait(
            lambda: len(self.delivered) >= count,
            timeout,
            f"{count} messages at the broker, got {len(self.delivered)}",
        )
        with self._lock:
            return list(self.delivered)

    def wait_connections(self, count: int, timeout: float = 20.0) -> None:
        """Wait until ``count`` CONNECT packets have been read."""
        self._wait(
            lambda: len(self.connects) >= count,
            timeout,
            f"{count} CONNECT packets",
        )

    def _wait(
        self, condition: Callable[[], bool], timeout: float, what: str
    ) -> None:
        def look() -> bool:
            self.check()
            return condition()

        wait_until(look, timeout, what)

    def check(self) -> None:
        """Raise what a script raised."""
        if self.errors:
            raise self.errors[0]

    def close(self) -> None:
        """End all connections; raises what a script raised."""
        self.stopping = True
        self._is_up = False
        self._listener.close()
        self._acceptor.join()
        for thread in self._threads:
            thread.join(30.0 * TIME_FACTOR)
        self.check()


__all__ = [
    "Connection", "Delivered", "Ended", "FakeBroker", "OnLasting",
    "Session", "accept", "serve",
]
