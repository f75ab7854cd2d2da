# SPDX-License-Identifier: MIT
"""What must hold for a database that a power cut has left."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Dict, List, Optional, Set, Tuple

from images import Moment

#: For so long a row may be in the queue that the broker has taken.
REMOVAL_NS = 2 * 10**9


class QueueChecker:
    """Opens an image as a restart would and looks for what was promised.

    ``taken`` says when the broker had taken over which message (id ->
    monotonic nanoseconds): only those may be missing, and those that a rule
    has dropped: with ``max_messages`` a row may be gone when so many newer
    ones are in the queue, or were until the broker took them.

    ``strict`` adds what holds for the daemon's schema: the ids are not given
    twice, the counts kept in ``meta`` are exact, each client's messages are
    in order.

    ``rotten``: the recording began with a damaged database. Then an image
    whose database is still that one, or is missing while it is set aside,
    says nothing here; ``undecided`` is set, and the daemon must be asked.

    A message's id is the text that its payload begins with, up to a space.
    """

    def __init__(
        self,
        taken: Optional[Dict[object, int]] = None,
        strict: bool = False,
        name: str = "queue.db",
        max_messages: Optional[int] = None,
        rotten: bool = False,
    ) -> None:
        self.taken = taken or {}
        self.strict = strict
        self.name = name
        self.max_messages = max_messages
        self.rotten = rotten
        self.undecided = False
        #: What the last image's queue had.
        self.kept: Set[object] = set()
        self.lost: Set[object] = set()
        self.dropped: Set[object] = set()
        self.unopenable = 0

    def was_taken(self, moment: Moment, key: object) -> bool:
        return self.taken.get(key, moment.time_ns + 1) <= moment.time_ns

    def missing(self, moment: Moment, kept: Set[object]) -> List[object]:
        """Acknowledged ids that are neither kept, taken by then, nor
        dropped by the rule."""
        gone = [
            key
            for key in moment.acknowledged
            if key not in kept and not self.was_taken(moment, key)
        ]
        if self.max_messages is None or not gone:
            return gone
        # What the broker got later was not dropped before.
        if any(key in self.taken for key in gone):
            return [key for key in gone if key in self.taken]
        # Rows go from the oldest on, while there are more than the bound.
        # So besides the newest that is gone there is at least the bound.
        newest = max(gone, key=lambda key: moment.acknowledged[key])
        others = sum(
            seq > moment.acknowledged[newest]
            or self._was_claimed(moment, key, newest)
            for key, seq in moment.acknowledged.items()
        ) + len(kept - moment.acknowledged.keys())
        if others >= self.max_messages:
            self.dropped.update(gone)
            return []
        return gone

    def _was_claimed(
        self, moment: Moment, key: object, newest: object
    ) -> bool:
        """Older, but on its way to the broker when the other one came: it
        counts, and does not go. Its removal may wait a little."""
        return (
            key in self.taken and newest in moment.told_at
            and self.taken[key] + REMOVAL_NS >= moment.told_at[newest]
        )

    def __call__(self, directory: Path, moment: Moment) -> List[str]:
        path = directory / self.name
        problems: List[str] = []
        kept: Set[object] = set()
        self.undecided = self.rotten and not path.exists()
        if path.exists():
            try:
                kept, problems = self._read(path, moment)
            except sqlite3.Error as error:
                problems = [f"unopenable: {error}"]
        if any(each.startswith("unopenable") for each in problems):
            self.undecided = self.rotten
            self.unopenable += not self.rotten
        if self.undecided:
            return []
        self.kept = kept
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
                return set(), [f"unopenable: {verdict}"]
            tables = db.execute("SELECT name FROM sqlite_master").fetchall()
            if ("queue",) not in tables:
                # A new one may be empty; one set aside may not.
                return set(), ["unopenable: no queue"] * self.rotten
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
