# SPDX-License-Identifier: MIT
"""Commands for soakshim.c, and a disk that can be filled."""

import errno
import mmap
import os
import struct
import subprocess
from pathlib import Path

#: struct control of soakshim.c.
LAYOUT = struct.Struct("@iiiiq")

FIELDS = {"write": 0, "sync": 4, "read": 8}
FAILED = 12
OFFSET = 16

#: Of the tmpfs that the queue is on, when there may be one.
DISK_BYTES = 96 << 20


class Shim:
    """The control file, and the environment of a program that heeds it."""

    def __init__(self, library: Path, file: Path, directory: Path) -> None:
        file.write_bytes(bytes(LAYOUT.size))
        with open(file, "r+b") as opened:
            self._memory = mmap.mmap(opened.fileno(), LAYOUT.size)
        options = os.environ.get("ASAN_OPTIONS", "")
        self.environment = {
            "LD_PRELOAD": str(library),
            "SOAK_CONTROL": str(file),
            "SOAK_DIR": os.path.realpath(directory),
            # The shim stands in front of the sanitizer's library.
            "ASAN_OPTIONS": f"{options}:verify_asan_link_order=0",
        }

    def fail(self, what: str, error: int) -> None:
        """Calls of this sort ("write", "sync", "read") fail; 0: no more."""
        struct.pack_into("@i", self._memory, FIELDS[what], error)

    def heal(self) -> None:
        for what in FIELDS:
            self.fail(what, 0)

    def shift_clock(self, seconds: float) -> None:
        """So far from the true time of day; 0 sets it right."""
        struct.pack_into("@q", self._memory, OFFSET, int(seconds * 1e9))

    @property
    def failed(self) -> int:
        """How many calls have been made to fail."""
        return struct.unpack_from("@i", self._memory, FAILED)[0]

    def close(self) -> None:
        self._memory.close()


class Disk:
    """A directory on a small tmpfs of its own, for root.

    For others it is full when the shim says so.
    """

    def __init__(self, directory: Path, shim: Shim) -> None:
        self.directory = directory
        self.shim = shim
        self.mounted = os.geteuid() == 0 and subprocess.run(
            [
                "mount", "-t", "tmpfs", "-o",
                f"size={DISK_BYTES},mode=0700", "soak", str(directory),
            ],
            capture_output=True,
        ).returncode == 0
        self._filler = directory / "filler"

    def fill(self) -> None:
        """Not a byte is left."""
        if not self.mounted:
            self.shim.fail("write", errno.ENOSPC)
            return
        block = bytes(1 << 20)
        with open(self._filler, "ab", buffering=0) as file:
            while block:
                try:
                    if file.write(block) == len(block):
                        continue
                except OSError as error:
                    assert error.errno == errno.ENOSPC, error
                block = block[:len(block) // 2]

    def free(self) -> None:
        if not self.mounted:
            self.shim.fail("write", 0)
        self._filler.unlink(missing_ok=True)

    def close(self) -> None:
        self.free()
        if self.mounted:
            subprocess.run(["umount", str(self.directory)], check=True)
            self.mounted = False
