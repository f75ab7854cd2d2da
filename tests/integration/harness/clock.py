# SPDX-License-Identifier: MIT
"""The daemon's time of day, in the hands of a test."""

import mmap
import os
import shlex
import struct
import subprocess
import time
from pathlib import Path

from .daemon import Daemon

_LAYOUT = "<qqq"


def build(directory: Path) -> Path:
    """The preload library, freshly compiled."""
    library = directory / "clock.so"
    subprocess.run(
        [
            *shlex.split(os.environ.get("CC", "cc")),
            "-std=gnu17", "-D_GNU_SOURCE", "-O2", "-Wall", "-Wextra",
            "-Werror", "-fPIC", "-shared", "-o", str(library),
            str(Path(__file__).with_name("clock.c")),
        ],
        check=True,
    )
    return library


class Clock:
    """What one daemon, or one after the other, sees as the time of day.

    It goes on at the speed of the real one. It begins as a clock that is
    right and synchronised.
    """

    def __init__(self, library: Path, path: Path) -> None:
        self.library = library
        self.path = path
        path.write_bytes(struct.pack(_LAYOUT, 0, 1, 0))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)

    def give(self, daemon: Daemon) -> None:
        """The daemon uses this clock from its next start on."""
        options = os.environ.get("ASAN_OPTIONS", "")
        daemon.extra_env.update(
            LD_PRELOAD=str(self.library),
            MQTTGW_CLOCK=str(self.path),
            ASAN_OPTIONS=f"{options}:verify_asan_link_order=0",
        )

    def _put(self, index: int, value: int) -> None:
        struct.pack_into("<q", self._map, 8 * index, value)

    def _get(self, index: int) -> int:
        return struct.unpack_from("<q", self._map, 8 * index)[0]

    def set(self, seconds: float) -> None:
        """Somebody sets it to so many seconds since the epoch."""
        self._put(0, round((seconds - time.time()) * 1000))

    def now(self) -> float:
        return time.time() + self._get(0) / 1000

    def synchronised(self, value: bool) -> None:
        """What the kernel says."""
        self._put(1, int(value))

    def refused(self) -> None:
        """The kernel may not be asked."""
        self._put(1, -1)

    def file(self, there: bool) -> None:
        """systemd-timesyncd's sign of a first synchronisation."""
        self._put(2, int(there))
