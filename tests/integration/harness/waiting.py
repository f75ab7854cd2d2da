# SPDX-License-Identifier: MIT
"""Waiting for conditions, never for a fixed time."""

import os
import time
from typing import Callable, TypeVar

T = TypeVar("T")

#: Bounds of all waits are multiplied by this; slow builds (sanitizers,
#: valgrind) set it above 1. It never makes a passing test slower.
TIME_FACTOR = float(os.environ.get("MQTTGW_TIME_FACTOR", "1"))


def env_int(name: str, default: int) -> int:
    """A test's size from the environment, at least 1."""
    return max(1, int(os.environ.get(name, default)))


class Deadline:
    """A point in time that several steps share."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds * TIME_FACTOR
        self._end = time.monotonic() + self.seconds

    def remaining(self) -> float:
        """Seconds left, never below zero."""
        return max(0.0, self._end - time.monotonic())

    def passed(self) -> bool:
        return time.monotonic() >= self._end

    def check(self, what: str) -> None:
        """Raise TimeoutError naming ``what`` when the time is over."""
        if self.passed():
            raise TimeoutError(f"not within {self.seconds:g} s: {what}")


def wait_until(
    condition: Callable[[], T],
    timeout: float,
    what: str,
    interval: float = 0.01,
) -> T:
    """Poll ``condition`` until it is true and return what it returned.

    Raises TimeoutError naming ``what`` after ``timeout`` seconds (times
    TIME_FACTOR). The last look happens after the time is over, so that a
    machine that stood still does not fail a condition that holds.
    """
    deadline = Deadline(timeout)
    while True:
        late = deadline.passed()
        value = condition()
        if value:
            return value
        if late:
            raise TimeoutError(f"not within {deadline.seconds:g} s: {what}")
        time.sleep(interval)
