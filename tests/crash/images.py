# SPDX-License-Identifier: MIT
"""What a power cut could have left of a recorded run.

Reads the log of record.c and keeps, for every moment of it, which bytes are
certain to be on the disk and which are still on their way. A disk may lose
or keep each of the latter on its own and in any order, down to a sector:

none    nothing of what was not synced is there
all     everything is (the power cut spared it; a killed process leaves this)
newest  only the very last change
torn    everything, but of the very last write only its first sectors
pages   each page of each write, and each change of size, by the toss of a coin

Names are journalled: they become durable in their order, and a completed sync
of any file makes all earlier ones durable, as on ext4 and xfs. A sync covers
what was written to its file before it began. After one that failed the kernel
takes for written what never arrived: it may be missing however often the file
is synced later, until the same bytes are written again.
"""

import hashlib
import json
import os
import random
import shutil
import struct
from dataclasses import dataclass, field
from enum import IntEnum
from functools import lru_cache
from pathlib import Path
from typing import (
    Callable,
    Dict,
    Iterable,
    Iterator,
    List,
    NamedTuple,
    Optional,
    Set,
    Tuple,
)

SECTOR = 512
PAGE = 4096
MAGIC = 0x6D716377
HEAD = struct.Struct("<IIQQQIIQ")

#: As many random ones as this, besides the four that are not.
RANDOM_VARIANTS = 2
VARIANTS = ["none", "all", "newest", "torn"] + [
    f"pages-{number}" for number in range(RANDOM_VARIANTS)
]


class Kind(IntEnum):
    """Of a record; record.c knows the same numbers."""

    CREATE = 1
    WRITE = 2
    SIZE = 3
    GROW = 4
    SYNC_BEGIN = 5
    SYNC_END = 6
    UNLINK = 7
    RENAME = 8
    ACK = 9
    SYNC_FAILED = 10
    LINK = 11


class LogRecord(NamedTuple):
    kind: Kind
    inode: int
    offset: int
    time_ns: int
    pid: int
    path: str
    data: bytes


def read_log(path: Path) -> Iterator[LogRecord]:
    """All records; one that is cut short ends the log."""
    data = path.read_bytes()
    at = 0
    while at + HEAD.size <= len(data):
        (magic, kind, inode, offset, time_ns, pid, path_len,
         data_len) = HEAD.unpack_from(data, at)
        if magic != MAGIC:
            raise ValueError(f"no record at byte {at} of {path}")
        start = at + HEAD.size
        middle = start + path_len
        at = middle + data_len
        if at > len(data):
            return
        yield LogRecord(
            Kind(kind), inode, offset, time_ns, pid,
            data[start:middle].decode(), data[middle:at],
        )


class Change(NamedTuple):
    """A change of a file's contents that may still be lost."""

    order: int
    kind: Kind
    offset: int
    data: bytes
    #: A sync that should have brought it to the disk has failed.
    doubtful: bool = False

    def apply(self, content: bytearray) -> None:
        if self.kind == Kind.WRITE:
            end = self.offset + len(self.data)
            if len(content) < self.offset:
                content.extend(bytes(self.offset - len(content)))
            content[self.offset:end] = self.data
        elif len(content) < self.offset:
            content.extend(bytes(self.offset - len(content)))
        elif self.kind == Kind.SIZE:
            del content[self.offset:]

    def pages(self) -> Iterator["Change"]:
        """The write in parts that do not cross a page of the file."""
        at = 0
        while at < len(self.data):
            start = self.offset + at
            size = min(PAGE - start % PAGE, len(self.data) - at)
            yield self._replace(
                offset=start, data=self.data[at:at + size]
            )
            at += size

    def without(self, other: "Change") -> Iterator["Change"]:
        """What is left of this write when a later one is laid over it."""
        end = self.offset + len(self.data)
        other_end = other.offset + len(other.data)
        if other_end <= self.offset or other.offset >= end:
            yield self
            return
        if self.offset < other.offset:
            yield self._replace(data=self.data[:other.offset - self.offset])
        if other_end < end:
            yield self._replace(
                offset=other_end, data=self.data[other_end - self.offset:]
            )

    def torn(self, rng: random.Random) -> Optional["Change"]:
        """A random number of the first sectors, at least one less than
        all; None when nothing is left."""
        if self.kind != Kind.WRITE:
            return None
        end = self.offset + len(self.data)
        first = self.offset // SECTOR + 1
        cuts = range(first * SECTOR, end, SECTOR)
        if not cuts:
            return None
        size = rng.choice(cuts) - self.offset
        return self._replace(data=self.data[:size])


