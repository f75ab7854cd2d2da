# SPDX-License-Identifier: MIT
"""Stands in for the daemon: commits rows and acknowledges each of them.

Usage: toywriter.py DATABASE SYNCHRONOUS ROWS SOCKET-FD

With SYNCHRONOUS "FULL" it keeps its word over a power cut; with "NORMAL" or
"OFF" it does not, and the checker of the images has to notice.
"""

import json
import socket
import sqlite3
import sys


def main() -> None:
    path, synchronous, rows, descriptor = sys.argv[1:]
    client = socket.socket(fileno=int(descriptor))
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute(f"PRAGMA synchronous = {synchronous}")
    # Often enough for checkpoints and log restarts to be in the recording.
    db.execute("PRAGMA wal_autocheckpoint = 12")
    db.execute(
        "CREATE TABLE IF NOT EXISTS queue"
        " (id INTEGER PRIMARY KEY AUTOINCREMENT, payload BLOB NOT NULL)"
    )
    for number in range(int(rows)):
        name = f"toy-{number}"
        payload = name.encode() + b" " + b"x" * 200
        row = db.execute("INSERT INTO queue (payload) VALUES (?)", [payload])
        reply = {"id": name, "status": "queued", "seq": row.lastrowid}
        client.sendall(json.dumps(reply).encode() + b"\n")


main()
