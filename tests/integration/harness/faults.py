# SPDX-License-Identifier: MIT
"""A bad link: stalls, half-open connections, black holes, slow lines.

Where harness/proxy.py breaks connections at a given byte, this one is bad in
the way networks are. Its own buffers are small, so that a link that stands
still is felt at its ends after a few kilobytes. "up" is the way from the
client to the target, "down" the way back.
"""

import asyncio
import socket
import struct
import threading
from collections import deque
from typing import Any, Callable, Deque, Dict, List, Optional, Set, Tuple

from .ports import LOOPBACK
from .waiting import TIME_FACTOR

UP = "up"
DOWN = "down"

#: Asked of the kernel for each socket, bytes each way; it doubles them.
BUFFER = 8192
#: Segments as on Ethernet: the loopback's are larger than those buffers.
SEGMENT = 1400
#: Bytes that move at once.
CHUNK = 1400


class _Way:
    """One direction of the link; all connections share what it can carry."""

    def __init__(self) -> None:
        #: Clear while the link stands still.
        self.open = asyncio.Event()
        self.open.set()
        self.bytes_per_second: Optional[float] = None
        self.delay = 0.0
        #: When the bytes sent so far have left, in the loop's time.
        self.busy_until = 0.0

    async def transmit(self, size: int) -> float:
        """Wait until so many bytes have left; returns when they arrive."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        if self.bytes_per_second:
            begin = max(now, self.busy_until)
            self.busy_until = begin + size / self.bytes_per_second
            await asyncio.sleep(self.busy_until - now)
            now = loop.time()
        return now + self.delay


class _Connection:
    """A client's connection and the one to the target.

    A ghost goes on reading but nothing it reads arrives anywhere.
    """

    def __init__(self, client: socket.socket, target: socket.socket) -> None:
        self.client = client
        self.target = target
        self.ghost = False
        self.tasks: List["asyncio.Task[None]"] = []


class Link:
    """Forwards from a port of its own to the target's port.

    All commands take effect before they return.
    """

    def __init__(self, target_port: int, buffer: int = BUFFER) -> None:
        self.target_port = target_port
        self.buffer = buffer
        self.port = 0
        #: Connections to the target so far, and those taken in silence.
        self.accepted = 0
        self.ignored = 0
        self._connections: Set[_Connection] = set()
        self._silent: List[socket.socket] = []
        self._fillers: List[socket.socket] = []
        self._mute = False
        self._listener: Optional[socket.socket] = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, daemon=True
        )
        self._thread.start()
        self._closed = False
        self._call(self._begin)

    # --- commands, from any thread ---

    def stall(self, up: bool = True, down: bool = True) -> None:
        """Nothing moves in these directions; nothing is lost either."""

        def command() -> None:
            for name, still in ((UP, up), (DOWN, down)):
                if still:
                    self._ways[name].open.clear()
                else:
                    self._ways[name].open.set()

        self._call(command)

    def half_open(self) -> int:
        """The far end of all connections vanishes, without a FIN or RST.

        New connections work. Returns how many vanished.
        """

        def command() -> int:
            for connection in self._connections:
                connection.ghost = True
            return len(self._connections)

        return self._call(command)

    def reset(self) -> int:
        """End all connections by RST; returns how many."""

        def command() -> int:
            count = len(self._connections)
            for connection in list(self._connections):
                self._end(connection)
            return count

        return self._call(command)

    def refuse(self) -> None:
        """End all connections; new ones meet a closed port."""

        def command() -> None:
            self._unlisten()
            for connection in list(self._connections):
                self._end(connection)

        self._call(command)

    def mute(self) -> None:
        """New connections are taken and never served; old ones: RST."""

        def command() -> None:
            self._mute = True
            for connection in list(self._connections):
                self._end(connection)

        self._call(command)

    def black_hole(self) -> None:
        """Nothing arrives any more, of new connections not even the SYN.

        The kernel drops a SYN when the listener's queue is full.
        """

        def command() -> None:
            for connection in self._connections:
                connection.ghost = True
            if self._listener is not None:
                self._loop.remove_reader(self._listener)
                self._fill(self._listener)

        self._call(command)

    def slow(
        self, bits_per_second: Optional[float], round_trip: float = 0.0
    ) -> None:
        """So much each way, and so many seconds there and back."""

        def command() -> None:
            for way in self._ways.values():
                way.delay = round_trip / 2
                way.bytes_per_second = (
                    bits_per_second / 8 if bits_per_second else None
                )

        self._call(command)

    def heal(self) -> None:
        """Back to a good link; what has vanished stays so."""

        def command() -> None:
            self._mute = False
            for way in self._ways.values():
                way.open.set()
                way.delay, way.bytes_per_second = 0.0, None
            for sock in self._silent:
                self._abort(sock)
            self._silent.clear()
            if self._fillers:
                # Whoever got into the queue meanwhile goes with it.
                self._unlisten()
                for sock in self._fillers:
                    sock.close()
                self._fillers.clear()
            if self._listener is None:
                self._listen()

        self._call(command)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self.heal()

        async def end() -> None:
            self._unlisten()
            tasks = [t for c in self._connections for t in c.tasks]
            for connection in list(self._connections):
                self._end(connection)
            await asyncio.gather(*tasks, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(
            10.0 * TIME_FACTOR
        )
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _call(self, command: Callable[[], Any]) -> Any:
        """Run the command in the link's thread and wait for its end."""

        async def run() -> Any:
            return command()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(
            10.0 * TIME_FACTOR
        )

    # --- the link's thread ---

    def _begin(self) -> None:
        self._ways: Dict[str, _Way] = {UP: _Way(), DOWN: _Way()}
        self._listen()

    def _socket(self) -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            made.setsockopt(socket.SOL_SOCKET, option, self.buffer)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SEGMENT)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        made.setblocking(False)
        return made

    def _listen(self) -> None:
        listener = self._socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((LOOPBACK, self.port))
        listener.listen(64)
        self.port = listener.getsockname()[1]
        self._loop.add_reader(listener, self._accept, listener)
        self._listener = listener

    def _unlisten(self) -> None:
        if self._listener is not None:
            self._loop.remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    def _fill(self, listener: socket.socket) -> None:
        """Make the queue short and fill it."""
        listener.listen(0)
        for _ in range(4):
            filler = self._socket()
            filler.connect_ex((LOOPBACK, self.port))
            self._fillers.append(filler)

    def _accept(self, listener: socket.socket) -> None:
        try:
            client, _ = listener.accept()
        except BlockingIOError:
            return
        client.setblocking(False)
        if self._mute:
            self.ignored += 1
            self._silent.append(client)
            return
        target = self._socket()
        target.setblocking(True)
        if target.connect_ex((LOOPBACK, self.target_port)) != 0:
            # As if the target itself had refused.
            target.close()
            self._abort(client)
            return
        target.setblocking(False)
        self.accepted += 1
        connection = _Connection(client, target)
        self._connections.add(connection)
        for way, source, sink in (
            (self._ways[UP], client, target),
            (self._ways[DOWN], target, client),
        ):
            on_its_way: Deque[Tuple[float, bytes]] = deque()
            arrived = asyncio.Semaphore(0)
            for coroutine in (
                self._take(connection, way, source, on_its_way, arrived),
                self._give(connection, way, sink, on_its_way, arrived),
            ):
                connection.tasks.append(self._loop.create_task(coroutine))

    async def _take(
        self, connection: _Connection, way: _Way, source: socket.socket,
        on_its_way: Deque[Tuple[float, bytes]], queued: asyncio.Semaphore,
    ) -> None:
        """From the near end onto the link."""
        try:
            while True:
                await way.open.wait()
                data = await self._loop.sock_recv(source, CHUNK)
                if connection.ghost:
                    if not data:
                        return
                    continue
                due = await way.transmit(len(data)) if data else 0.0
                on_its_way.append((due, data))
                queued.release()
                if not data:
                    return
        except OSError:
            self._end(connection)

    async def _give(
        self, connection: _Connection, way: _Way, sink: socket.socket,
        on_its_way: Deque[Tuple[float, bytes]], queued: asyncio.Semaphore,
    ) -> None:
        """From the link to the far end."""
        try:
            while True:
                await queued.acquire()
                due, data = on_its_way.popleft()
                await asyncio.sleep(due - self._loop.time())
                await way.open.wait()
                if connection.ghost:
                    continue
                if not data:
                    self._finish(connection, sink)
                    return
                await self._loop.sock_sendall(sink, data)
        except OSError:
            self._end(connection)

    def _finish(self, connection: _Connection, sink: socket.socket) -> None:
        """One side has sent all; with the other's end it is over."""
        sink.shutdown(socket.SHUT_WR)
        others = [t for t in connection.tasks if not t.done()]
        if len(others) <= 1:
            self._end(connection, rst=False)

    def _end(self, connection: _Connection, rst: bool = True) -> None:
        if connection not in self._connections:
            return
        self._connections.remove(connection)
        current = asyncio.current_task()
        for task in connection.tasks:
            if task is not current:
                task.cancel()
        for sock in (connection.client, connection.target):
            self._loop.remove_reader(sock)
            self._loop.remove_writer(sock)
            if rst:
                self._abort(sock)
            else:
                sock.close()

    @staticmethod
    def _abort(sock: socket.socket) -> None:
        sock.setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )
        sock.close()
