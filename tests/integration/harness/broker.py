# SPDX-License-Identifier: MIT
"""A real mosquitto on a loopback port."""

import os
import re
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import List, Mapping, Optional

from .ports import LOOPBACK, accepts, free_port
from .process import Process
from .waiting import wait_until

MOSQUITTO = shutil.which("mosquitto", path="/usr/sbin:/usr/bin:/sbin:/bin")


class Mosquitto:
    """One broker; the port stays the same over stop and start.

    ``users`` maps user names to passwords; with it, anonymous clients are
    refused. ``options`` are further lines of its configuration, such as
    ``["max_packet_size 1000"]``.
    """

    def __init__(
        self,
        persistence: bool = True,
        users: Optional[Mapping[str, str]] = None,
        options: Optional[List[str]] = None,
        port: int = 0,
    ) -> None:
        assert MOSQUITTO, "mosquitto is not installed"
        self.port = port or free_port()
        self.persistence = persistence
        self.options = list(options or [])
        self.directory = Path(tempfile.mkdtemp(prefix="mosquitto-"))
        self.process = Process("mosquitto", self.directory / "broker.log")
        self._password_file = self.directory / "passwords"
        self.users = dict(users or {})
        self._starts = 0

    def _write_config(self) -> Path:
        lines = [
            f"listener {self.port} {LOOPBACK}",
            "log_dest stdout",
            "log_type error",
            "log_type warning",
            "log_type notice",
            "log_type information",
            "connection_messages true",
            "max_queued_messages 0",
            # With a bound, mosquitto 2.0.11 lets new messages overtake
            # those that it has queued for a subscriber.
            "max_inflight_messages 0",
            "set_tcp_nodelay true",
            f"persistence {str(self.persistence).lower()}",
            f"persistence_location {self.directory}/",
        ]
        if os.geteuid() == 0:
            lines.append("user root")
        if self.users:
            self._write_passwords()
            lines.append("allow_anonymous false")
            lines.append(f"password_file {self._password_file}")
        else:
            lines.append("allow_anonymous true")
        # The last mention of an option wins.
        lines += self.options
        path = self.directory / "mosquitto.conf"
        path.write_text("\n".join(lines) + "\n")
        return path

    def _write_passwords(self) -> None:
        self._password_file.unlink(missing_ok=True)
        self._password_file.touch(mode=0o600)
        for name, password in self.users.items():
            subprocess.run(
                ["mosquitto_passwd", "-b", self._password_file, name,
                 password],
                check=True,
                capture_output=True,
            )

    def set_users(self, users: Mapping[str, str]) -> None:
        """Other passwords for a broker that runs (or not yet)."""
        self.users = dict(users)
        self._write_passwords()
        self.process.signal(signal.SIGHUP)

    def start(self) -> "Mosquitto":
        """Start it and wait until it accepts connections."""
        config = self._write_config()
        self.process.spawn([str(MOSQUITTO), "-c", str(config)])
        wait_until(self._up, 10.0, f"mosquitto accepts on {self.port}")
        self._starts += 1
        return self

    def _up(self) -> bool:
        assert self.process.running(), (
            f"mosquitto ended:\n{self.process.tail()}"
        )
        return accepts(self.port)

    def stop(self) -> None:
        """Orderly stop; writes its persistent state."""
        self.process.end()

    def kill9(self) -> None:
        """It dies at once; what was in memory only is gone."""
        self.process.kill9()

    def restart(self) -> "Mosquitto":
        self.stop()
        return self.start()

    def running(self) -> bool:
        return self.process.running()

    def count_log(self, pattern: str) -> int:
        """How many lines of its log match the regular expression."""
        return len(re.findall(pattern, self.process.output()))

    def close(self) -> None:
        self.process.end()
        if "MQTTGW_KEEP" not in os.environ:
            shutil.rmtree(self.directory, ignore_errors=True)
