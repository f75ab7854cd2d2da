# SPDX-License-Identifier: MIT
"""mqttgw-report under test, and the parts it stands between.

``Control`` plays the gateway's control socket, ``Receiver`` takes alerts by
HTTP or HTTPS and misbehaves as told, ``Pushgateway`` is the real one.
"""

import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple

from .daemon import SANITIZER_REPORT, _NotifyListener, config_text
from .ports import LOOPBACK, accepts, free_port
from .process import Process
from .waiting import TIME_FACTOR, wait_until

PUSHGATEWAY = shutil.which(
    "prometheus-pushgateway", path="/usr/bin:/usr/local/bin"
)


class Control:
    """A control socket: answers ``status``, ``metrics`` and ``events``.

    ``start`` begins a new instance, as a restart of the gateway does;
    ``raise_alert`` puts an alert into its ring.
    """

    def __init__(self, path: Path, kept: int = 256) -> None:
        self.path = path
        self.kept = kept
        self.text = "# TYPE mqttgw_up gauge\nmqttgw_up 1\n"
        self.requests: List[Dict[str, Any]] = []
        self.hung = threading.Event()
        self.refuse: Optional[Dict[str, Any]] = None
        self.raw = b""
        self._starts = 0
        self._lock = threading.Condition()
        self._listener: Optional[socket.socket] = None
        self._connections: List[socket.socket] = []
        self._alerts: List[Dict[str, Any]] = []

    @property
    def instance(self) -> str:
        return f"instance-{self._starts}"

    def start(self) -> "Control":
        self._starts += 1
        self._alerts = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen(16)
        threading.Thread(
            target=self._accept, args=(self._listener,), daemon=True
        ).start()
        return self

    def stop(self) -> None:
        """All connections end, the socket is gone."""
        if not self._listener:
            return
        with self._lock:
            listener, self._listener = self._listener, None
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
            self.path.unlink()
            for connection in self._connections:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
            self._connections.clear()
            self._lock.notify_all()

    def cut(self) -> None:
        """Connections end; the gateway goes on."""
        with self._lock:
            for connection in self._connections:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
            self._connections.clear()
            self._lock.notify_all()

    def raise_alert(self, kind: str, **fields: Any) -> int:
        with self._lock:
            seq = len(self._alerts) + 1
            self._alerts.append(
                {
                    "status": "event",
                    "seq": seq,
                    "time": "2026-01-02T03:04:05.678Z",
                    "kind": kind,
                    "count": 1,
                    "broker": "broker:1883",
                    "message": f"{self.instance} {seq}",
                    **fields,
                }
            )
            self._lock.notify_all()
        return seq

    def count(self, command: str) -> int:
        return sum(r.get("command") == command for r in list(self.requests))

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with self._lock:
                self._connections.append(connection)
            threading.Thread(
                target=self._serve, args=(connection,), daemon=True
            ).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection, connection.makefile("rb") as lines:
                for line in lines:
                    while self.hung.is_set():
                        time.sleep(0.02)
                    request = json.loads(line)
                    self.requests.append(request)
                    self._answer(connection, request)
        except OSError:
            pass

    @staticmethod
    def _say(connection: socket.socket, reply: Dict[str, Any]) -> None:
        connection.sendall(json.dumps(reply).encode() + b"\n")

    def _answer(self, connection: Any, request: Dict[str, Any]) -> None:
        if self.raw:
            connection.sendall(self.raw)
            connection.shutdown(socket.SHUT_RDWR)
        elif self.refuse:
            self._say(connection, self.refuse)
        elif request["command"] == "status":
            self._say(connection, {"status": "ok", "state": "connected"})
        elif request["command"] == "metrics":
            self._say(connection, {"status": "ok", "text": self.text})
        elif request["command"] == "events":
            self._events(connection, request.get("since"))

    def _events(self, connection: Any, since: Optional[int]) -> None:
        with self._lock:
            last = len(self._alerts)
        told = last if since is None else since
        self._say(
            connection,
            {
                "status": "event",
                "kind": "hello",
                "seq": last,
                "instance": self.instance,
                "gateway": "test-gateway",
            },
        )
        while True:
            with self._lock:
                while connection in self._connections and (
                    len(self._alerts) <= told or self.hung.is_set()
                ):
                    self._lock.wait(0.05)
                if connection not in self._connections:
                    return
                first = max(told, len(self._alerts) - self.kept)
                new = self._alerts[first:]
            if first > told:
                self._say(
                    connection,
                    {"status": "event", "kind": "lost", "count": first - told},
                )
            for alert in new:
                self._say(connection, alert)
                told = alert["seq"]


#: What a receiver does with a request; returns a status, or None when it
#: has answered (or not) by itself.
Behaviour = Callable[[BaseHTTPRequestHandler], Optional[int]]


