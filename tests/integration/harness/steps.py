# SPDX-License-Identifier: MIT
"""Steps that tests against scripted brokers share."""

import re
from typing import Any, Dict, Iterator, List, Sequence

from .client import Client, all_queued
from .daemon import Daemon
from .ports import LOOPBACK
from .waiting import wait_until


def payload(number: int) -> bytes:
    return b"m-%06d" % number


def payloads(count: int, first: int = 0) -> List[bytes]:
    return [payload(number) for number in range(first, first + count)]


def numbered(
    count: int, first: int = 0, **fields: Any
) -> Iterator[Dict[str, Any]]:
    """Messages that carry their number as id and in the payload."""
    for number in range(first, first + count):
        yield {
            "topic": "t",
            "payload": payload(number).decode(),
            "id": number,
            **fields,
        }


def feed(
    daemon: Daemon, count: int, first: int = 0, **fields: Any
) -> List[int]:
    """Have so many messages accepted; returns their row ids."""
    with Client(daemon.socket_path, timeout=60) as client:
        return all_queued(
            client.feed(numbered(count, first, **fields)),
            range(first, first + count),
        )


def use_brokers(daemon: Daemon, *ports: int, **more: Any) -> Daemon:
    """Have it use these brokers, in this order."""
    daemon.settings["brokers"] = [
        {"host": LOOPBACK, "port": port, **more} for port in ports
    ]
    daemon.write_config()
    return daemon


def step(port: int, old: str, new: str, rest: str = "") -> str:
    """The pattern of a log line of a change of state."""
    return rf"{re.escape(LOOPBACK)}:{port}: {old} -> {new}{rest}"


def failure(
    port: int, old: str, new: str, text: str, kind: str, then: str
) -> str:
    """The pattern of a failure's log line: who, what, class, what next."""
    return step(port, old, new, rf": {text}.* \({kind}\); {then}")


def count_lines(daemon: Daemon, pattern: str) -> int:
    return len(re.findall(pattern, daemon.output()))


def wait_all(
    brokers: Sequence[Any], expected: Sequence[bytes], timeout: float = 20.0
) -> None:
    """Wait until these payloads have been delivered to some broker."""

    def missing() -> List[bytes]:
        for broker in brokers:
            broker.check()
        have = {text for broker in brokers for text in broker.payloads()}
        return [text for text in expected if text not in have]

    wait_until(
        lambda: not missing(), timeout, f"{len(expected)} messages delivered"
    )


__all__ = [
    "count_lines", "failure", "feed", "numbered", "payload", "payloads",
    "step", "use_brokers", "wait_all",
]
