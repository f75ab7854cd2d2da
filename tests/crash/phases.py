# SPDX-License-Identifier: MIT
"""Runs of the daemon under the recorder, each about one part of its work.

A phase drives a daemon through what may go on when the power fails. It ends
with an empty queue and a stop in order, so that the broker's list tells what
became of each message.
"""

import os
import random
import sqlite3
from contextlib import closing
from pathlib import Path

from harness import Client, env_int, wait_until
from images import Kind, Recording, read_directory, read_state

SEED = env_int("MQTTGW_SEED", 1)
MESSAGES = env_int("MQTTGW_CRASH_MESSAGES", 150)

SQL = Path(__file__).resolve().parents[2] / "sql"


def name_of(payload):
    """The id that a message's payload begins with."""
    return payload.split(b" ")[0].decode()


def stretches(recording, suffix):
    """How often writes to such a file began anew after writes to others."""
    paths = [
        each.path for each in recording.records if each.kind == Kind.WRITE
    ]
    return sum(
        path.endswith(suffix) and not before.endswith(suffix)
        for before, path in zip([""] + paths, paths)
    )


def log_restarts(recording):
    """How often the write-ahead log was written from its start."""
    return sum(
        each.kind == Kind.WRITE and each.offset == 0
        and each.path.endswith("-wal")
        for each in recording.records
    )


class Phase:
    """Drives a daemon under the recorder; see run() of each kind."""

    #: In the summary.
    name = ""
    #: Of all images that are asked for, so much of it.
    share = 0.0
    queue = {}
    sizes = [0, 20, 200, 900, 5000]
    #: Whether each image whose database is no sound one is handed to the
    #: daemon, which has to set it aside.
    rotten = False

    def __init__(self, daemon, broker, proxy, recorder, log):
        self.daemon = daemon
        self.broker = broker
        self.proxy = proxy
        self.log = log
        self.rng = random.Random(f"{SEED}/{self.name}")
        #: Replies: id -> seq; and the ids that were refused.
        self.answered = {}
        self.refused = set()
        self.feeds = 0
        #: What was in the queue when the recording began: id -> seq.
        self.owed = {}
        self.state = None
        self.directory = Path(os.path.realpath(daemon.state))
        options = os.environ.get("ASAN_OPTIONS", "")
        self.recording_env = {
            "LD_PRELOAD": str(recorder),
            "RECORD_DIR": str(self.directory),
            "RECORD_LOG": str(log),
            # The recorder stands in front of the sanitizer's library.
            "ASAN_OPTIONS": f"{options}:verify_asan_link_order=0",
        }
        proxy.refuse()
        self.prepare()
        daemon.extra_env = dict(self.recording_env)

    def prepare(self):
        """What is done before the recording begins."""

    def run(self):
        raise NotImplementedError

    def examine(self, recording):
        """Whether the recording holds what the phase is about."""

    def recording(self):
        return Recording(
            self.log, self.directory, state=self.state, owed=self.owed
        )

    # --- steps ---

    def spawn(self, **recorder_options):
        """Start the program; RECORD_KILL and the like by lower case."""
        self.daemon.extra_env = dict(self.recording_env)
        for name, value in recorder_options.items():
            if value:
                key = f"RECORD_{name.upper()}"
                self.daemon.extra_env[key] = str(value)
        self.daemon.spawn()

    def start(self, kill=None, fail=None):
        """Start; to be killed behind so many records, or to have some of
        its syncs fail."""
        self.spawn(kill=kill, fail=fail)
        self.daemon.wait_ready()

    def start_killed(self, kill):
        """Start it to be killed behind so many records, idle as it is.

        True when that came about; else it runs.
        """
        self.spawn(kill=kill)
        self.daemon.expect_exit = True

        def decided():
            return (
                not self.daemon.process.running()
                or "READY=1" in self.daemon.notify.lines
            )

        wait_until(decided, 30, "the daemon is ready or killed")
        if self.daemon.process.running():
            self.daemon.expect_exit = False
            return False
        assert self.daemon.process.status() == -9, self.daemon.output()
        return True

    def messages(self, count):
        """New messages of mixed size; names ascend within a feed."""
        self.feeds += 1
        for number in range(count):
            name = f"feed{self.feeds}-{number}"
            size = self.rng.choice(self.sizes)
            yield {
                "id": name,
                "topic": f"crash/{self.feeds}",
                "payload": name + " " + "x" * size,
                "qos": self.rng.choice([1, 2]),
            }

    def note(self, replies, refusals=None):
        for reply in replies:
            if refusals and reply.get("error") == refusals:
                self.refused.add(reply["id"])
                continue
            assert reply["status"] == "queued", reply
            self.answered[reply["id"]] = reply["seq"]

    def feed(self, count, batch, refusals=None):
        """So many messages, ``batch`` at a time in flight; ``refusals`` is
        the error that some of them may meet."""
        with Client(self.daemon.socket_path) as client:
            waiting = list(self.messages(count))
            while waiting:
                now, waiting = waiting[:batch], waiting[batch:]
                self.note(client.feed(now), refusals)

    def feed_until_killed(self, batch):
        """Feed until the recorder ends the daemon."""
        self.daemon.expect_exit = True
        with Client(self.daemon.socket_path) as client:
            waiting = self.messages(100_000)
            try:
                while True:
                    now = [next(waiting) for _ in range(batch)]
                    self.note(client.feed(now))
            except ConnectionError:
                self.note(client.replies(client.pending()))
        assert self.daemon.wait() == -9

    def drain(self, excused=()):
        """Wait until the broker has everything that was answered."""
        wanted = (set(self.answered) | set(self.owed)) - set(excused)

        def delivered():
            self.daemon.check_alive()
            return wanted <= self.arrived()

        wait_until(delivered, 60, "everything is delivered", interval=0.05)

    def arrived(self):
        return {name_of(payload) for payload in self.broker.payloads()}

    def taken(self):
        """When the broker took over which message, at first."""
        times = {}
        for message in self.broker.delivered:
            times.setdefault(name_of(message.payload), message.time_ns)
        return times

    def wait_rows(self, count):
        """Until the database has so few rows, as its own counter says."""

        def few():
            self.daemon.check_alive()
            return self.rows() <= count

        wait_until(few, 30, f"{count} rows in the queue", interval=0.05)

    def rows(self):
        uri = f"file:{self.daemon.queue_path}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=10)) as db:
            return db.execute("SELECT count(*) FROM queue").fetchone()[0]


