# SPDX-License-Identifier: MIT
"""Two hosts and a cable: network namespaces that a test makes itself.

Takes root. There is no way out of them.
"""

import ctypes
import os
import subprocess
import threading
from pathlib import Path
from typing import Any, Callable, List

from .process import Process
from .waiting import TIME_FACTOR, wait_until

#: The two ends of the cable, and an address behind the broker's end that the
#: gateway reaches by its default route only.
GATEWAY, BROKER, BEYOND = "10.99.0.1", "10.99.0.2", "10.98.0.1"

_CLONE_NEWNET = 0x40000000


class Host:
    """A network namespace, alive as long as the process in it."""

    def __init__(self, name: str, directory: Path) -> None:
        self.process = Process(name, directory / f"{name}.log")
        self.process.spawn(["unshare", "-n", "sleep", "900"])
        own = os.readlink("/proc/self/ns/net")
        wait_until(
            lambda: os.readlink(f"/proc/{self.process.pid}/ns/net") != own,
            10,
            f"{name} has a namespace of its own",
        )
        self.ip("link set dev lo up")

    @property
    def pid(self) -> int:
        return self.process.pid

    def command(self, *argv: str) -> List[str]:
        """The command line that runs ``argv`` there."""
        return ["nsenter", f"--net=/proc/{self.pid}/ns/net", "--", *argv]

    def ip(self, arguments: str) -> None:
        done = subprocess.run(
            self.command("ip", *arguments.split()),
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"ip {arguments}: {done.stderr}"

    def carrier(self, device: str) -> bool:
        shown = subprocess.run(
            self.command("ip", "link", "show", "dev", device),
            check=True,
            capture_output=True,
            text=True,
        )
        return "state UP" in shown.stdout

    def inside(self, function: Callable[[], Any]) -> Any:
        """Call it there: sockets and threads that it makes belong there."""
        results: List[Any] = []
        errors: List[BaseException] = []

        def run() -> None:
            try:
                libc = ctypes.CDLL(None, use_errno=True)
                with open(f"/proc/{self.pid}/ns/net", "rb") as namespace:
                    if libc.setns(namespace.fileno(), _CLONE_NEWNET) != 0:
                        raise OSError(ctypes.get_errno(), "setns")
                results.append(function())
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        thread.join(30.0 * TIME_FACTOR)
        if errors:
            raise errors[0]
        return results[0]

    def close(self) -> None:
        self.process.end()


class Cable:
    """Both hosts, joined; it can be pulled at the broker's end."""

    def __init__(self, directory: Path) -> None:
        self.gateway = Host("gateway-host", directory)
        self.broker = Host("broker-host", directory)
        self.gateway.ip(
            "link add name gw0 type veth peer name br0 netns "
            f"{self.broker.pid}"
        )
        self.gateway.ip(f"addr add {GATEWAY}/24 dev gw0")
        self.broker.ip(f"addr add {BROKER}/24 dev br0")
        self.broker.ip(f"addr add {BEYOND}/32 dev lo")
        self.gateway.ip("link set dev gw0 up")
        self.plug()

    def plug(self) -> None:
        self.broker.ip("link set dev br0 up")
        wait_until(
            lambda: self.gateway.carrier("gw0"), 10, "gw0 has carrier",
            interval=0.05,
        )

    def pull(self) -> None:
        self.broker.ip("link set dev br0 down")
        wait_until(
            lambda: not self.gateway.carrier("gw0"), 10, "gw0 has no carrier",
            interval=0.05,
        )

    def swallow(self, on: bool) -> None:
        """The far host answers nothing any more; nobody is told."""
        self.broker.ip(
            f"route {'add' if on else 'del'} blackhole {GATEWAY}/32"
        )

    def close(self) -> None:
        self.gateway.close()
        self.broker.close()
