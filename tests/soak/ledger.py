# SPDX-License-Identifier: MIT
"""What the daemon owes, what it has paid, and the judgement in the end."""

import threading
from collections import Counter
from dataclasses import dataclass
from typing import Dict, Iterable, List, NamedTuple, Optional, Set, Tuple

SENT, QUEUED, REFUSED, UNANSWERED, NOT_ACCEPTED = (
    "sent", "queued", "refused", "unanswered", "not accepted"
)


@dataclass(slots=True)
class Message:
    """A line that was sent, and its answer; there may be a million."""

    qos: int
    state: str = SENT
    seq: Optional[int] = None
    error: str = ""
    #: How many processes had been killed when it was refused.
    kills: int = 0


class Delivery(NamedTuple):
    """A message as the broker took it over."""

    name: str
    qos: int
    seq: int
    #: Number of the connection; how often a session had been cleared; how
    #: many processes had been killed.
    connection: int
    clearings: int
    kills: int


def payload(name: str, size: int) -> str:
    """It says itself how long it is."""
    return f"{name} {size} " + "x" * size


def parse_payload(data: bytes) -> Optional[str]:
    """The name; None when it is no payload of ours, or not all of it."""
    name, _, rest = data.partition(b" ")
    size, _, filler = rest.partition(b" ")
    if not size.isdigit() or filler != b"x" * int(size):
        return None
    return name.decode()


class Ledger:
    """Takes entries from all threads."""

    def __init__(self) -> None:
        self.messages: Dict[str, Message] = {}
        self.deliveries: List[Delivery] = []
        #: What was wrong on the spot.
        self.problems: List[str] = []
        self.kills = 0
        self._arrived: Set[str] = set()
        self._owed = 0
        self._lock = threading.Lock()

    # --- entries ---

    def problem(self, text: str) -> None:
        with self._lock:
            self.problems.append(text)

    def sent(self, name: str, qos: int) -> None:
        with self._lock:
            self.messages[name] = Message(qos)

    def queued(self, name: str, seq: int) -> None:
        with self._lock:
            message = self.messages[name]
            message.state, message.seq = QUEUED, seq
            if name not in self._arrived:
                self._owed += 1

    def refused(self, name: str, error: str) -> None:
        with self._lock:
            message = self.messages[name]
            message.state, message.error = REFUSED, error
            message.kills = self.kills

    def unanswered(self, names: Iterable[str], stopped: bool) -> None:
        """The connection ended; ``stopped``: the daemon said that it stops,
        so that none of these was accepted."""
        with self._lock:
            for name in names:
                self.messages[name].state = (
                    NOT_ACCEPTED if stopped else UNANSWERED
                )

    def killed(self) -> None:
        with self._lock:
            self.kills += 1

    def delivered(
        self, data: bytes, qos: int, seq: int, connection: int,
        clearings: int,
    ) -> None:
        name = parse_payload(data)
        with self._lock:
            if name is None:
                self.problems.append(f"damaged: {data[:60]!r}")
                return
            if name not in self._arrived:
                self._arrived.add(name)
                message = self.messages.get(name)
                if message and message.state == QUEUED:
                    self._owed -= 1
            self.deliveries.append(
                Delivery(
                    name, qos, seq, connection, clearings, self.kills
                )
            )

    def owed(self) -> int:
        """Messages that were queued and have not arrived."""
        return self._owed

    # --- judgement ---

    def judge(self, dead: Iterable[int] = ()) -> "Verdict":
        """``dead`` are the ids of the rows among the dead letters."""
        with self._lock:
            return Verdict(self, set(dead))


