# SPDX-License-Identifier: MIT
"""The instrument's own proof: recorder, images and checker can fail."""

import os
import random
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from checker import QueueChecker
from images import (
    Disk,
    Kind,
    LogRecord,
    Moment,
    Recording,
    acknowledgements,
    read_directory,
)

HERE = Path(__file__).resolve().parent
BASE = Path("/disk")


def record(kind, inode=0, offset=0, name="f", data=b""):
    path = f"{BASE}/{name}"
    if kind in (Kind.SYNC_BEGIN, Kind.SYNC_END, Kind.SYNC_FAILED):
        offset = 1
    return LogRecord(kind, inode, offset, 0, 1, path, data)


def disk_after(*records):
    disk = Disk(BASE)
    for each in records:
        disk.apply(each)
    return disk


def image(disk, variant, seed=0):
    return disk.image(variant, random.Random(seed))


SYNCED = [
    record(Kind.CREATE, 7),
    record(Kind.WRITE, 7, 0, data=b"a" * 1024),
    record(Kind.SYNC_BEGIN, 7),
    record(Kind.SYNC_END, 7),
]


def test_synced_bytes_are_in_every_image():
    disk = disk_after(*SYNCED)
    for variant in ("none", "all", "newest", "torn", "pages-0"):
        assert image(disk, variant) == {"f": b"a" * 1024}


def test_a_sync_that_has_not_ended_promises_nothing():
    disk = disk_after(*SYNCED[:3])
    assert image(disk, "none") == {}
    assert image(disk, "all") == {"f": b"a" * 1024}


def test_a_sync_covers_only_what_was_written_before_it_began():
    late = record(Kind.WRITE, 7, 0, data=b"b")
    disk = disk_after(*SYNCED[:3], late, SYNCED[3])
    assert image(disk, "none") == {"f": b"a" * 1024}
    assert image(disk, "all")["f"].startswith(b"ba")


def test_writes_are_dropped_kept_and_torn():
    disk = disk_after(
        *SYNCED,
        record(Kind.WRITE, 7, 1024, data=b"b" * 1024),
        record(Kind.WRITE, 7, 2048, data=b"c" * 1024),
    )
    a, b, c = b"a" * 1024, b"b" * 1024, b"c" * 1024
    assert image(disk, "none") == {"f": a}
    assert image(disk, "all") == {"f": a + b + c}
    assert image(disk, "newest") == {"f": a + bytes(1024) + c}
    assert image(disk, "torn") == {"f": a + b + c[:512]}


def test_pages_of_one_write_come_apart():
    disk = disk_after(
        *SYNCED, record(Kind.WRITE, 7, 0, data=b"b" * 16384)
    )
    seen = {image(disk, "pages-0", seed)["f"] for seed in range(64)}
    assert len(seen) > 8
    assert any(b"a" in content and b"b" in content for content in seen)


def test_sizes_are_changes_like_others():
    disk = disk_after(*SYNCED, record(Kind.SIZE, 7, 10))
    assert image(disk, "none") == {"f": b"a" * 1024}
    assert image(disk, "all") == {"f": b"a" * 10}
    disk.apply(record(Kind.GROW, 7, 20))
    assert image(disk, "all") == {"f": b"a" * 10 + bytes(10)}
    assert image(disk, "newest") == {"f": b"a" * 1024}


def test_names_survive_in_their_order():
    disk = disk_after(
        *SYNCED,
        record(Kind.CREATE, 8, name="g"),
        record(Kind.RENAME, name="g", data=b"/disk/h"),
        record(Kind.UNLINK, name="f"),
    )
    assert set(image(disk, "none")) == {"f"}
    assert set(image(disk, "all")) == {"h"}
    seen = {
        frozenset(image(disk, "pages-0", seed)) for seed in range(64)
    }
    assert seen == {
        frozenset(names) for names in ("f", "fg", "fh", "h")
    }


