# SPDX-License-Identifier: MIT
"""Looks into the queue's database from outside, without writing."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, List, Tuple

from .waiting import wait_until


class Database:
    """Opens the file for each question and closes it again."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def query(self, sql: str, *values: Any) -> List[Tuple[Any, ...]]:
        uri = f"file:{self.path}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=10.0)) as db:
            return db.execute(sql, values).fetchall()

    def value(self, sql: str, *values: Any) -> Any:
        """The first column of the only row."""
        rows = self.query(sql, *values)
        assert len(rows) == 1, f"{len(rows)} rows from {sql!r}"
        return rows[0][0]

    def count(self) -> int:
        """Messages that wait in the queue."""
        return self.value("SELECT count(*) FROM queue")

    def rows(self) -> List[Tuple[Any, ...]]:
        """(id, topic, payload, qos, retained, timestamp), in order."""
        return self.query(
            "SELECT id, topic, payload, qos, retained, timestamp"
            " FROM queue ORDER BY id"
        )

    def wait_count(self, count: int, timeout: float = 20.0) -> None:
        wait_until(
            lambda: self.count() == count,
            timeout,
            f"{count} rows in the queue table (there are {self.count()})",
            interval=0.02,
        )

    def wait_empty(self, timeout: float = 20.0) -> None:
        self.wait_count(0, timeout)
