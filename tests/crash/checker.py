# SPDX-License-Identifier: MIT
"""What must hold for a database that a power cut has left."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Dict, List, Optional, Set, Tuple

from images import Moment


class QueueChecker:
    """Opens an image as a restart would and looks for what was promised.

    ``taken`` says when the broker had taken over which message (id ->
    monotonic nanoseconds): only those may be missing. ``strict`` adds what
    holds for the daemon's schema: the ids are not given twice, the counts
    kept in ``meta`` are exact, each client's messages are in order.

    A message's id is the text that its payload begins with, up to a space.
    """

    def __init__(
        self,
        taken: Optional[Dict[object, int]] = None,
        strict: bool = False,
        name: str = "queue.db",
    ) -> None:
        self.taken = taken or {}
        self.strict = strict
        self.name = name
        self.lost: Set[object] = set()
        self.unopenable = 0

    def missing(self, moment: Moment, kept: Set[object]) -> List[object]:
        """Acknowledged ids that are neither kept nor taken by then."""
        return [
            key
            for key in moment.acknowledged
            if key not in kept
            and self.taken.get(key, moment.time_ns + 1) > moment.time_ns
        ]

    def __call__(self, directory: Path, moment: Moment) -> List[str]:
        path = directory / self.name
        problems: List[str] = []
        kept: Set[object] = set()
        if path.exists():
            try:
                kept, problems = self._read(path, moment)
            except sqlite3.Error as error:
                self.unopenable += 1
                problems = [f"unopenable: {error}"]
        lost = self.missing(moment, kept)
        if lost:
            self.lost.update(lost)
            problems.append(f"lost: {len(lost)} messages, e.g. {lost[0]}")
        return problems

    def _read(
        self, path: Path, moment: Moment
    ) -> Tuple[Set[object], List[str]]:
        """The ids in the queue, and what is wrong apart from losses."""
        with closing(sqlite3.connect(path)) as db:
            verdict = db.execute("PRAGMA integrity_check").fetchone()[0]
            if verdict != "ok":
                self.unopenable += 1
                return set(), [f"unopenable: {verdict}"]
            tables = db.execute("SELECT name FROM sqlite_master").fetchall()
            if ("queue",) not in tables:
                return set(), []
            rows = db.execute(
                "SELECT id, payload FROM queue ORDER BY id"
            ).fetchall()
            names = [bytes(row[1]).split(b" ")[0].decode() for row in rows]
            problems = []
            if self.strict:
                problems += self._ids(db, moment)
                problems += self._counts(db, len(rows))
                problems += self._order(names)
            return set(names), problems

    @staticmethod
    def _ids(db: sqlite3.Connection, moment: Moment) -> List[str]:
        """The next id is above every id that anybody was told."""
        used = db.execute(
            "SELECT max(coalesce((SELECT max(id) FROM queue), 0),"
            " coalesce((SELECT seq FROM sqlite_sequence"
            " WHERE name = 'queue'), 0))"
        ).fetchone()[0]
        told = max(moment.acknowledged.values(), default=0)
        if used < told:
            return [f"ids come again: next after {used}, told {told}"]
        return []

    @staticmethod
    def _counts(db: sqlite3.Connection, rows: int) -> List[str]:
        kept = db.execute(
            "SELECT value FROM meta WHERE key = 'queue_messages'"
        ).fetchone()[0]
        return [] if kept == rows else [f"miscounted: {kept}, not {rows}"]

    @staticmethod
    def _order(names: List[str]) -> List[str]:
        """Ids are CLIENT-NUMBER; the numbers of each client ascend."""
        last: Dict[str, int] = {}
        for name in names:
            client, number = name.split("-")
            if last.get(client, -1) >= int(number):
                return [f"out of order: {name}"]
            last[client] = int(number)
        return []