def test_an_inode_number_may_come_again():
    disk = disk_after(
        *SYNCED,
        record(Kind.UNLINK, name="f"),
        record(Kind.CREATE, 7, name="g"),
    )
    assert image(disk, "all") == {"g": b""}


def test_a_file_that_was_there_before_is_refused():
    with pytest.raises(ValueError, match="before the recording"):
        disk_after(record(Kind.WRITE, 9, data=b"x"))


FAILED = [record(Kind.SYNC_BEGIN, 7), record(Kind.SYNC_FAILED, 7)]
GOOD = [record(Kind.SYNC_BEGIN, 7), record(Kind.SYNC_END, 7)]


def test_what_a_failed_sync_lost_no_later_one_brings():
    """It may be there or not, for ever."""
    lost = record(Kind.WRITE, 7, 1024, data=b"b" * 512)
    disk = disk_after(*SYNCED, lost, *FAILED, *GOOD, *GOOD)
    assert image(disk, "none") == {"f": b"a" * 1024}
    assert image(disk, "all") == {"f": b"a" * 1024 + b"b" * 512}
    # What comes behind it leaves a hole.
    disk.apply(record(Kind.WRITE, 7, 1536, data=b"c" * 512))
    for each in GOOD:
        disk.apply(each)
    hole = b"a" * 1024 + bytes(512) + b"c" * 512
    assert image(disk, "none") == {"f": hole}


def test_bytes_that_are_written_again_are_as_good_as_new():
    lost = record(Kind.WRITE, 7, 1024, data=b"b" * 1536)
    again = record(Kind.WRITE, 7, 1536, data=b"c" * 512)
    disk = disk_after(*SYNCED, lost, *FAILED, again, *GOOD)
    a, b, c = b"a" * 1024, b"b" * 512, b"c" * 512
    assert image(disk, "none") == {"f": a + bytes(512) + c}
    assert image(disk, "all") == {"f": a + b + c + b}
    seen = {image(disk, "pages-0", seed)["f"] for seed in range(64)}
    assert all(content[1536:2048] == c for content in seen)


def test_what_was_written_after_a_failed_sync_is_not_in_doubt():
    late = record(Kind.WRITE, 7, 1024, data=b"b" * 512)
    disk = disk_after(*SYNCED, FAILED[0], late, FAILED[1], *GOOD)
    assert image(disk, "none") == {"f": b"a" * 1024 + b"b" * 512}


def test_a_second_name_is_the_same_file():
    disk = disk_after(
        *SYNCED,
        record(Kind.LINK, name="f", data=b"/disk/g"),
        record(Kind.UNLINK, name="f"),
    )
    assert set(image(disk, "none")) == {"f"}
    assert image(disk, "all") == {"g": b"a" * 1024}


def test_a_recording_may_begin_with_files():
    """What was there is on the disk; what changes it is not."""
    state = {"f": (9, b"old"), "f-shm": (8, b"")}
    disk = Disk(BASE, ["-shm"], state)
    disk.apply(record(Kind.WRITE, 9, 0, data=b"x"))
    disk.apply(record(Kind.RENAME, name="f", data=b"/disk/g"))
    assert image(disk, "none") == {"f": b"old"}
    assert image(disk, "all") == {"g": b"xld"}


def test_other_images_take_the_place_of_repeats(recorder, tmp_path):
    recording, _ = record_toy(recorder, tmp_path, "FULL", 60)
    report = recording.check(
        QueueChecker(), tmp_path / "image", images=600
    )
    assert report.repeats > 100
    assert 540 <= report.images <= 660


def test_half_a_reply_acknowledges_nothing():
    whole = b'{"id":"a-1","status":"queued","seq":4}\n'
    assert list(acknowledgements(whole + whole[:20])) == [("a-1", 4)]
    assert list(acknowledgements(b'{"id":null,"status":"error"}\n')) == []


