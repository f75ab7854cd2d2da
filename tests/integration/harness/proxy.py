# SPDX-License-Identifier: MIT
"""A TCP proxy that breaks connections on command.

"up" is the way from the client to the target, "down" the way back.
"""

import selectors
import socket
import struct
import threading
from typing import Callable, Dict, List, Optional

from .ports import LOOPBACK
from .waiting import TIME_FACTOR

#: A side that is this far ahead is not read from.
HIGH_WATER = 1 << 20

UP = "up"
DOWN = "down"


class _Way:
    """One direction of a pair: bytes read from a side for the other."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.data = bytearray()
        self.ended = False
        self.closed = False


class _Pair:
    """A client's connection and the one to the target."""

    def __init__(self, client: socket.socket, target: socket.socket) -> None:
        self.client = client
        self.target = target
        self.ways = {client: _Way(UP), target: _Way(DOWN)}

    def other(self, side: socket.socket) -> socket.socket:
        return self.target if side is self.client else self.client

    def sockets(self) -> List[socket.socket]:
        return [self.client, self.target]


class Proxy:
    """Forwards from a port of its own to the target's port.

    All commands take effect before they return.
    """

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.accepted = 0
        self.cuts = 0
        self._pairs: List[_Pair] = []
        self._stalled = {UP: False, DOWN: False}
        self._allowance: Dict[str, Optional[int]] = {UP: None, DOWN: None}
        self._allowance_rst = True
        self._selector = selectors.DefaultSelector()
        self._listener: Optional[socket.socket] = None
        self.port = 0
        self._listen()
        self._commands: List[Callable[[], None]] = []
        self._lock = threading.Lock()
        self._waker, self._wakee = socket.socketpair()
        self._waker.setblocking(False)
        self._wakee.setblocking(False)
        self._selector.register(self._wakee, selectors.EVENT_READ, None)
        self._done = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    # --- commands, from any thread ---

    def cut(self, rst: bool = True) -> int:
        """End all connections, by RST or FIN; returns how many."""
        count: List[int] = []
        self._call(lambda: count.append(self._cut_all(rst)))
        return count[0]

    def refuse(self) -> None:
        """End all connections and stop listening."""

        def command() -> None:
            self._cut_all(True)
            self._unlisten()

        self._call(command)

    def stall(self, up: bool = True, down: bool = True) -> None:
        """Forward nothing in these directions; connections stay open."""

        def command() -> None:
            self._stalled = {UP: up, DOWN: down}

        self._call(command)

    def cut_after(self, way: str, count: int, rst: bool = True) -> None:
        """End all connections when ``count`` more bytes have passed."""

        def command() -> None:
            self._allowance[way] = count
            self._allowance_rst = rst

        self._call(command)

    def resume(self) -> None:
        """Back to forwarding, and to listening."""

        def command() -> None:
            self._stalled = {UP: False, DOWN: False}
            self._allowance = {UP: None, DOWN: None}
            if self._listener is None:
                self._listen()

        self._call(command)

    def connections(self) -> int:
        count: List[int] = []
        self._call(lambda: count.append(len(self._pairs)))
        return count[0]

    def close(self) -> None:
        if self._done:
            return

        def command() -> None:
            self._cut_all(True)
            self._unlisten()
            self._done = True

        self._call(command)
        self._thread.join()
        self._selector.close()
        self._waker.close()
        self._wakee.close()

    def _call(self, command: Callable[[], None]) -> None:
        """Run the command in the proxy's thread and wait for its end."""
        done = threading.Event()

        def run() -> None:
            command()
            done.set()

        with self._lock:
            self._commands.append(run)
        try:
            self._waker.send(b"x")
        except BlockingIOError:
            pass
        assert done.wait(10.0 * TIME_FACTOR), "the proxy does not answer"

    # --- the proxy's thread ---

    def _listen(self) -> None:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((LOOPBACK, self.port))
        listener.listen(64)
        listener.setblocking(False)
        self.port = listener.getsockname()[1]
        self._selector.register(listener, selectors.EVENT_READ, None)
        self._listener = listener

    def _unlisten(self) -> None:
        if self._listener is not None:
            self._selector.unregister(self._listener)
            self._listener.close()
            self._listener = None

    def _run(self) -> None:
        while not self._done:
            self._watch()
            for key, events in self._selector.select():
                if key.fileobj is self._wakee:
                    self._wakee.recv(4096)
                elif key.fileobj is self._listener:
                    self._accept()
                elif key.data in self._pairs:
                    self._move(key.data, key.fileobj, events)
            with self._lock:
                commands, self._commands = self._commands, []
            for command in commands:
                command()

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            client, _ = self._listener.accept()
        except BlockingIOError:
            return
        target = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        if target.connect_ex((LOOPBACK, self.target_port)) != 0:
            # As if the target itself had refused.
            target.close()
            self._abort(client)
            return
        for side in (client, target):
            side.setblocking(False)
            side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._pairs.append(_Pair(client, target))
        self.accepted += 1

    def _watch(self) -> None:
        """Tell the selector what each side waits for now."""
        for pair in self._pairs:
            for side in pair.sockets():
                inward = pair.ways[side]
                outward = pair.ways[pair.other(side)]
                events = 0
                if (not inward.ended and not self._stalled[inward.name]
                        and len(inward.data) < HIGH_WATER):
                    events |= selectors.EVENT_READ
                if outward.data and not self._stalled[outward.name]:
                    events |= selectors.EVENT_WRITE
                self._set_events(side, events, pair)

    def _set_events(
        self, side: socket.socket, events: int, pair: _Pair
    ) -> None:
        try:
            key = self._selector.get_key(side)
        except KeyError:
            if events:
                self._selector.register(side, events, pair)
            return
        if not events:
            self._selector.unregister(side)
        elif key.events != events:
            self._selector.modify(side, events, pair)

    def _move(self, pair: _Pair, side: socket.socket, events: int) -> None:
        """Read from the side, or write to it, what is possible."""
        if events & selectors.EVENT_READ:
            way = pair.ways[side]
            try:
                data = side.recv(65536)
            except BlockingIOError:
                data = None
            except OSError:
                self._end(pair, True)
                return
            if data == b"":
                way.ended = True
            elif data:
                way.data += data
            self._flush(pair, side)
        if events & selectors.EVENT_WRITE and pair in self._pairs:
            self._flush(pair, pair.other(side))

    def _flush(self, pair: _Pair, source: socket.socket) -> None:
        """Write what was read from ``source`` to the other side."""
        way = pair.ways[source]
        sink = pair.other(source)
        if self._stalled[way.name]:
            return
        if way.data:
            allowance = self._allowance[way.name]
            limit = len(way.data) if allowance is None else allowance
            try:
                sent = sink.send(way.data[:limit])
            except BlockingIOError:
                return
            except OSError:
                self._end(pair, True)
                return
            del way.data[:sent]
            if allowance is not None:
                self._allowance[way.name] = allowance - sent
                if allowance == sent:
                    self._allowance[way.name] = None
                    self._cut_all(self._allowance_rst)
                    return
        if way.ended and not way.data and not way.closed:
            way.closed = True
            try:
                sink.shutdown(socket.SHUT_WR)
            except OSError:
                pass
            if all(each.closed for each in pair.ways.values()):
                self._end(pair, False)

    def _cut_all(self, rst: bool) -> int:
        count = len(self._pairs)
        for pair in list(self._pairs):
            self._end(pair, rst)
        self.cuts += count
        return count

    def _end(self, pair: _Pair, rst: bool) -> None:
        self._pairs.remove(pair)
        for side in pair.sockets():
            try:
                self._selector.unregister(side)
            except KeyError:
                pass
            if rst:
                self._abort(side)
            else:
                side.close()

    @staticmethod
    def _abort(side: socket.socket) -> None:
        side.setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )
        side.close()
