# SPDX-License-Identifier: MIT
"""Messages that keep coming while something else goes wrong, and a verdict."""

import re
import time
from typing import List, Sequence

from .client import Producer
from .daemon import Daemon
from .database import Database
from .subscriber import Record, Subscriber, duplicates, first_deliveries
from .waiting import env_int, wait_until

#: Messages a second while a link goes bad and comes back.
RATE = env_int("MQTTGW_LINK_RATE", 200)

# What the daemon's log says.
LOST = r": connected -> (?!disconnecting)"
UP = r" -> connected\b"
FAILED = r": connecting -> (disconnected|offline)"
BEGUN = r" -> connecting\b"


class Traffic:
    """Numbered messages of all QoS levels, at an even rate."""

    def __init__(
        self, daemon: Daemon, rate: int = RATE, size: int = 20
    ) -> None:
        self.daemon = daemon
        self.rate = rate
        begin = time.monotonic()
        self.producer = Producer(
            daemon.socket_path,
            lambda number: {
                "topic": "t",
                "payload": f"{number} ".ljust(size, "."),
                "qos": number % 3,
            },
            gate=lambda: int((time.monotonic() - begin) * rate),
        )

    def wait_more(self, count: int) -> None:
        """Wait until so many more have been accepted."""
        goal = len(self.producer.answered) + count
        wait_until(
            lambda: len(self.producer.answered) >= goal,
            30 + 2 * count / self.rate,
            f"{count} more messages accepted",
        )

    def end(self) -> int:
        """Stop and wait until all has left; returns how many it were."""
        self.producer.stop()
        assert not self.producer.refused
        Database(self.daemon.queue_path).wait_empty(60)
        return self.producer.sent


def numbers(records: Sequence[Record], qos: int) -> List[int]:
    """The numbers that arrived, of one level of what was sent."""
    arrived = [int(record.payload.split()[0]) for record in records]
    return [number for number in arrived if number % 3 == qos]


def judge(subscriber: Subscriber, count: int) -> str:
    """All of QoS 1 and 2 came, in order, QoS 2 once; returns a summary."""
    wanted = {number for number in range(count) if number % 3}

    def complete() -> bool:
        wanted.difference_update(
            int(record.payload.split()[0]) for record in subscriber.records
        )
        return not wanted

    wait_until(complete, 30, "every message of QoS 1 and 2", interval=0.1)
    records = list(subscriber.records)
    for qos in (1, 2):
        assert first_deliveries(numbers(records, qos)) == list(
            range(qos, count, 3)
        )
    assert duplicates(numbers(records, 2)) == 0
    distinct = first_deliveries(numbers(records, 0))
    assert distinct == sorted(distinct)
    lost = len(range(0, count, 3)) - len(distinct)
    return (
        f"{count} messages, QoS 0: {lost} lost, "
        f"{duplicates(numbers(records, 0))} doubled; QoS 1: 0 lost, "
        f"{duplicates(numbers(records, 1))} doubled; QoS 2: 0, 0"
    )


class Clock:
    """Tells when the daemon's log says something next."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon

    def count(self, pattern: str) -> int:
        return len(re.findall(pattern, self.daemon.output()))

    def wait(self, pattern: str, seen: int, timeout: float) -> float:
        """Wait for one more than ``seen``; returns the time it was."""

        def said() -> bool:
            self.daemon.check_alive()
            return self.count(pattern) > seen

        wait_until(said, timeout, f"log line matching {pattern!r}")
        return time.monotonic()
