# SPDX-License-Identifier: MIT
"""A child process whose output goes to a file and that never outlives us."""

import os
import signal
import subprocess
from pathlib import Path
from typing import Mapping, Optional, Sequence

from .waiting import TIME_FACTOR


class Process:
    """One child at a time, started again and again, ended by its pid."""

    def __init__(self, name: str, log: Path) -> None:
        self.name = name
        self.log = log
        self._child: Optional[subprocess.Popen] = None

    @property
    def pid(self) -> int:
        assert self._child is not None, f"{self.name} was never started"
        return self._child.pid

    def spawn(
        self,
        argv: Sequence[str],
        env: Optional[Mapping[str, str]] = None,
        cwd: Optional[Path] = None,
    ) -> None:
        """Start the program; its standard output and error go to the log."""
        assert not self.running(), f"{self.name} runs already"
        with open(self.log, "ab") as log:
            self._child = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=env,
                cwd=cwd,
            )

    def running(self) -> bool:
        return self._child is not None and self._child.poll() is None

    def status(self) -> Optional[int]:
        """Exit status as subprocess gives it; None while it runs."""
        return None if self._child is None else self._child.poll()

    def signal(self, number: int) -> None:
        """Send a signal; a process that has ended is left alone."""
        if self.running():
            os.kill(self.pid, number)

    def wait(self, timeout: float = 20.0) -> int:
        """Wait for the end of the process and return its exit status."""
        assert self._child is not None, f"{self.name} was never started"
        try:
            return self._child.wait(timeout * TIME_FACTOR)
        except subprocess.TimeoutExpired:
            raise TimeoutError(
                f"{self.name} did not end within {timeout:g} s; its log "
                f"ends:\n{self.tail()}"
            ) from None

    def kill9(self) -> None:
        """SIGKILL, and reap it."""
        self.signal(signal.SIGKILL)
        self.wait()

    def end(self) -> None:
        """End the process whatever it does; safe to call twice."""
        if not self.running():
            return
        self.signal(signal.SIGTERM)
        try:
            self.wait(10.0)
        except TimeoutError:
            self.kill9()

    def output(self) -> str:
        """Everything the process has written so far."""
        try:
            return self.log.read_text("utf-8", "replace")
        except FileNotFoundError:
            return ""

    def tail(self, lines: int = 40) -> str:
        return "\n".join(self.output().splitlines()[-lines:])