def test_the_checker_sees_a_damaged_page(tmp_path):
    """Unopenable images and losses are told, and told apart."""
    import sqlite3

    path = tmp_path / "queue.db"
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE queue (id INTEGER PRIMARY KEY, payload BLOB)")
    db.executemany(
        "INSERT INTO queue (payload) VALUES (?)",
        [(b"toy-%d %s" % (n, b"x" * 300),) for n in range(50)],
    )
    db.commit()
    db.close()
    acknowledged = {f"toy-{n}": n + 1 for n in range(50)}
    moment = Moment(0, "", "all", 100, acknowledged)
    assert QueueChecker()(tmp_path, moment) == []

    acknowledged["toy-50"] = 51
    assert QueueChecker()(tmp_path, moment)[0].startswith("lost: 1 ")
    assert QueueChecker({"toy-50": 99})(tmp_path, moment) == []
    late = QueueChecker({"toy-50": 101})
    assert late(tmp_path, moment)[0].startswith("lost: 1 ")

    content = bytearray(path.read_bytes())
    content[4096:4200] = b"\xff" * 104
    path.write_bytes(content)
    damaged = QueueChecker()
    assert damaged(tmp_path, moment)[0].startswith("unopenable")
    assert damaged.unopenable == 1
    path.unlink()
    assert QueueChecker()(tmp_path, moment)[0].startswith("lost: 51 ")


def toy_database(path, numbers):
    """A database as the toy writer makes it, with these rows."""
    import sqlite3

    db = sqlite3.connect(path)
    db.execute("CREATE TABLE queue (id INTEGER PRIMARY KEY, payload BLOB)")
    db.executemany(
        "INSERT INTO queue (id, payload) VALUES (?, ?)",
        [(n, b"toy-%d " % n) for n in numbers],
    )
    db.commit()
    db.close()


@pytest.mark.parametrize(
    "kept, taken, lost",
    [
        # The newest ten of thirty: as the rule says.
        (range(21, 31), {}, 0),
        # One of those that had to stay.
        (range(22, 31), {}, 21),
        # An old one was kept, a newer one has gone.
        ([1, *range(22, 31)], {}, 20),
        # The broker has taken it, so that nothing else is missing.
        (range(22, 31), {"toy-21": 50}, 0),
        # It did so later, hence it had not been dropped.
        (range(21, 31), {"toy-20": 150}, 1),
    ],
)
def test_only_the_oldest_may_be_dropped(tmp_path, kept, taken, lost):
    toy_database(tmp_path / "queue.db", kept)
    acknowledged = {f"toy-{n}": n for n in range(1, 31)}
    moment = Moment(0, "", "all", 100, acknowledged)
    checker = QueueChecker(taken, max_messages=10)
    problems = checker(tmp_path, moment)
    assert len(checker.lost) == lost
    assert bool(problems) == (lost > 0)
    assert QueueChecker(taken)(tmp_path, moment), "without a rule"


def test_rows_on_their_way_to_the_broker_do_not_make_room(tmp_path):
    """They count for the bound; newer ones go in their place."""
    toy_database(tmp_path / "queue.db", range(24, 31))
    acknowledged = {f"toy-{n}": n for n in range(1, 31)}
    second = 10**9
    told_at = {name: 10 * second for name in acknowledged}
    moment = Moment(
        0, "", "all", 20 * second, acknowledged, told_at=told_at
    )
    for when, lost in ((11, 0), (5, 20)):
        taken = {f"toy-{n}": when * second for n in (1, 2, 3)}
        checker = QueueChecker(taken, max_messages=10)
        checker(tmp_path, moment)
        assert len(checker.lost) == lost


def test_rows_without_an_answer_count_for_the_rule(tmp_path):
    """They were accepted; the answer had not left yet."""
    toy_database(tmp_path / "queue.db", range(21, 31))
    acknowledged = {f"toy-{n}": n for n in range(1, 26)}
    moment = Moment(0, "", "all", 100, acknowledged)
    assert QueueChecker(max_messages=10)(tmp_path, moment) == []
    assert QueueChecker(max_messages=11)(tmp_path, moment) != []