@dataclass
class File:
    durable: bytearray = field(default_factory=bytearray)
    pending: List[Change] = field(default_factory=list)
    #: ``durable`` as an image has it, while nothing is pending.
    frozen: Optional[bytes] = None

    def sync(self, began: int) -> None:
        """What came before ``began`` is durable, but for what an earlier
        sync has lost."""
        doubtful: List[Change] = []
        count = 0
        for change in self.pending:
            if change.order >= began:
                break
            count += 1
            if change.doubtful:
                doubtful.append(change)
                continue
            change.apply(self.durable)
            if change.kind == Kind.WRITE:
                doubtful = [
                    rest for each in doubtful for rest in each.without(change)
                ]
        self.pending[:count] = doubtful
        self.frozen = None

    def sync_failed(self, began: int) -> None:
        """Sizes are the journal's; data may be lost from now on."""
        self.pending = [
            change._replace(doubtful=True)
            if change.order < began and change.kind == Kind.WRITE
            else change
            for change in self.pending
        ]


class NameChange(NamedTuple):
    """A change of the directory that may still be lost."""

    order: int
    kind: Kind
    path: str
    file: Optional[File] = None
    new_path: str = ""

    def apply(self, names: Dict[str, File]) -> None:
        if self.kind == Kind.CREATE:
            assert self.file is not None
            names[self.path] = self.file
        elif self.kind == Kind.UNLINK:
            names.pop(self.path, None)
        elif self.path in names and self.kind == Kind.LINK:
            names[self.new_path] = names[self.path]
        elif self.path in names:
            names[self.new_path] = names.pop(self.path)


Image = Dict[str, bytes]

#: What was in the directory before: name -> (inode, contents). All of it is
#: on the disk.
State = Dict[str, Tuple[int, bytes]]


class Disk:
    """Follows the records and says what could be on the disk now."""

    def __init__(
        self,
        directory: Path,
        skip: Iterable[str] = (),
        state: Optional[State] = None,
    ) -> None:
        self._base = str(directory) + "/"
        self._skip = tuple(skip)
        self._files: Dict[int, File] = {}
        self._names: Dict[str, File] = {}
        self._pending_names: List[NameChange] = []
        self._syncs: Dict[Tuple[int, int], int] = {}
        self._order = 0
        for name, (inode, content) in (state or {}).items():
            if not name.endswith(self._skip):
                file = self._files[inode] = File(bytearray(content))
                self._names[self._base + name] = file

    def apply(self, record: LogRecord) -> None:
        """Take in one more record."""
        if self._skip and record.path.endswith(self._skip):
            return
        self._order += 1
        if record.kind == Kind.CREATE:
            file = self._files[record.inode] = File()
            self._rename_later(record, file)
        elif record.kind in (Kind.WRITE, Kind.SIZE, Kind.GROW):
            self._file(record).pending.append(
                Change(self._order, record.kind, record.offset, record.data)
            )
        elif record.kind in (Kind.UNLINK, Kind.RENAME, Kind.LINK):
            self._rename_later(record, None)
        elif record.kind == Kind.SYNC_BEGIN:
            self._syncs[record.pid, record.offset] = self._order
        elif record.kind == Kind.SYNC_END:
            began = self._syncs.pop((record.pid, record.offset))
            self._synced(self._files.get(record.inode), began)
        elif record.kind == Kind.SYNC_FAILED:
            began = self._syncs.pop((record.pid, record.offset))
            if record.inode in self._files:
                self._files[record.inode].sync_failed(began)

    def _file(self, record: LogRecord) -> File:
        if record.inode not in self._files:
            raise ValueError(
                f"{record.path} was there before the recording began"
            )
        return self._files[record.inode]

    def _rename_later(
        self, record: LogRecord, file: Optional[File]
    ) -> None:
        self._pending_names.append(
            NameChange(
                self._order, record.kind, record.path, file,
                record.data.decode(),
            )
        )

    def _synced(self, file: Optional[File], began: int) -> None:
        """What came before ``began`` is durable now."""
        if file is not None:
            file.sync(began)
        while self._pending_names and self._pending_names[0].order < began:
            self._pending_names.pop(0).apply(self._names)

    def image(self, variant: str, rng: random.Random) -> Image:
        """The files as ``variant`` leaves them: name -> contents."""
        names = dict(self._names)
        count = len(self._pending_names)
        if variant == "none":
            count = 0
        elif variant.startswith("pages"):
            count = rng.randint(0, count)
        for change in self._pending_names[:count]:
            change.apply(names)
        newest = max(
            (file.pending[-1].order for file in names.values()
             if file.pending),
            default=0,
        )
        return {
            self._relative(path): self._content(file, variant, newest, rng)
            for path, file in names.items()
        }

    def _relative(self, path: str) -> str:
        assert path.startswith(self._base), f"{path} is outside"
        return path[len(self._base):]

    def _content(
        self, file: File, variant: str, newest: int, rng: random.Random
    ) -> bytes:
        if variant == "none" or not file.pending:
            # The same object each time: its digest is known then.
            if file.frozen is None:
                file.frozen = bytes(file.durable)
            return file.frozen
        content = bytearray(file.durable)
        for change in file.pending:
            for part in self._survivors(change, variant, newest, rng):
                part.apply(content)
        return bytes(content)

    @staticmethod
    def _survivors(
        change: Change, variant: str, newest: int, rng: random.Random
    ) -> Iterator[Change]:
        """What is left of one change."""
        if variant == "all":
            yield change
        elif variant == "newest":
            if change.order == newest:
                yield change
        elif variant == "torn":
            part = change
            if change.order == newest:
                part = change.torn(rng)
            if part is not None:
                yield part
        elif change.kind != Kind.WRITE:
            if rng.random() < 0.5:
                yield change
        else:
            for page in change.pages():
                if rng.random() < 0.5:
                    yield page


