# SPDX-License-Identifier: MIT
"""What happens when, in a soak: the same for the same seed and length."""

import random
from typing import Dict, FrozenSet, List, NamedTuple, Optional

#: Kinds of events by what they are about. Of one group, one happens at a
#: time; those of different groups meet. Each group has a pace: mean seconds
#: between the end of one event and the next.
GROUPS: Dict[str, List[str]] = {
    # cut-inside: in the middle of what is being sent. forget: the broker
    # loses what it knew of its sessions.
    "link": [
        "cut", "cut-end", "cut-inside", "refuse", "stall", "stall-up",
        "stall-down", "broker-down", "forget",
    ],
    "process": ["kill", "term", "pause", "hup"],
    # no-space comes from the shim, full from the disk itself.
    "disk": ["full", "no-space", "write-error", "sync-error", "read-error"],
    "clock": ["clock-ahead", "clock-behind"],
}
PACE = {"link": 0.8, "process": 1.5, "disk": 2.5, "clock": 2.0}
#: Longest duration in seconds.
LONGEST = {"link": 2.0, "process": 1.2, "disk": 2.0, "clock": 4.0}
#: These are over at once.
INSTANT = {
    "cut", "cut-end", "cut-inside", "forget", "kill", "term", "hup",
    "broken-start",
}
#: The program is killed on a disk that fails, and starts on it.
BROKEN_START = "broken-start"

KINDS = frozenset(
    kind for kinds in GROUPS.values() for kind in kinds
) | {BROKEN_START}

#: Any other restart comes so long after a failing disk has recovered.
SETTLE = 0.5


class Event(NamedTuple):
    at: float
    kind: str
    #: Until it is over; 0 for those that are over at once.
    seconds: float
    #: Bytes, or seconds of the clock; what the kind makes of it.
    value: float

    @property
    def end(self) -> float:
        return self.at + self.seconds


def _group(
    name: str, kinds: List[str], rng: random.Random, length: float
) -> List[Event]:
    events: List[Event] = []
    bag: List[str] = []
    at = rng.uniform(0.3, 1.5)
    while kinds and at < length - LONGEST[name]:
        if not bag:
            # All kinds come before one comes again.
            bag = rng.sample(kinds, len(kinds))
        kind = bag.pop()
        seconds = rng.uniform(0.05, 1.0) ** 2 * LONGEST[name]
        value = rng.uniform(0.0, 1.0)
        if kind in INSTANT:
            seconds = 0.0
        events.append(Event(at, kind, seconds, value))
        at += seconds + rng.expovariate(1 / PACE[name]) + 0.02
    return events


def make_schedule(
    seed: int, length: float, kinds: Optional[FrozenSet[str]] = None
) -> List[Event]:
    """All events of a run of so many seconds, in their order."""
    wanted = KINDS if kinds is None else kinds
    assert wanted <= KINDS, f"no such events: {sorted(wanted - KINDS)}"
    groups = {
        name: _group(
            name, [kind for kind in members if kind in wanted],
            random.Random(f"{seed}/{name}"), length,
        )
        for name, members in GROUPS.items()
    }
    if BROKEN_START in wanted:
        # In each second one of those failures.
        groups[BROKEN_START] = [
            Event(fault.at + 0.3 * fault.seconds, BROKEN_START, 0.0, 0.0)
            for fault in groups["disk"][::2]
        ]
    return sorted(event for events in groups.values() for event in events)
