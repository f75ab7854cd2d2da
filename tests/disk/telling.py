# SPDX-License-Identifier: MIT
"""What the daemon tells about its disk, and the ways to wait for it."""

import errno
import os
import re

from harness import Client, Daemon, wait_until

#: In the log, once the queue can be written again.
WORKS_AGAIN = r"can be written again|works again"

#: In the log and in systemd's STATUS line while it cannot.
FAILS = r"(?i)storage|cannot be written|no space|read-only|disk"


def wait_told(daemon: Daemon, error: int) -> None:
    """The log names the error."""
    text = re.escape(os.strerror(error))
    if error not in (errno.EIO, errno.ENOSPC):
        # SQLite has one code for all that is neither.
        text += "|disk I/O error"
    daemon.wait_output(text, 20)


def wait_status(daemon: Daemon) -> None:
    """systemd is told that something is wrong with the disk."""

    def told() -> bool:
        lines = [
            line for line in daemon.notify.lines if line.startswith("STATUS=")
        ]
        return bool(lines and re.search(FAILS, lines[-1]))

    wait_until(
        told, 20, f"a STATUS line about the disk: {daemon.notify.lines[-3:]}"
    )


def works_again(daemon: Daemon) -> int:
    """How often the log said so."""
    return len(re.findall(WORKS_AGAIN, daemon.output()))


def wait_works_again(daemon: Daemon, seen: int) -> None:
    wait_until(
        lambda: works_again(daemon) > seen, 20,
        f"the log says that the queue works again, not {seen} times only",
    )


def probe(daemon: Daemon, topic: str = "disk/probe") -> dict:
    """The answer to one line."""
    with Client(daemon.socket_path) as client:
        return client.ask(
            {"id": "probe", "topic": topic, "payload": "probe ", "qos": 1}
        )


def wait_accepts(daemon: Daemon, timeout: float) -> None:
    """Lines are refused with `storage`, until they are not any more."""

    def accepted() -> bool:
        daemon.check_alive()
        reply = probe(daemon)
        assert reply["status"] == "queued" or reply["error"] == "storage", \
            reply
        return reply["status"] == "queued"

    wait_until(accepted, timeout, "a line is accepted again", interval=0.05)