@dataclass
class Moment:
    """The point of the run that an image belongs to."""

    number: int
    after: str
    variant: str
    time_ns: int
    #: Replies of status `queued` that were on their way by then: id -> seq.
    acknowledged: Dict[object, int]
    #: When the first reply to it was on its way: id -> monotonic time.
    told_at: Dict[object, int] = field(default_factory=dict)
    #: The files, as they were before anybody opened them.
    image: Image = field(default_factory=dict)

    def __str__(self) -> str:
        return f"record {self.number} ({self.after}), variant {self.variant}"


def acknowledgements(data: bytes) -> Iterator[Tuple[object, int]]:
    """(id, seq) of each whole `queued` reply in what was sent."""
    for line in data.split(b"\n"):
        try:
            reply = json.loads(line)
        except ValueError:
            continue
        if isinstance(reply, dict) and reply.get("status") == "queued":
            yield reply["id"], reply["seq"]


#: Looks at a directory; returns what is wrong with it, best nothing.
Checker = Callable[[Path, Moment], List[str]]


@dataclass
class Report:
    """Outcome of looking at the images of a recording."""

    records: int = 0
    syncs: int = 0
    failed_syncs: int = 0
    acknowledged: int = 0
    images: int = 0
    repeats: int = 0
    bad_images: int = 0
    problems: Dict[str, int] = field(default_factory=dict)
    examples: List[str] = field(default_factory=list)

    def add(self, moment: Moment, problems: List[str]) -> None:
        self.images += 1
        if not problems:
            return
        self.bad_images += 1
        for problem in problems:
            kind = problem.split(":")[0]
            self.problems[kind] = self.problems.get(kind, 0) + 1
        if len(self.examples) < 10:
            self.examples.append(f"{moment}: {'; '.join(problems)}")

    def __str__(self) -> str:
        bad = ", ".join(
            f"{count} images {kind}" for kind, count in self.problems.items()
        )
        failed = f", {self.failed_syncs} failed" if self.failed_syncs else ""
        return (
            f"{self.records} calls ({self.syncs} syncs{failed}), "
            f"{self.acknowledged} acknowledged, {self.images} images "
            f"({self.repeats} repeats passed over): {bad or 'no problem'}"
        )