class Traffic(Phase):
    """Outages and deliveries, orderly stops and kills, checkpoints, log
    restarts, removals."""

    name = "traffic"
    share = 0.44

    def run(self):
        # The first start of all, without a broker, and a kill.
        self.start(kill=self.rng.randint(400, 900))
        self.feed_until_killed(batch=1)
        # One at a time, then many: an outage that ends in order.
        self.start()
        self.feed(MESSAGES, batch=1)
        self.feed(MESSAGES, batch=25)
        self.daemon.stop()
        # The backlog goes out while new messages come in, and a kill.
        self.proxy.resume()
        self.start(kill=self.rng.randint(800, 1600))
        self.feed_until_killed(batch=3)
        # Removals and additions together, down to an empty queue.
        self.start()
        self.feed(MESSAGES, batch=1)
        self.drain()
        self.feed(MESSAGES, batch=10)
        self.drain()
        self.daemon.stop()
        # A kill while nothing but the drain is at work.
        self.proxy.refuse()
        self.start()
        self.feed(MESSAGES, batch=50)
        self.daemon.stop()
        self.proxy.resume()
        had = len(self.broker.delivered)
        self.start()
        self.broker.wait_delivered(had + 10)
        self.daemon.kill9()
        # The last one sets everything right.
        self.start()
        self.feed(10, batch=1)
        self.drain()
        self.daemon.stop()

    def examine(self, recording):
        assert stretches(recording, "queue.db") >= 5, "no checkpoints inside"
        assert log_restarts(recording) >= 5, "no log restarts inside"