class Verdict:
    """What became of everything; ``problems`` must be empty."""

    def __init__(self, ledger: Ledger, dead: Set[int]) -> None:
        self.problems = list(ledger.problems)
        self.messages = ledger.messages
        states = Counter(m.state for m in self.messages.values())
        self.sent = len(self.messages)
        self.acknowledged = states[QUEUED]
        self.refused = Counter(
            m.error for m in self.messages.values() if m.state == REFUSED
        )
        self.unanswered = states[UNANSWERED] + states[NOT_ACCEPTED]
        self.doubled: Counter = Counter()
        #: Refused, and yet kept: by a process that was killed afterwards.
        self.revived = 0
        self.dead = len(dead)
        arrived = self._arrivals(ledger.deliveries)
        self._losses(arrived, dead)
        self._ids(ledger.deliveries)
        left = [n for n, m in self.messages.items() if m.state == SENT]
        self._tell("without an answer", left)

    def _tell(self, what: str, names: List[str]) -> None:
        if names:
            self.problems.append(
                f"{what}: {len(names)} messages, e.g. {names[0]}"
            )

    def _arrivals(self, deliveries: List[Delivery]) -> Set[str]:
        """Repetitions, order, and what must not have come at all."""
        last: Dict[str, Delivery] = {}
        highest: Dict[Tuple[int, int], Delivery] = {}
        for each in deliveries:
            message = self.messages.get(each.name)
            before = last.get(each.name)
            last[each.name] = each
            if message is None:
                self._tell("never sent", [each.name])
                continue
            if each.qos != message.qos:
                self._tell("with another QoS", [each.name])
            if before:
                self._repeated(before, each)
                continue
            if message.state == NOT_ACCEPTED:
                self._tell("delivered, though not accepted", [each.name])
            elif message.state == REFUSED and each.kills > message.kills:
                self.revived += 1
            elif message.state == REFUSED:
                self._tell("delivered, though refused", [each.name])
            # A message of QoS 0 that got lost on the way comes late when its
            # row was still there for the next process.
            key = (each.qos, each.clearings if each.qos == 0 else 0)
            top = highest.get(key)
            if top and each.seq <= top.seq:
                self.problems.append(
                    f"out of order: QoS {each.qos}, {each.name} "
                    f"({each.seq}, {message.state}) after {top.name} "
                    f"({top.seq})"
                )
            else:
                highest[key] = each
        return set(last)

    def _repeated(self, before: Delivery, again: Delivery) -> None:
        self.doubled[again.qos] += 1
        if before.connection == again.connection:
            self._tell("twice on one connection", [again.name])
        elif again.qos == 2 and before.clearings == again.clearings:
            self._tell("doubled within a session", [again.name])

    def _losses(self, arrived: Set[str], dead: Set[int]) -> None:
        missing = [
            name
            for name, m in self.messages.items()
            if m.state == QUEUED and name not in arrived
            and m.seq not in dead
        ]
        qos = self.messages
        #: QoS 0 is allowed to be lost on the way.
        self.lost_qos0 = sum(qos[name].qos == 0 for name in missing)
        lost = [name for name in missing if qos[name].qos > 0]
        self.lost = len(lost)
        self._tell("lost", lost)

    def _ids(self, deliveries: List[Delivery]) -> None:
        """Each id means one message, and the one that was told."""
        owner: Dict[int, str] = {
            m.seq: name
            for name, m in self.messages.items() if m.seq is not None
        }
        told = sum(m.seq is not None for m in self.messages.values())
        if len(owner) != told:
            self.problems.append(f"{told - len(owner)} ids were given twice")
        for each in deliveries:
            if owner.setdefault(each.seq, each.name) != each.name:
                self._tell(f"under another's id {each.seq}", [each.name])
            message = self.messages.get(each.name)
            if message and message.seq not in (None, each.seq):
                self._tell(f"with id {each.seq}", [each.name])

    def __str__(self) -> str:
        refused = ", ".join(
            f"{count} {error}" for error, count in sorted(
                self.refused.items())
        )
        doubled = ", ".join(
            f"QoS {qos}: {self.doubled[qos]}" for qos in range(3)
        )
        return (
            f"{self.sent} messages, {self.acknowledged} acknowledged, "
            f"{sum(self.refused.values())} refused ({refused or 'none'}), "
            f"{self.unanswered} without an answer, {self.lost} lost "
            f"(QoS 0: {self.lost_qos0}), doubled {doubled}, "
            f"{self.revived} refused but kept over a kill, {self.dead} dead "
            f"letters"
        )