class Recording:
    """A log together with the directory it is about.

    ``state`` is what was in it when the log began, ``owed`` the messages
    among that: id -> seq, as if they had been acknowledged before.
    """

    def __init__(
        self,
        log: Path,
        directory: Path,
        skip: str = "-shm",
        state: Optional[State] = None,
        owed: Optional[Dict[object, int]] = None,
    ):
        self.records = list(read_log(log))
        self.directory = directory
        self.skip = skip
        self.state = state
        self.owed = owed or {}

    def new_disk(self) -> Disk:
        return Disk(self.directory, [self.skip], self.state)

    def _moments(self) -> List[int]:
        """Numbers of the records after which the images may be new."""
        return [
            number
            for number, record in enumerate(self.records)
            if record.kind != Kind.SYNC_BEGIN
            and not record.path.endswith(self.skip)
        ]

    @staticmethod
    def _spread(moments: List[int], wanted: int, seed: object) -> Set[int]:
        """One out of each stretch of the run, at a random place of it: a
        fixed step could fall in with the rhythm of the writes."""
        wanted = min(max(wanted, 1), len(moments))
        rng = random.Random(str(seed))
        bounds = [len(moments) * i // wanted for i in range(wanted + 1)]
        return {
            moments[rng.randrange(low, high)]
            for low, high in zip(bounds, bounds[1:])
        }

    def sample(self, images: Optional[int], seed: int) -> Set[int]:
        """Moments for about so many images, spread evenly (None: all)."""
        moments = self._moments()
        if images is None:
            return set(moments)
        return self._spread(moments, images // len(VARIANTS), seed)

    def final_image(self) -> Image:
        """What must be in the directory now, if nothing was missed."""
        disk = self.new_disk()
        for record in self.records:
            disk.apply(record)
        return disk.image("all", random.Random(0))

    def acknowledged(self) -> Dict[object, int]:
        """All that was owed at some moment: id -> seq."""
        result = dict(self.owed)
        for record in self.records:
            if record.kind == Kind.ACK:
                result.update(acknowledgements(record.data))
        return result

    def check(
        self,
        checker: Checker,
        scratch: Path,
        images: Optional[int] = None,
        seed: int = 1,
    ) -> Report:
        """Build images, hand each to the checker, count.

        Images that repeat are passed over; others come in their place,
        until there are ``images`` or the run has no more moments.
        """
        kinds = [record.kind for record in self.records]
        report = Report(
            records=len(self.records),
            syncs=kinds.count(Kind.SYNC_END),
            failed_syncs=kinds.count(Kind.SYNC_FAILED),
            acknowledged=len(self.acknowledged()),
        )
        left = set(self._moments())
        seen: Set[bytes] = set()
        chosen = self.sample(images, seed)
        while chosen:
            self._check_moments(chosen, checker, scratch, seed, seen, report)
            left -= chosen
            missing = 0 if images is None else images - report.images
            if missing < len(VARIANTS) or not left:
                break
            # As many repeats among them as there were so far.
            images_each = max(
                1.0, report.images / (len(self._moments()) - len(left))
            )
            chosen = self._spread(
                sorted(left), int(missing / images_each) + 1,
                f"{seed}/{len(left)}",
            )
        return report

    def _check_moments(
        self,
        chosen: Set[int],
        checker: Checker,
        scratch: Path,
        seed: int,
        seen: Set[bytes],
        report: Report,
    ) -> None:
        """One pass over the log, with images at the chosen records."""
        disk = self.new_disk()
        acknowledged = dict(self.owed)
        told_at: Dict[object, int] = {}
        for number, record in enumerate(self.records):
            disk.apply(record)
            if record.kind == Kind.ACK:
                for key, seq in acknowledgements(record.data):
                    acknowledged[key] = seq
                    told_at[key] = record.time_ns
            if number not in chosen:
                continue
            after = f"{record.kind.name} {Path(record.path).name}".rstrip()
            for variant in VARIANTS:
                rng = random.Random(f"{seed}/{number}/{variant}")
                image = disk.image(variant, rng)
                key = fingerprint(image, len(acknowledged))
                if key in seen:
                    report.repeats += 1
                    continue
                seen.add(key)
                moment = Moment(
                    number, after, variant, record.time_ns, acknowledged,
                    told_at, image,
                )
                write_image(image, scratch)
                report.add(moment, checker(scratch, moment))


@lru_cache(maxsize=64)
def content_digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()


@lru_cache(maxsize=64)
def is_empty(content: bytes) -> bool:
    """Whether there are only zeros in it."""
    return content.count(0) == len(content)


def fingerprint(image: Image, acknowledged: int) -> bytes:
    """The same for images that need not be looked at twice."""
    digest = hashlib.blake2b(str(acknowledged).encode(), digest_size=16)
    for name in sorted(image):
        digest.update(f"/{name}/{len(image[name])}/".encode())
        digest.update(content_digest(image[name]))
    return digest.digest()


def write_image(image: Image, directory: Path) -> None:
    """Fill the directory with the image and nothing else."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    for name, content in image.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if is_empty(content):
            path.touch()
            os.truncate(path, len(content))
        else:
            path.write_bytes(content)


def read_directory(directory: Path, skip: str = "-shm") -> Image:
    """A directory's files in the form of an image."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and not path.name.endswith(skip)
    }


def read_state(directory: Path) -> State:
    """The directory as the beginning of a recording."""
    return {
        str(path.relative_to(directory)): (
            path.stat().st_ino, path.read_bytes()
        )
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }
