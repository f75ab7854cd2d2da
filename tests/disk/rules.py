# SPDX-License-Identifier: MIT
"""Tells faultshim.c, in a running daemon, which calls fail."""

import errno
import os
from pathlib import Path
from typing import Dict

from harness import wait_until

FOREVER = -1


class Rules:
    """One set of rules at a time; each change counts anew."""

    def __init__(self, directory: Path, watched: Path) -> None:
        self.path = directory / "rules"
        self.hits_path = directory / "hits"
        self.watched = Path(os.path.realpath(watched))
        self.clear()

    def environment(self) -> Dict[str, str]:
        return {
            "FAULT_DIR": str(self.watched),
            "FAULT_RULES": str(self.path),
            "FAULT_HITS": str(self.hits_path),
        }

    def _write(self, text: str) -> None:
        # A new inode each time: that is how the library knows.
        new = self.path.with_suffix(".new")
        new.write_text(text)
        self.hits_path.write_text("")
        new.rename(self.path)

    def set(
        self, *operations: str, suffix: str = "any", error: int = 0,
        count: int = FOREVER, delay_msec: int = 0,
    ) -> None:
        """Those operations on files of such a name fail, or are late.

        Operations: write, sync, read, truncate, allocate, open. Error 0
        only delays. ``count`` calls are hit, together.
        """
        name = errno.errorcode[error] if error else "none"
        self._write(
            f"{'+'.join(operations)} {suffix} {error} {count} {delay_msec} "
            f"{name}\n"
        )

    def clear(self) -> None:
        self._write("")

    def hits(self) -> int:
        """Calls hit since the last change."""
        return self.hits_path.read_text().count("\n")

    def wait_hits(self, count: int, timeout: float = 30.0) -> None:
        wait_until(
            lambda: self.hits() >= count, timeout,
            f"{count} calls to be hit by a fault, not {self.hits()}",
        )
