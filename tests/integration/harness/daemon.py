# SPDX-License-Identifier: MIT
"""The daemon under test: configuration, start, stop, verdict."""

import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional

from .ports import LOOPBACK
from .process import Process
from .waiting import TIME_FACTOR, wait_until

#: What the sanitizers and glibc write when they find something.
SANITIZER_REPORT = re.compile(
    r"ERROR: \w*Sanitizer|WARNING: \w*Sanitizer|runtime error:"
    r"|SUMMARY: \w*Sanitizer|\*\*\* stack smashing|free\(\): invalid"
    r"|malloc\(\): |double free|corrupted size|Assertion .* failed"
)


class DaemonFailure(AssertionError):
    """The daemon did something it must never do."""


def _libconfig(value: Any) -> str:
    """One value in libconfig's syntax."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    if isinstance(value, Mapping):
        members = " ".join(
            f"{key} = {_libconfig(member)};" for key, member in value.items()
        )
        return "{ " + members + " }"
    if isinstance(value, (list, tuple)):
        return "( " + ", ".join(_libconfig(item) for item in value) + " )"
    raise TypeError(f"no libconfig form for {value!r}")


def config_text(settings: Mapping[str, Any]) -> str:
    """A configuration file's text: one top-level setting a line."""
    return "".join(
        f"{name} = {_libconfig(value)};\n" for name, value in settings.items()
    )