def test_a_database_that_is_set_aside_is_not_judged(tmp_path):
    """Neither the rotten one nor its absence; what follows is."""
    path = tmp_path / "queue.db"
    moment = Moment(0, "", "all", 100, {"toy-1": 1, "toy-2": 2})
    checker = QueueChecker(rotten=True)
    assert checker(tmp_path, moment) == [] and checker.undecided
    path.write_bytes(b"no database at all" * 1000)
    assert checker(tmp_path, moment) == [] and checker.undecided
    assert checker.unopenable == 0
    path.unlink()
    toy_database(path, [1])
    assert checker(tmp_path, moment)[0].startswith("lost: 1 ")
    assert not checker.undecided


def record_toy(recorder, directory, synchronous, rows, kill_after=None):
    """Run the toy writer under the recorder, return the recording."""
    state = directory / "state"
    state.mkdir()
    log = directory / "log"
    ours, theirs = socket.socketpair()
    env = dict(
        os.environ,
        LD_PRELOAD=str(recorder),
        RECORD_DIR=str(state),
        RECORD_LOG=str(log),
    )
    if kill_after:
        env["RECORD_KILL"] = str(kill_after)
    with ours, theirs:
        child = subprocess.Popen(
            [
                sys.executable, str(HERE / "toywriter.py"),
                str(state / "queue.db"), synchronous, str(rows),
                str(theirs.fileno()),
            ],
            env=env,
            pass_fds=[theirs.fileno()],
        )
        theirs.close()
        replies = b""
        while data := ours.recv(65536):
            replies += data
        assert child.wait(30) == (-9 if kill_after else 0)
    recording = Recording(log, state)
    return recording, replies


@pytest.mark.parametrize("synchronous", ["FULL", "NORMAL", "OFF"])
def test_a_writer_that_acknowledges_too_early_is_caught(
    recorder, tmp_path, measured, synchronous
):
    """NORMAL and OFF lose acknowledged rows in some image, FULL in none."""
    recording, _ = record_toy(recorder, tmp_path, synchronous, 60)
    checker = QueueChecker()
    report = recording.check(checker, tmp_path / "image")
    measured(f"toy writer, synchronous={synchronous}: {report}")
    assert report.acknowledged == 60
    assert report.images > 300
    if synchronous == "FULL":
        assert report.bad_images == 0, report.examples
    else:
        assert len(checker.lost) > 0, "losses were not found"
    if synchronous == "NORMAL":
        assert checker.unopenable == 0


def test_the_recording_is_complete(recorder, tmp_path):
    """Replayed to its end it gives the very files that are there."""
    recording, replies = record_toy(recorder, tmp_path, "FULL", 40)
    assert replies.count(b"\n") == 40
    assert recording.final_image() == read_directory(tmp_path / "state")


@pytest.mark.parametrize("kill_after", [50, 123, 321])
def test_a_kill_by_the_recorder_leaves_what_the_log_says(
    recorder, tmp_path, kill_after
):
    """The process ends exactly behind the given record."""
    recording, replies = record_toy(
        recorder, tmp_path, "FULL", 100, kill_after
    )
    assert len(recording.records) == kill_after
    assert recording.final_image() == read_directory(tmp_path / "state")
    noted = [
        each
        for entry in recording.records if entry.kind == Kind.ACK
        for each in acknowledgements(entry.data)
    ]
    seen = list(acknowledgements(replies))
    assert seen == noted[:len(seen)]
    assert len(noted) - len(seen) <= 1


def test_the_sample_is_spread_evenly(recorder, tmp_path):
    recording, _ = record_toy(recorder, tmp_path, "FULL", 20)
    assert len(recording.sample(None, 1)) == len(recording._moments())
    few = sorted(recording.sample(60, 1))
    assert len(few) == 10
    gaps = [b - a for a, b in zip(few, few[1:])]
    assert max(gaps) <= 2 * len(recording.records) / 10 + 4
