# SPDX-License-Identifier: MIT
"""Local applications: they speak JSON Lines to the daemon's socket."""

import json
import select
import socket
import threading
import time
from pathlib import Path
from typing import (
    Any,
    Callable,
    Dict,
    Iterable,
    List,
    Optional,
    Sequence,
    Set,
    Union,
)

from .waiting import TIME_FACTOR, Deadline

Reply = Dict[str, Any]


def encode(message: Dict[str, Any]) -> bytes:
    """One message as a line."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


class Client:
    """One connection. Sending never waits for replies to be read."""

    def __init__(self, path: Union[str, Path], timeout: float = 20.0) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(timeout * TIME_FACTOR)
        self._socket.connect(str(path))
        self._socket.setblocking(False)
        self.timeout = timeout
        self._input = b""
        self._lines: List[bytes] = []
        self._ended = False

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    # --- sending ---

    def send(self, data: bytes, read: bool = True) -> None:
        """Send all bytes; with ``read``, replies are taken in meanwhile.

        Raises ConnectionError when the other side has closed.
        """
        deadline = Deadline(self.timeout)
        view = memoryview(data)
        while view:
            deadline.check(f"{len(view)} bytes to send are left")
            inputs = [self._socket] if read and not self._ended else []
            readable, writable, _ = select.select(
                inputs, [self._socket], [], deadline.remaining()
            )
            if readable:
                self._take()
            if writable:
                try:
                    view = view[self._socket.send(view):]
                except BlockingIOError:
                    pass

    def send_some(self, data: bytes, patience: float) -> int:
        """Send, never reading, until the daemon takes no more.

        Returns how many bytes were taken; ``patience`` is for how long the
        socket must have been full.
        """
        sent = 0
        while sent < len(data):
            _, writable, _ = select.select([], [self._socket], [], patience)
            if not writable:
                break
            try:
                sent += self._socket.send(data[sent:sent + 65536])
            except BlockingIOError:
                pass
        return sent

    def publish(self, **message: Any) -> None:
        """One message, its keys as in the protocol."""
        self.send(encode(message))

    def shutdown(self) -> None:
        """Nothing more is sent; replies are still read."""
        self._socket.shutdown(socket.SHUT_WR)

    # --- receiving ---

    def _take(self) -> None:
        """Read what is there; the socket is readable."""
        try:
            data = self._socket.recv(262144)
        except BlockingIOError:
            return
        except ConnectionResetError:
            data = b""
        if not data:
            self._ended = True
            return
        *lines, self._input = (self._input + data).split(b"\n")
        self._lines += lines

    def _fill(self, count: Optional[int], timeout: Optional[float]) -> None:
        """Read until there are ``count`` lines, or the end (None)."""
        deadline = Deadline(self.timeout if timeout is None else timeout)
        while count is None or len(self._lines) < count:
            if self._ended:
                break
            deadline.check(
                f"{'end of connection' if count is None else count} lines, "
                f"got {len(self._lines)}: {self._lines[-3:]}"
            )
            ready, _, _ = select.select(
                [self._socket], [], [], deadline.remaining()
            )
            if ready:
                self._take()

    def raw(
        self, count: int = 1, timeout: Optional[float] = None
    ) -> List[bytes]:
        """The next ``count`` reply lines, without their line ends."""
        self._fill(count, timeout)
        if len(self._lines) < count:
            raise ConnectionError(
                f"closed after {len(self._lines)} of {count} lines: "
                f"{self._lines[-3:]}"
            )
        lines, self._lines = self._lines[:count], self._lines[count:]
        return lines

    def replies(
        self, count: int = 1, timeout: Optional[float] = None
    ) -> List[Reply]:
        return [json.loads(line) for line in self.raw(count, timeout)]

    def reply(self, timeout: Optional[float] = None) -> Reply:
        return self.replies(1, timeout)[0]

    def pending(self) -> int:
        """Reply lines that have arrived and were not asked for yet."""
        while not self._ended and select.select([self._socket], [], [], 0)[0]:
            self._take()
        return len(self._lines)

    def until_closed(self, timeout: Optional[float] = None) -> List[Reply]:
        """All lines up to the end of the connection, which must come."""
        self._fill(None, timeout)
        assert not self._input, f"half a line at the end: {self._input!r}"
        lines, self._lines = self._lines, []
        return [json.loads(line) for line in lines]

    # --- both ---

    def ask(self, line: Union[bytes, str, Dict[str, Any]]) -> Reply:
        """Send one line and return the answer to it."""
        if isinstance(line, dict):
            data = encode(line)
        else:
            data = line.encode() if isinstance(line, str) else line
            data = data if data.endswith(b"\n") else data + b"\n"
        self.send(data)
        return self.reply()

    def feed(
        self, messages: Iterable[Dict[str, Any]], chunk: int = 200
    ) -> List[Reply]:
        """Send messages that carry ids, pipelined; return all replies."""
        count = 0
        batch: List[bytes] = []
        for message in messages:
            assert "id" in message
            batch.append(encode(message))
            count += 1
            if len(batch) == chunk:
                self.send(b"".join(batch))
                batch.clear()
        self.send(b"".join(batch))
        return self.replies(count)


def all_queued(replies: Sequence[Reply], ids: Iterable[Any]) -> List[int]:
    """Check that each id was answered `queued`, in order; return the seqs."""
    expected = list(ids)
    bad = [reply for reply in replies if reply.get("status") != "queued"]
    assert not bad, f"{len(bad)} refused, the first: {bad[0]}"
    assert [reply["id"] for reply in replies] == expected
    seqs = [reply["seq"] for reply in replies]
    assert all(a < b for a, b in zip(seqs, seqs[1:])), "seq does not ascend"
    return seqs


class Feeder:
    """Feeds one client's messages in a thread while the test goes on."""

    def __init__(
        self, path: Union[str, Path], messages: Iterable[Dict[str, Any]],
        timeout: float = 120.0,
    ) -> None:
        self._path = path
        self._messages = messages
        self._timeout = timeout
        self._error: Optional[BaseException] = None
        self._replies: List[Reply] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            with Client(self._path, self._timeout) as client:
                self._replies = client.feed(self._messages)
        except (OSError, AssertionError, ValueError) as error:
            self._error = error

    def join(self) -> List[Reply]:
        """Wait for the end of the feed and return all replies."""
        self._thread.join(self._timeout * TIME_FACTOR)
        assert not self._thread.is_alive(), "the feed does not end"
        if self._error:
            raise self._error
        return self._replies