class Receiver:
    """Takes alerts: an HTTP server whose ``behave`` may misbehave.

    ``taken`` has the bodies answered with 200, in order; ``requests`` all of
    them, with method, path and headers.
    """

    def __init__(self, port: int = 0, tls: Any = None) -> None:
        self.port = port or free_port()
        self.tls = tls
        self.behave: Optional[Behaviour] = None
        self.taken: List[Dict[str, Any]] = []
        self.requests: List[Tuple[str, str, Dict[str, str], bytes]] = []
        self._server: Optional[ThreadingHTTPServer] = None

    @property
    def url(self) -> str:
        scheme = "https" if self.tls else "http"
        return f"{scheme}://{LOOPBACK}:{self.port}/alerts"

    def start(self) -> "Receiver":
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                length = int(self.headers.get("Content-Length", 0))
                body = self.rfile.read(length)
                receiver.requests.append(
                    (self.command, self.path, dict(self.headers), body)
                )
                status: Optional[int] = 200
                if receiver.behave:
                    status = receiver.behave(self)
                if status is None:
                    self.close_connection = True
                    return
                if status == 200 and self.command == "POST":
                    receiver.taken.append(json.loads(body))
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_PUT = do_POST

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: Any) -> None:
                """A peer that goes away, or does not trust us."""

        self._server = Server((LOOPBACK, self.port), Handler)
        if self.tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self.tls.cert, self.tls.key)
            self._server.socket = context.wrap_socket(
                self._server.socket,
                server_side=True,
                do_handshake_on_connect=False,
            )
        threading.Thread(
            target=self._server.serve_forever, args=(0.02,), daemon=True
        ).start()
        return self

    def stop(self) -> None:
        if self._server:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def wait(self, count: int, timeout: float = 20.0) -> List[Dict[str, Any]]:
        wait_until(
            lambda: len(self.taken) >= count,
            timeout,
            f"{count} alerts taken",
        )
        return list(self.taken)

    def kinds(self) -> List[str]:
        return [alert["kind"] for alert in list(self.taken)]


class Pushgateway:
    """A real one; the port stays the same over stop and start."""

    def __init__(self, directory: Path) -> None:
        assert PUSHGATEWAY, "prometheus-pushgateway is not installed"
        self.port = free_port()
        self.process = Process("pushgateway", directory / "pushgateway.log")

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    def start(self) -> "Pushgateway":
        self.process.spawn(
            [str(PUSHGATEWAY), f"--web.listen-address={LOOPBACK}:{self.port}"]
        )
        wait_until(lambda: accepts(self.port), 10, "pushgateway accepts")
        return self

    def stop(self) -> None:
        self.process.end()

    def samples(self) -> Dict[str, float]:
        """What it shows: series with its labels, and the value."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=10) as f:
            lines = f.read().decode().splitlines()
        pairs = [li.rsplit(" ", 1) for li in lines if not li.startswith("#")]
        return {series: float(value) for series, value in pairs}


class Report:
    """mqttgw-report in a directory of its own."""

    def __init__(
        self,
        binary: str,
        control: Path,
        directory: Optional[Path] = None,
        **report: Any,
    ) -> None:
        self.binary = binary
        self.directory = Path(
            directory or tempfile.mkdtemp(prefix="mqttgw-report-")
        )
        self.state = self.directory / "report-state"
        self.state.mkdir(exist_ok=True)
        self.state_path = self.state / "state.json"
        self.config_path = self.directory / "report.conf"
        self.process = Process(
            "mqttgw-report", self.directory / "report.log"
        )
        self.notify = _NotifyListener(self.directory / "report-notify.sock")
        self.extra_env: Dict[str, str] = {}
        self.expect_exit = True
        self.settings: Dict[str, Any] = {
            "gateway": {"id": "test-gateway"},
            "control": {"path": str(control)},
            "report": {"interval": 1.0, **report},
            "log": {"level": "debug"},
        }
        self.write_config()

    def write_config(self, **report: Any) -> None:
        self.settings["report"].update(report)
        self.config_path.write_text(config_text(self.settings))

    def environment(self) -> Mapping[str, str]:
        env = dict(os.environ)
        for name in ("JOURNAL_STREAM", "INVOCATION_ID", "http_proxy",
                     "https_proxy", "all_proxy", "no_proxy", "ALL_PROXY",
                     "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_FILE"):
            env.pop(name, None)
        env["NOTIFY_SOCKET"] = str(self.notify.path)
        env["STATE_DIRECTORY"] = str(self.state)
        env.update(self.extra_env)
        return env

    def run(self, *arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [self.binary, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=self.environment(),
            timeout=20 * TIME_FACTOR,
        )

    def start(self) -> "Report":
        self.notify.lines.clear()
        wrapper = os.environ.get("MQTTGW_REPORT_WRAPPER", "").split()
        self.process.spawn(
            [*wrapper, self.binary, "-c", str(self.config_path)],
            env=self.environment(),
        )
        wait_until(
            lambda: not self.process.running()
            or "READY=1" in self.notify.lines,
            15,
            "mqttgw-report is ready",
        )
        assert self.process.running(), self.process.tail()
        return self

    def stop(self) -> None:
        """In order, and within its bound."""
        begin = time.monotonic()
        self.process.signal(signal.SIGTERM)
        assert self.process.wait() == 0, self.process.tail()
        assert time.monotonic() - begin < 5 * TIME_FACTOR

    def kill9(self) -> None:
        self.process.kill9()

    def saved(self) -> Dict[str, Any]:
        """What it keeps on disk; empty while that is nothing good."""
        try:
            return json.loads(self.state_path.read_text())
        except (FileNotFoundError, ValueError):
            return {}

    def reload(self) -> None:
        """SIGHUP, and wait until it is through."""
        seen = self.notify.lines.count("READY=1")
        self.process.signal(signal.SIGHUP)
        wait_until(
            lambda: self.notify.lines.count("READY=1") > seen,
            10,
            "the reload is over",
        )

    def output(self) -> str:
        return self.process.output()

    def memory(self) -> int:
        """Resident bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) * 1024

    def close(self) -> None:
        running = self.process.running()
        self.process.end()
        self.notify.close()
        output = self.output()
        found = SANITIZER_REPORT.search(output)
        if "MQTTGW_KEEP" not in os.environ:
            shutil.rmtree(self.directory, ignore_errors=True)
        assert not found, output
        if running:
            assert self.process.status() == 0, output
