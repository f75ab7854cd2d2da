# SPDX-License-Identifier: MIT
"""The run: a daemon between its clients, a broker that counts, and events."""

import errno
import heapq
import os
import random
import signal
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple

from feeds import Feed
from harness import (
    Daemon,
    Database,
    Ended,
    FakeBroker,
    Proxy,
    wait_until,
)
from harness.fakebroker import Connection
from harness.proxy import UP
from ledger import Ledger, Verdict
from schedule import SETTLE, Event
from shim import Disk, Shim

DAY = 86400.0

#: Bounds that hold throughout.
MAX_RSS = 64 << 20
MAX_LOG = 16 << 20
#: On a disk that fails, and a while later, as nothing can go out of the log.
MAX_LOG_FAILING = 40 << 20
RECOVERY = 10.0
#: Descriptors besides those of the clients.
MAX_DESCRIPTORS = 48

#: Seconds between bursts of a client. The ledger of a long run would grow
#: to gigabytes at the pace of a short one.
PAUSE = 0.05
LONG = 300.0
LONG_PAUSE = 0.2

#: Older rows would be dropped: longer than any run, shorter than a jump.
MAX_AGE = 7200.0
MAX_BYTES = "32M"


class Sink(FakeBroker):
    """Enters each message in the ledger and keeps nothing else."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        #: How often a session was given up, and as each connection began.
        self.clearings = 0
        self._at_begin: Dict[int, int] = {}
        self._current: Optional[Connection] = None
        self._turn = threading.Lock()
        super().__init__(self.serve)

    def serve(self, conn: Connection) -> None:
        """A good broker; a new connection of the client ends the old one,
        whatever of it is still on its way."""
        conn.expect_connect()
        with self._turn:
            self._current = conn
            conn.connack()
        while True:
            packet = conn.read(600.0)
            conn.received.clear()
            with self._turn:
                if self._current is not conn:
                    raise Ended("taken over")
                conn.take(packet)

    def open_session(self, conn: Connection, present: Any) -> bool:
        assert conn.connect is not None
        if conn.connect.clean or not conn.connect.lasting:
            self.clearings += 1
        self._at_begin[conn.number] = self.clearings
        return super().open_session(conn, present)

    def forget(self) -> None:
        """All sessions, as after a restart without persistence."""
        self.down()
        with self._turn:
            self._current = None
            self._sessions.clear()
            self.clearings += 1
        self.up()

    def deliver(self, conn: Connection, publish: Any) -> None:
        pairs = dict(publish.properties.get("user_property", []))
        self.ledger.delivered(
            publish.payload, publish.qos, int(pairs["gw-seq"]),
            conn.number, self._at_begin[conn.number],
        )


class Watch:
    """Looks at the process now and then, in a thread."""

    def __init__(self, daemon: Daemon, ledger: Ledger, clients: int) -> None:
        self.daemon = daemon
        #: When the disk is taken to be good again.
        self.good_at = 0.0
        self.ledger = ledger
        self.bounds = {
            "descriptors": MAX_DESCRIPTORS + clients,
            "log": MAX_LOG,
            "log of a failing disk": MAX_LOG_FAILING,
        }
        if not daemon.sanitized:
            self.bounds["memory"] = MAX_RSS
        self.highest: Counter = Counter()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(0.2):
            try:
                self._look()
            except (OSError, AssertionError):
                # Between two processes there is nothing to see.
                continue

    def _look(self) -> None:
        log = Path(f"{self.daemon.queue_path}-wal")
        bad = time.monotonic() < self.good_at
        values = {
            "descriptors": len(
                os.listdir(f"/proc/{self.daemon.process.pid}/fd")
            ),
            "memory": self.daemon.memory(),
            "log of a failing disk" if bad else "log":
                log.stat().st_size if log.exists() else 0,
        }
        for name, value in values.items():
            bound = self.bounds.get(name)
            if bound and value > bound >= self.highest[name]:
                self.ledger.problem(f"{name}: {value}, at most {bound}")
            self.highest[name] = max(self.highest[name], value)

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def __str__(self) -> str:
        return (
            f"at most {self.highest['memory'] >> 20} MB of memory, "
            f"{self.highest['descriptors']} descriptors, "
            f"{self.highest['log'] / (1 << 20):.1f} MB of log "
            f"({self.highest['log of a failing disk'] / (1 << 20):.1f} on a "
            f"failing disk)"
        )


class Soak:
    """Everything that takes part."""

    def __init__(
        self,
        make_daemon: Callable[..., Daemon],
        library: Path,
        seed: int,
    ) -> None:
        self.seed = seed
        self.rng = random.Random(f"{seed}/soak")
        self.ledger = Ledger()
        self.broker = Sink(self.ledger)
        self.proxy = Proxy(self.broker.port)
        self.daemon = make_daemon(
            self.proxy.port,
            queue={"max_bytes": MAX_BYTES, "max_age": MAX_AGE},
            mqtt={"version": "5", "client_id": "soak", "ack_timeout": 5.0},
            retry={"base": 0.02, "max": 0.2, "stable": 1.0,
                   "heartbeat_delay": 0.05, "set_aside": 0.2},
        )
        self.shim = Shim(
            library, self.daemon.directory / "control", self.daemon.state
        )
        self.disk = Disk(self.daemon.state, self.shim)
        self.daemon.extra_env = dict(self.shim.environment)
        self.happened: Counter = Counter()
        self.restarts = 0
        self.faults = 0
        #: What is left to do: (when, order, action).
        self._due: List[Tuple[float, int, Callable[[], None]]] = []
        #: Restarts that wait for a disk that works.
        self._deferred: List[Event] = []
        self._number = 0

    # --- the run ---

    def run(self, schedule: List[Event], seconds: float) -> Verdict:
        clients = self.rng.randint(4, 8)
        self.daemon.start()
        self.watch = Watch(self.daemon, self.ledger, clients)
        feeds = [
            Feed(
                self.daemon.socket_path, self.ledger, number, self.seed,
                PAUSE if seconds < LONG else LONG_PAUSE,
            )
            for number in range(clients)
        ]
        begin = time.monotonic()
        for event in schedule:
            self._plan(begin + event.at, lambda e=event: self._begin(e))
        self._loop(begin + seconds)
        return self._end(feeds)

    def _plan(self, when: float, action: Callable[[], None]) -> None:
        self._number += 1
        heapq.heappush(self._due, (when, self._number, action))

    def _loop(self, end: float) -> None:
        """Until the time is over and everything has been set right."""
        while self._due or time.monotonic() < end:
            self.check()
            now = time.monotonic()
            when = self._due[0][0] if self._due else end
            if when > now:
                time.sleep(min(when - now, 0.1))
                continue
            heapq.heappop(self._due)[2]()

    def check(self) -> None:
        """What must hold at every moment."""
        self.daemon.check_alive()
        self.broker.check()
        assert not self.ledger.problems, self.ledger.problems[:5]

    def _begin(self, event: Event) -> None:
        if self.faults and event.kind in ("kill", "term"):
            self._deferred.append(event)
            return
        self.happened[event.kind] += 1
        over = EVENTS[event.kind](self, event)
        if over:
            self._plan(time.monotonic() + event.seconds, over)

    # --- the link ---

    def cut(self, event: Event) -> None:
        self.proxy.cut(rst=True)

    def cut_end(self, event: Event) -> None:
        self.proxy.cut(rst=False)

    def cut_inside(self, event: Event) -> None:
        self.proxy.cut_after(UP, 1 + int(event.value * 20000))

    def refuse(self, event: Event) -> Callable[[], None]:
        self.proxy.refuse()
        return self.proxy.resume

    def stall(self, event: Event) -> Callable[[], None]:
        self.proxy.stall(
            up=event.kind != "stall-down", down=event.kind != "stall-up"
        )
        return self.proxy.resume

    def broker_down(self, event: Event) -> Callable[[], None]:
        self.broker.down()
        return self.broker.up

    def forget(self, event: Event) -> None:
        self.broker.forget()

    # --- the process ---

    def kill(self, event: Event) -> None:
        # Before it happens: what the next one delivers comes after it.
        self.ledger.killed()
        self.daemon.kill9()
        self._start_again()

    def broken_start(self, event: Event) -> None:
        """When it is ready, and whether, is another matter; it must not
        end."""
        if not self.faults:
            # Events were late, and the failure is over.
            return
        self.ledger.killed()
        self.daemon.kill9()
        self.restarts += 1
        self.daemon.spawn()

    def term(self, event: Event) -> None:
        # A pause may not be over, when events were late.
        self.daemon.process.signal(signal.SIGCONT)
        self.daemon.stop(40.0)
        self._start_again()

    def _start_again(self) -> None:
        self.restarts += 1
        self.verify_counts()
        self.daemon.start()

    def pause(self, event: Event) -> Callable[[], None]:
        self.daemon.process.signal(signal.SIGSTOP)
        return lambda: self.daemon.process.signal(signal.SIGCONT)

    def hang_up(self, event: Event) -> None:
        if self.ready():
            self.daemon.process.signal(signal.SIGHUP)

    def ready(self) -> bool:
        return "READY=1" in self.daemon.notify.lines

    # --- the disk ---

    def full(self, event: Event) -> Callable[[], None]:
        self._broken()
        self.disk.fill()
        return lambda: self._repaired(self.disk.free)

    def failing(self, event: Event) -> Callable[[], None]:
        what, error = {
            "no-space": ("write", errno.ENOSPC),
            "write-error": ("write", errno.EIO),
            "sync-error": ("sync", errno.EIO),
            "read-error": ("read", errno.EIO),
        }[event.kind]
        self._broken()
        self.shim.fail(what, error)
        return lambda: self._repaired(self.shim.heal)

    def _broken(self) -> None:
        self.faults += 1
        self.watch.good_at = float("inf")

    def _repaired(self, how: Callable[[], None]) -> None:
        how()
        self.faults -= 1
        if self.faults == 0:
            self.watch.good_at = time.monotonic() + RECOVERY
            for event in self._deferred:
                self._plan(
                    time.monotonic() + SETTLE, lambda e=event: self._begin(e)
                )
            self._deferred.clear()

    # --- the clock ---

    def clock(self, event: Event) -> Callable[[], None]:
        days = 0.5 + event.value * 400
        sign = -1 if event.kind == "clock-behind" else 1
        self.shim.shift_clock(sign * days * DAY)
        return lambda: self.shim.shift_clock(0)

    # --- the end ---

    def verify_counts(self) -> None:
        """Between two processes: what `meta` says is what there is."""
        database = Database(self.daemon.queue_path)
        for key, table in (
            ("queue_messages", "queue"), ("dead_letters", "dead_letters")
        ):
            told = database.value(
                "SELECT value FROM meta WHERE key = ?", key
            )
            rows = database.value(f"SELECT count(*) FROM {table}")
            if told != rows:
                self.ledger.problem(f"{key} is {told}, there are {rows}")

    def _end(self, feeds: List[Feed]) -> Verdict:
        """Let everything arrive, stop, and judge."""
        wait_until(self.ready, 60, "the daemon accepts clients")
        for feed in feeds:
            feed.stop()
        for feed in feeds:
            feed.join(60.0)
        database = Database(self.daemon.queue_path)

        def empty() -> bool:
            self.check()
            return database.count() == 0

        try:
            wait_until(empty, 90, "the queue is empty", interval=0.1)
        except TimeoutError as error:
            self.ledger.problem(f"{error}: {database.count()} rows are left")
        self.watch.stop()
        self.daemon.stop()
        self.verify_counts()
        sound = database.value("PRAGMA integrity_check")
        if sound != "ok":
            self.ledger.problem(f"the database is not sound: {sound}")
        dead = database.query("SELECT id FROM dead_letters")
        return self.ledger.judge(row[0] for row in dead)

    def events(self) -> str:
        kinds = ", ".join(
            f"{count} {kind}" for kind, count in sorted(self.happened.items())
        )
        return (
            f"{sum(self.happened.values())} events ({kinds}), "
            f"{self.restarts} restarts, {self.shim.failed} calls made to "
            f"fail, disk {'tmpfs' if self.disk.mounted else 'by the shim'}"
        )

    def set_aside(self) -> List[str]:
        """Databases that were taken for rotten, though none of them is, and
        what the log tells of it."""
        found = [
            path.name for path in self.daemon.state.iterdir()
            if ".corrupt" in path.name
        ]
        lines = self.daemon.output().splitlines()
        for number, line in enumerate(lines):
            if found and ".corrupt" in line:
                found += lines[max(0, number - 6):number + 1]
        return found

    def close(self) -> None:
        self.daemon.process.signal(signal.SIGCONT)
        self.daemon.verify_stop()
        self.proxy.close()
        self.disk.close()
        self.shim.close()
        self.broker.close()


EVENTS: Dict[str, Callable[[Soak, Event], Any]] = {
    "cut": Soak.cut,
    "cut-end": Soak.cut_end,
    "cut-inside": Soak.cut_inside,
    "refuse": Soak.refuse,
    "stall": Soak.stall,
    "stall-up": Soak.stall,
    "stall-down": Soak.stall,
    "broker-down": Soak.broker_down,
    "forget": Soak.forget,
    "broken-start": Soak.broken_start,
    "kill": Soak.kill,
    "term": Soak.term,
    "pause": Soak.pause,
    "hup": Soak.hang_up,
    "full": Soak.full,
    "no-space": Soak.failing,
    "write-error": Soak.failing,
    "sync-error": Soak.failing,
    "read-error": Soak.failing,
    "clock-ahead": Soak.clock,
    "clock-behind": Soak.clock,
}