class Producer:
    """Numbered messages at full speed, whatever becomes of the daemon.

    Follows the protocol's rule: a line without a reply was not accepted
    and is sent again on the next connection. ``make(number)`` gives the
    message without its id; the number becomes the id.
    """

    WINDOW = 2000

    def __init__(
        self,
        path: Union[str, Path],
        make: Callable[[int], Dict[str, Any]],
        gate: Optional[Callable[[], int]] = None,
    ) -> None:
        self._path = path
        self._make = make
        self._gate = gate
        self._stop = threading.Event()
        self.answered: Set[int] = set()
        self.refused: List[Reply] = []
        self.sent = 0
        self.connections = 0
        self._error: Optional[BaseException] = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._produce()
        except BaseException as error:
            self._error = error

    def _produce(self) -> None:
        while not self._stop.is_set():
            try:
                client = Client(self._path)
            except OSError:
                time.sleep(0.005)
                continue
            self.connections += 1
            with client:
                self._converse(client)

    def _converse(self, client: Client) -> None:
        """Send from the first unanswered number on until it breaks."""
        # Replies come in order: all numbers below it have been answered.
        number = len(self.answered)
        while not (self._stop.is_set() and number == len(self.answered)):
            try:
                window = len(self.answered) + self.WINDOW
                if self._gate:
                    window = min(window, self._gate())
                if number < window and not self._stop.is_set():
                    batch = [
                        encode({"id": n, **self._make(n)})
                        for n in range(number, min(window, number + 100))
                    ]
                    client.send(b"".join(batch))
                    number += len(batch)
                    self.sent = max(self.sent, number)
                    count = client.pending()
                elif number == len(self.answered):
                    time.sleep(0.002)
                    count = client.pending()
                else:
                    count = max(1, client.pending())
                for reply in client.replies(count):
                    self._note(reply)
            except ConnectionError:
                # The replies that still made it out count as well.
                for line in client.raw(client.pending()):
                    self._note(json.loads(line))
                return

    def _note(self, reply: Reply) -> None:
        if reply.get("status") == "queued":
            self.answered.add(reply["id"])
        else:
            self.refused.append(reply)

    def stop(self, timeout: float = 30.0) -> None:
        """Send nothing new, wait for the replies that are still to come."""
        self._stop.set()
        self._thread.join(timeout * TIME_FACTOR)
        assert not self._thread.is_alive(), "producer does not stop"
        if self._error:
            raise self._error


class Flood:
    """Keeps several connections full of the same line, as fast as it goes.

    The line carries no id, so that nothing slows the senders down but the
    daemon itself.
    """

    def __init__(
        self, path: Union[str, Path], line: bytes, connections: int = 4
    ) -> None:
        self._block = line * max(1, 65536 // len(line))
        self._stop = threading.Event()
        self._sockets = []
        self._threads = []
        for _ in range(connections):
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.settimeout(30.0 * TIME_FACTOR)
            sock.connect(str(path))
            self._sockets.append(sock)
            thread = threading.Thread(
                target=self._run, args=(sock,), daemon=True
            )
            self._threads.append(thread)
            thread.start()

    def _run(self, sock: socket.socket) -> None:
        try:
            while not self._stop.is_set():
                sock.sendall(self._block)
        except OSError:
            pass

    def stop(self) -> None:
        self._stop.set()
        for sock in self._sockets:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        for thread in self._threads:
            thread.join()
        for sock in self._sockets:
            sock.close()