class Overflow(Phase):
    """More than ``max_messages`` with drop-oldest: in an outage, over a
    kill, and while the broker takes what is left."""

    name = "overflow"
    share = 0.15
    bound = 60
    queue = {"max_messages": bound, "overflow": "drop-oldest"}
    sizes = [0, 20, 900]

    def run(self):
        self.start(kill=self.rng.randint(500, 900))
        self.feed_until_killed(batch=1)
        self.start()
        self.feed(MESSAGES, batch=1)
        self.feed(MESSAGES, batch=30)
        # Nothing was claimed: the newest are left, and no others.
        self.wait_rows(self.bound)
        newest = sorted(self.answered, key=self.answered.get)[-self.bound:]
        assert self.rows() == self.bound
        self.proxy.resume()
        # Not before: lines come fast enough to push out all of them.
        wait_until(
            lambda: set(newest) & self.arrived(), 30, "one of those left"
        )
        # What is on its way to the broker counts and cannot go.
        self.feed(MESSAGES, batch=1, refusals="queue-full")
        last = max(self.answered, key=self.answered.get)
        wait_until(
            lambda: last in self.arrived(), 30, "the newest arrives"
        )
        self.wait_rows(0)
        self.daemon.stop()
        self.kept_through_outage = set(newest) & self.arrived()

    def examine(self, recording):
        gone = set(self.answered) - self.arrived()
        assert len(gone) >= MESSAGES, "the bound was never reached"
        # What came after the outage may have pushed out some more, never all.
        assert self.kept_through_outage, "nothing was left of the outage"


class Vacuum(Phase):
    """A backlog of several megabytes that drains, after which the file
    shrinks by steps, with new messages in between, and over a kill."""

    name = "vacuum"
    share = 0.08
    sizes = [4000, 9000]
    #: Some free pages stay, for the next messages.
    small = 1536 * 1024

    def size(self):
        return self.daemon.queue_path.stat().st_size

    def run(self):
        self.start()
        self.feed(4 * MESSAGES, batch=50)
        self.daemon.stop()
        self.largest = self.size()
        self.proxy.resume()
        self.start()
        self.shrink((self.largest + self.small) / 2)
        self.daemon.kill9()
        self.start()
        self.shrink(self.small)
        self.feed(5, batch=1)
        self.drain()
        self.daemon.stop()

    def shrink(self, size):
        """Wait for it, and disturb it."""

        def shrunk():
            self.daemon.check_alive()
            self.feed(1, batch=1)
            return self.size() <= size

        wait_until(
            shrunk, 60, f"{self.size()} bytes become {size:.0f}", 0.1
        )

    def examine(self, recording):
        assert self.largest > 3 << 20
        ends = [
            each for each in recording.records
            if each.kind == Kind.SIZE and each.path.endswith("/queue.db")
        ]
        assert ends, "the file was never cut shorter"


