# SPDX-License-Identifier: MIT
"""Operators: they speak JSON Lines to the daemon's control socket."""

from typing import Any, Dict, List, Optional, Tuple

from .client import Client, Reply, encode
from .daemon import Daemon


class Control(Client):
    """One connection; requests are answered one after the other."""

    def __init__(self, daemon: Daemon, timeout: float = 20.0) -> None:
        super().__init__(daemon.control_path, timeout)

    def __enter__(self) -> "Control":
        return self

    def request(self, command: str, **fields: Any) -> None:
        """Send a request without waiting for the answer."""
        self.send(encode({"command": command, **fields}))

    def command(self, command: str, **fields: Any) -> Reply:
        """A request that is answered with one line, which is returned."""
        self.request(command, **fields)
        return self.reply()

    def rows(
        self, command: str, timeout: Optional[float] = None, **fields: Any
    ) -> Tuple[List[Reply], Reply]:
        """A request that is answered with rows: those, and the last line."""
        self.request(command, **fields)
        rows: List[Reply] = []
        while True:
            reply = self.reply(timeout)
            if reply["status"] != "row":
                return rows, reply
            rows.append(reply)


def ask(daemon: Daemon, command: str, **fields: Any) -> Reply:
    """One request on a connection of its own."""
    with Control(daemon) as control:
        return control.command(command, **fields)


def status(daemon: Daemon) -> Dict[str, Any]:
    """How things stand."""
    reply = ask(daemon, "status")
    assert reply["status"] == "ok", reply
    return reply
