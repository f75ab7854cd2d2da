# SPDX-License-Identifier: MIT
"""What the tests of mqttgwctl share: running it, a scripted gateway's control
socket, and a real terminal."""

import atexit
import functools
import json
import os
import pty
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import uuid
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List, Optional, Union

from .daemon import SANITIZER_REPORT
from .waiting import TIME_FACTOR, wait_until

Reply = Dict[str, Any]

#: Colours and other commands of a terminal.
ESCAPE = "\x1b"


@functools.lru_cache(maxsize=None)
def program(binary: str) -> str:
    """mqttgwctl, built beside the daemon under test: a copy where every user
    may run it, which the sources need not be (below /root, say)."""
    path = Path(binary).parent / "mqttgwctl"
    assert path.exists(), f"{path} is not built"
    folder = Path(tempfile.mkdtemp(prefix="mqttgwctl-"))
    atexit.register(shutil.rmtree, folder)
    folder.chmod(0o755)
    return shutil.copy(path, folder)


def run(
    binary: str,
    *arguments: Union[str, Path],
    timeout: float = 40.0,
    **options: Any,
) -> subprocess.CompletedProcess:
    """To its end, with text in and out unless ``text=False`` is given."""
    options.setdefault("text", True)
    if "input" not in options:
        options.setdefault("stdin", subprocess.DEVNULL)
    done = subprocess.run(
        [program(binary), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        timeout=timeout * TIME_FACTOR,
        **options,
    )
    said = done.stderr if options["text"] else done.stderr.decode()
    assert not SANITIZER_REPORT.search(said), said
    return done


def run_on_terminal(
    binary: str, *arguments: Union[str, Path], **variables: str
) -> str:
    """Its output, raw, when it writes to a terminal."""
    master, slave = pty.openpty()
    env = {**os.environ, "TERM": "xterm", **variables}
    process = subprocess.Popen(
        [program(binary), *map(str, arguments)],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=env,
    )
    os.close(slave)
    output = b""
    while True:
        try:
            data = os.read(master, 65536)
        except OSError:
            break
        if not data:
            break
        output += data
    os.close(master)
    process.wait(20 * TIME_FACTOR)
    return output.decode()


# --- a scripted gateway -------------------------------------------------------


def status(**fields: Any) -> Reply:
    """The reply to "status" of a gateway that is well, but for ``fields``."""
    reply: Reply = {
        "status": "ok",
        "version": "0.1.0",
        "gateway": "gw-17",
        "pid": 4242,
        "uptime": 190000.5,
        "socket": "/run/mqttgw.sock",
        "state": "connected",
        "since": 11.2,
        "broker": "broker.example.net:1883",
        "brokers": [],
        "why": "",
        "next_attempt": None,
        "held": False,
        "last_failure": None,
        "queue": {
            "messages": 0,
            "max_messages": None,
            "bytes": 4096,
            "max_bytes": 1 << 30,
            "oldest": None,
            "dead_letters": 0,
            "max_dead_letters": 10000,
        },
        "store_error": None,
        "inflight": 0,
        "window": 20,
        "rates": {"accepted": 0.0, "delivered": 0.0},
        "totals": {
            "accepted": 0,
            "delivered": 0,
            "refused": 0,
            "dropped": 0,
        },
        "clients": 1,
        "max_clients": 1024,
        "stopping": False,
        "restart_needed": [],
    }
    for name, value in fields.items():
        if isinstance(value, dict) and isinstance(reply.get(name), dict):
            value = {**reply[name], **value}
        reply[name] = value
    return reply


class FakeGateway:
    """A control socket that answers as it is told.

    ``answer`` gets each request and returns the replies, dicts or raw bytes;
    ``None`` ends the connection.
    """

    def __init__(
        self, answer: Callable[[Reply], Optional[Iterable[Any]]]
    ) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="mqttgw-"))
        self.path = self.directory / "control.sock"
        self.answer = answer
        self.requests: List[Reply] = []
        self._connections: List[socket.socket] = []
        self._socket: Optional[socket.socket] = None
        self.listen()

    def listen(self) -> None:
        """Opens it (again)."""
        server = socket.socket(socket.AF_UNIX)
        server.bind(str(self.path))
        server.listen(16)
        self._socket = server
        threading.Thread(
            target=self._accept, args=(server,), daemon=True
        ).start()

    def _accept(self, server: socket.socket) -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            self._connections.append(connection)
            threading.Thread(
                target=self._serve, args=(connection,), daemon=True
            ).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            for line in connection.makefile("rb"):
                request = json.loads(line)
                self.requests.append(request)
                replies = self.answer(request)
                if replies is None:
                    break
                for reply in replies:
                    if not isinstance(reply, bytes):
                        reply = json.dumps(reply).encode() + b"\n"
                    connection.sendall(reply)
        except OSError:
            pass
        try:
            connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def stop(self) -> None:
        """Nobody is there any more; the socket goes away."""
        if self._socket:
            self._socket.shutdown(socket.SHUT_RDWR)
            self._socket.close()
            self._socket = None
        for connection in self._connections:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        self._connections.clear()
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)


# --- a real terminal ----------------------------------------------------------


class Terminal:
    """A shell in a terminal of tmux, on a server of our own."""

    PROMPT = "ready> "

    def __init__(
        self, columns: int = 100, rows: int = 34, **variables: str
    ) -> None:
        self._name = f"mqttgw-{uuid.uuid4().hex[:12]}"
        env = {
            "LC_ALL": "C.UTF-8",
            "PS1": self.PROMPT,
            "HOME": "/nonexistent",
            "PATH": os.environ["PATH"],
            **variables,
        }
        shell = " ".join(f"{name}='{value}'" for name, value in env.items())
        self._tmux(
            "-f", "/dev/null", "new-session", "-d",
            "-x", str(columns), "-y", str(rows),
            f"env -u NO_COLOR {shell} bash --norc --noprofile",
        )
        self.wait_for(re.escape(self.PROMPT.strip()))

    def _tmux(self, *arguments: str) -> str:
        env = dict(os.environ, LC_ALL="C.UTF-8")
        env.pop("TMUX", None)
        return subprocess.run(
            ["tmux", "-L", self._name, *arguments],
            check=True,
            capture_output=True,
            text=True,
            env=env,
            timeout=20 * TIME_FACTOR,
        ).stdout

    def type(self, text: str) -> None:
        """As typed, without Enter."""
        self._tmux("send-keys", "-l", "--", text)

    def key(self, *names: str) -> None:
        """Keys by their names: "Enter", "C-c", "q"."""
        self._tmux("send-keys", *names)

    def command(self, line: str) -> None:
        self.type(line)
        self.key("Enter")

    def resize(self, columns: int, rows: int) -> None:
        self._tmux(
            "resize-window", "-x", str(columns), "-y", str(rows)
        )

    def screen(self, raw: bool = False) -> str:
        """What it shows; ``raw``: with its colours."""
        return self._tmux("capture-pane", "-p", *(["-e"] if raw else []))

    def state(self, name: str) -> str:
        """One of tmux's formats: "alternate_on", "cursor_flag" ..."""
        return self._tmux("display-message", "-p", "#{%s}" % name).strip()

    def wait_for(self, pattern: str, timeout: float = 15.0) -> str:
        """Waits until the screen shows a match, and returns the screen."""
        shown = [""]

        def look() -> bool:
            shown[0] = self.screen()
            return bool(re.search(pattern, shown[0], re.MULTILINE))

        try:
            wait_until(look, timeout, f"screen shows {pattern!r}", 0.05)
        except TimeoutError as error:
            raise TimeoutError(f"{error}; it shows\n{shown[0]}") from None
        return shown[0]

    def settings(self) -> str:
        """`stty -g` of a shell at its prompt."""
        self.command("clear; echo \"stty=$(stty -g)=\"")
        shown = self.wait_for(r"^stty=[0-9a-f:]+=")
        match = re.search(r"^stty=([0-9a-f:]+)=", shown, re.MULTILINE)
        assert match
        return match.group(1)

    def close(self) -> None:
        try:
            self._tmux("kill-server")
        except subprocess.CalledProcessError:
            pass


class Stopped:
    """With it, a process stands still."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def __enter__(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)
        # Each thread goes on until it has seen it.
        wait_until(self._stands_still, 10, "the process to stand still", 0.001)

    def _stands_still(self) -> bool:
        tasks = Path(f"/proc/{self.pid}/task").glob("*/stat")
        try:
            return all(
                task.read_text().rpartition(")")[2].split()[0] == "T"
                for task in tasks
            )
        except (FileNotFoundError, ProcessLookupError):  # one has ended
            return False

    def __exit__(self, *_: Any) -> None:
        os.kill(self.pid, signal.SIGCONT)