class Migration(Phase):
    """A database of schema version 1, as the first release left it, is
    brought up to date; kills in between."""

    name = "migration"
    share = 0.1

    def prepare(self):
        rows = list(self.messages(MESSAGES))
        with closing(sqlite3.connect(self.daemon.queue_path)) as db:
            db.execute("PRAGMA auto_vacuum = INCREMENTAL")
            db.execute("PRAGMA journal_mode = WAL")
            db.executescript((SQL / "001-initial.sql").read_text())
            db.execute("PRAGMA user_version = 1")
            db.executemany(
                "INSERT INTO queue"
                " (topic, payload, qos, retained, timestamp)"
                " VALUES (?, ?, ?, 0, 1700000000000)",
                [
                    (row["topic"], row["payload"].encode(), row["qos"])
                    for row in rows
                ],
            )
            db.execute(
                "UPDATE meta SET value = ? WHERE key = 'queue_messages'",
                [len(rows)],
            )
            db.commit()
        self.owed = {row["id"]: n for n, row in enumerate(rows, 1)}
        self.state = read_state(self.directory)

    def run(self):
        for kill in sorted(self.rng.sample(range(3, 60), 4)):
            if not self.start_killed(kill):
                self.daemon.kill9()
        self.start()
        assert self.rows() == len(self.owed)
        self.feed(MESSAGES // 3, batch=1)
        self.proxy.resume()
        self.drain()
        self.daemon.stop()

    def examine(self, recording):
        with closing(sqlite3.connect(self.daemon.queue_path)) as db:
            version = db.execute("PRAGMA user_version").fetchone()[0]
        assert version == len(list(SQL.glob("[0-9]*.sql")))


class Quarantine(Phase):
    """A database with damaged pages is set aside and its readable rows are
    carried over; kills in between."""

    name = "quarantine"
    share = 0.06
    rotten = True

    def prepare(self):
        """Rows in the database and in its log, of which two pages rot."""
        self.daemon.start()
        self.feed(MESSAGES, batch=50)
        self.daemon.restart()
        self.feed(MESSAGES // 3, batch=1)
        self.daemon.kill9()
        destroyed = self.damage()
        # The ids may start over.
        self.owed = {
            key: 0 for key in self.answered if key not in destroyed
        }
        self.answered = {}
        self.state = read_state(self.directory)

    def damage(self):
        """Overwrite the first page of rows, and one from the middle;
        returns the ids of the rows on them."""
        path = self.daemon.queue_path
        content = bytearray(path.read_bytes())
        size = int.from_bytes(content[16:18], "big")
        pages = [
            at for at in range(size, len(content), size)
            # A leaf of a table.
            if content[at] == 0x0D and b"feed1-" in content[at:at + size]
        ]
        first = min(
            pages, key=lambda at: min(self.names(content[at:at + size]))
        )
        others = [at for at in pages if at != first]
        destroyed = set()
        for at in (first, self.rng.choice(others[len(others) // 3:-3])):
            destroyed |= {
                f"feed1-{number}"
                for number in self.names(content[at:at + size])
            }
            content[at:at + size] = self.rng.randbytes(size)
        path.write_bytes(content)
        return destroyed

    @staticmethod
    def names(page):
        """The numbers of the messages that begin on a page."""
        return {
            int(part.split(b" ")[0])
            for part in bytes(page).split(b"feed1-")[1:]
        }

    def run(self):
        for kill in sorted(self.rng.sample(range(5, 120), 4)):
            if not self.start_killed(kill):
                self.daemon.kill9()
        self.start()
        assert self.rows() == len(self.owed)
        self.feed(MESSAGES // 5, batch=1)
        self.proxy.resume()
        self.drain()
        self.daemon.stop()

    def examine(self, recording):
        aside = list(self.directory.glob("queue.db.corrupt-*"))
        assert aside, "the rotten database was not kept"
        # Each row once: the damaged ones are gone, no others.
        assert self.arrived() == set(self.owed) | set(self.answered)


class Failing(Phase):
    """Syncs that fail: the rows under way are refused, and those that come
    after them are as safe as ever."""

    name = "failing"
    share = 0.17

    def run(self):
        self.start(fail="40:1")
        self.feed(MESSAGES // 2, batch=1, refusals="storage")
        self.daemon.kill9()
        # A few in a row, with several lines in each transaction.
        self.start(fail="30:3")
        self.feed_through_failures(MESSAGES, batch=5)
        self.daemon.stop()
        # Between removals, whose commits ask for no sync.
        self.proxy.resume()
        for _ in range(2):
            first = self.rng.randint(8, 40)
            self.start(fail=f"{first}:{self.rng.randint(1, 3)}")
            self.feed_through_failures(MESSAGES, batch=2)
            self.drain()
            self.daemon.kill9()
        # Already at the start.
        self.start(fail="2:2")
        self.feed_through_failures(10, batch=1)
        self.drain()
        self.daemon.stop()

    def feed_through_failures(self, count, batch):
        """Clients wait a little after a refusal, or the whole feed would
        be over before the store is tried again."""
        with Client(self.daemon.socket_path) as client:
            waiting = list(self.messages(count))
            while waiting:
                now, waiting = waiting[:batch], waiting[batch:]
                before = len(self.refused)
                self.note(client.feed(now), refusals="storage")
                if len(self.refused) > before:
                    wait_until(self.accepts, 30, "the store works again",
                               interval=0.05)

    def accepts(self):
        self.daemon.check_alive()
        with Client(self.daemon.socket_path) as client:
            message = next(self.messages(1))
            reply = client.ask(message)
        self.note([reply], refusals="storage")
        return reply["status"] == "queued"

    def examine(self, recording):
        kinds = [each.kind for each in recording.records]
        assert kinds.count(Kind.SYNC_FAILED) >= 8
        assert self.refused, "nothing was refused"
        # What a process had refused it did not deliver; one that was killed
        # may have left such rows to the next.
        late = self.refused & self.arrived()
        assert all(name.startswith("feed1-") for name in late), late


PHASES = [Traffic, Overflow, Vacuum, Migration, Quarantine, Failing]


def make(kind, make_daemon, broker, proxy, recorder, log, sync):
    """A phase with a daemon of its own, set up but not run."""
    daemon = make_daemon(
        proxy.port,
        queue={"sync": sync, **kind.queue},
        retry={"base": 0.02, "max": 0.1, "stable": 0.5},
    )
    return kind(daemon, broker, proxy, recorder, log)


def complete(phase, recording):
    """The recorder has seen everything that happened to the files."""
    return recording.final_image() == read_directory(phase.directory)