class _NotifyListener:
    """Plays systemd's part of sd_notify(): collects the assignments."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: List[str] = []
        self._stop = threading.Event()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(0.1)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                data = self._socket.recv(65536)
            except socket.timeout:
                continue
            self.lines += data.decode("utf-8", "replace").splitlines()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self._socket.close()


class Daemon:
    """mqtt-gatewayd in a directory of its own.

    ``Daemon(binary, port)`` points it to a broker on the loopback
    interface; the keyword arguments are merged into the groups of the
    configuration, e.g. ``socket={"max_clients": 2}``.
    """

    def __init__(
        self,
        binary: str,
        broker_port: int,
        directory: Optional[Path] = None,
        broker: Optional[Mapping[str, Any]] = None,
        **groups: Mapping[str, Any],
    ) -> None:
        self.binary = binary
        self._own_directory = directory is None
        # Short: a socket's path may have 107 bytes.
        self.directory = Path(directory or tempfile.mkdtemp(prefix="mqttgw-"))
        self.directory.mkdir(exist_ok=True)
        self.state = self.directory / "state"
        self.state.mkdir(exist_ok=True)
        self.socket_path = self.directory / "gw.sock"
        self.control_path = self.directory / "control.sock"
        self.queue_path = self.state / "queue.db"
        self.config_path = self.directory / "mqttgw.conf"
        self.process = Process("mqtt-gatewayd", self.directory / "gw.log")
        self.notify = _NotifyListener(self.directory / "notify.sock")
        self.extra_env: Dict[str, str] = {}
        self.expect_exit = True
        entry = {"host": LOOPBACK, "port": broker_port, **(broker or {})}
        self.settings: Dict[str, Any] = {
            "gateway": {"id": "test-gateway"},
            "socket": {
                "path": str(self.socket_path),
                "mode": "0600",
                "group": "",
            },
            "control": {"path": str(self.control_path)},
            "queue": {"path": str(self.queue_path), "sync": "full"},
            "brokers": [entry],
            "mqtt": {"version": "5", "client_id": "gw-%i"},
            "retry": {
                "base": 0.05,
                "max": 0.5,
                "stable": 5.0,
                "heartbeat_delay": 0.1,
                "set_aside": 0.5,
            },
            "log": {"level": "info"},
        }
        for name, members in groups.items():
            self.settings[name] = {**self.settings.get(name, {}), **members}
        self.write_config()

    # --- configuration and start ---

    def write_config(self) -> None:
        """Write ``settings`` to the configuration file."""
        self.config_path.write_text(config_text(self.settings))

    def environment(self) -> Dict[str, str]:
        env = dict(os.environ)
        env.pop("JOURNAL_STREAM", None)
        env.pop("INVOCATION_ID", None)
        env["NOTIFY_SOCKET"] = str(self.notify.path)
        for name in ("TSAN", "LSAN"):
            suppressions = Path(__file__).with_name(f"{name.lower()}.supp")
            options = f"{name}_OPTIONS"
            env[options] = (
                f"suppressions={suppressions}:print_suppressions=0:"
                f"{env.get(options, '')}"
            )
        env.update(self.extra_env)
        return env

    def run(
        self, *arguments: str, timeout: float = 20.0
    ) -> subprocess.CompletedProcess:
        """Run the program to its end with other arguments."""
        return subprocess.run(
            [self.binary, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=self.environment(),
            timeout=timeout * TIME_FACTOR,
        )

    def spawn(self) -> None:
        """Start the program without waiting for anything."""
        self.notify.lines.clear()
        self.expect_exit = False
        self.process.spawn(
            [self.binary, "-c", str(self.config_path)],
            env=self.environment(),
        )

    def start(self, timeout: float = 15.0) -> "Daemon":
        """Start it and wait until it takes connections."""
        self.spawn()
        self.wait_ready(timeout)
        return self

    def wait_ready(self, timeout: float = 15.0) -> None:
        """Wait for READY=1: from then on it accepts clients.

        Nothing is connected to find out; that would be a client as well.
        """

        def ready() -> bool:
            self.check_alive()
            return "READY=1" in self.notify.lines

        wait_until(ready, timeout, f"{self.binary} accepts clients")

    # --- end ---

    def kill9(self) -> None:
        """SIGKILL and wait for the end."""
        self.check_alive()
        self.expect_exit = True
        self.process.kill9()

    def terminate(self, number: int = signal.SIGTERM) -> None:
        """Ask for an orderly stop; does not wait."""
        self.check_alive()
        self.expect_exit = True
        self.process.signal(number)

    def wait(self, timeout: float = 20.0) -> int:
        """Wait for the end and return the exit status."""
        self.expect_exit = True
        return self.process.wait(timeout)

    def stop(self, timeout: float = 20.0) -> None:
        """Orderly stop; anything but exit 0 is a failure."""
        self.terminate()
        status = self.wait(timeout)
        if status != 0:
            raise DaemonFailure(
                f"orderly stop ended with {status}:\n{self.process.tail()}"
            )

    def restart(self, how: str = "stop") -> "Daemon":
        """``how`` is "stop" (orderly) or "kill9"."""
        getattr(self, how)()
        return self.start()

    def close(self) -> None:
        """End it and remove its directory (kept if MQTTGW_KEEP is set)."""
        self.process.end()
        self.notify.close()
        if self._own_directory and "MQTTGW_KEEP" not in os.environ:
            shutil.rmtree(self.directory, ignore_errors=True)

    # --- verdict ---

    def output(self) -> str:
        return self.process.output()

    def wait_output(self, pattern: str, timeout: float = 10.0) -> None:
        """Wait until the log holds a match of the regular expression."""
        wait_until(
            lambda: re.search(pattern, self.output()),
            timeout,
            f"log line matching {pattern!r}",
        )

    def check_alive(self) -> None:
        """Fail at once if the program has ended on its own."""
        if not self.process.running():
            raise DaemonFailure(
                f"mqtt-gatewayd ended with {self.process.status()}:\n"
                f"{self.process.tail()}"
            )

    def verdict(self) -> None:
        """Raise if it died on its own or a sanitizer spoke."""
        report = SANITIZER_REPORT.search(self.output())
        if report:
            raise DaemonFailure(
                f"report on standard error ({report.group(0)}):\n"
                f"{self.process.tail(120)}"
            )
        if not self.expect_exit:
            self.check_alive()

    def verify_stop(self) -> None:
        """End a running daemon in order: leak checkers report only then."""
        if self.process.running():
            self.expect_exit = True
            self.process.signal(signal.SIGCONT)
            self.process.end()

    # --- numbers ---

    @property
    def sanitized(self) -> bool:
        """Whether the build carries a sanitizer (memory means nothing)."""
        data = Path(self.binary).read_bytes()
        return b"__asan_init" in data or b"__tsan_init" in data

    @property
    def has_http(self) -> bool:
        """Whether the build can serve metrics."""
        return b"libmicrohttpd.so" in Path(self.binary).read_bytes()

    def memory(self, field: str = "VmRSS") -> int:
        """Bytes of a field of /proc/PID/status."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        match = re.search(rf"^{field}:\s+(\d+) kB", status, re.MULTILINE)
        assert match, f"no {field} in /proc/PID/status"
        return int(match.group(1)) * 1024

    def cpu_seconds(self) -> float:
        """Processor time used so far, user and system."""
        stat = Path(f"/proc/{self.process.pid}/stat").read_text()
        fields = stat.rsplit(")", 1)[1].split()
        ticks = int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")
