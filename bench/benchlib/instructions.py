# SPDX-License-Identifier: MIT
"""Instructions a message, counted by callgrind: what no other load on the machine can change.

The slope between two sizes, so that start and stop do not count. bench/instructions.json holds the
recorded figures, with the compiler and architecture they belong to."""

import json
import platform
import re
import shutil
import subprocess
from pathlib import Path

from .parts import Daemon, Trouble, count_queue, free_port, wait_until
from .measurements import IMPATIENT, OFFLINE, Measurement, Row

RECORD = Path(__file__).resolve().parent.parent / "instructions.json"
MOST_RISE = 1.10


def circumstances(build):
    """What the number of instructions depends on, besides the source."""
    cc, flags = "unknown", ""
    makefile = build / "Makefile"
    if makefile.exists():
        text = makefile.read_text()
        cc = re.search(r"^CC = (.*)$", text, re.M).group(1).split()[0]
        flags = re.search(r"^CFLAGS = (.*)$", text, re.M).group(1)
        extra = re.search(r"^EXTRA_CFLAGS = (.*)$", text, re.M)
        flags += " " + extra.group(1) if extra else ""
    try:
        version = subprocess.run([cc, "-dumpfullversion"], capture_output=True,
                                 text=True).stdout.strip()
    except OSError:
        version = "unknown"
    return {"architecture": platform.machine(), "compiler": f"{Path(cc).name} {version}",
            "flags": " ".join(flags.split())}


def counted(lab, queue, port, settings, work):
    out = queue.parent / "callgrind.out"
    # Without fair scheduling one thread can starve the other under valgrind.
    daemon = Daemon(lab, queue, port, settings, ready=60.0, wrap=[
        shutil.which("valgrind"), "--tool=callgrind", "--fair-sched=yes",
        f"--callgrind-out-file={out}",
    ])
    work(daemon)
    daemon.stop()
    total = re.search(r"^(?:totals|summary): (\d+)", out.read_text(), re.M)
    if not total:
        raise Trouble("callgrind counted nothing")
    return int(total.group(1))


def accept(lab, messages):
    queue = lab.queue()
    result = counted(lab, queue, free_port(), OFFLINE, lambda d: lab.feed(d, messages, 1000))
    if count_queue(queue) != messages:
        raise Trouble(f"{count_queue(queue)} of {messages} are in the queue")
    return result


def drain(lab, messages):
    broker = lab.broker()
    queue = lab.queue(lab.template(messages))

    def empty(daemon):
        wait_until(lambda: daemon.check() or daemon.count() == 0, 60, "an empty queue", 0.1)

    result = counted(lab, queue, broker.port, IMPATIENT, empty)
    broker.end()
    return result


def measure(lab, small=1000, large=4000):
    """Instructions a message, of each way. Figures of other sizes differ a little."""
    if not shutil.which("valgrind"):
        raise Trouble("valgrind is not installed")
    return {name: (way(lab, large) - way(lab, small)) / (large - small)
            for name, way in (("accept", accept), ("drain", drain))}


def recorded(build):
    """The recorded figures, and why they cannot be compared with this build's, if so."""
    if not RECORD.exists():
        return None, "nothing is recorded yet"
    record = json.loads(RECORD.read_text())
    here = circumstances(build)
    for key, value in here.items():
        if record["circumstances"].get(key) != value:
            return None, f"recorded with {record['circumstances'].get(key)}, this is {value}"
    return record["instructions"], None


def write_record(build, figures):
    RECORD.write_text(json.dumps({
        "circumstances": circumstances(build),
        "instructions": {name: round(value) for name, value in figures.items()},
    }, indent=2) + "\n")


class Instructions(Measurement):
    name = "instructions"
    rounds = 1
    rows = tuple(Row(f"instructions-{name}", f"instructions a message, {name}",
                     "bench/instructions.json", ("<=", MOST_RISE), "") for name in
                 ("accept", "drain"))

    def run(self, lab):
        figures = measure(lab)
        base, why = recorded(lab.build)
        return {f"instructions-{name}":
                dict(ratio_or_none(value, base and base[name]), note=why)
                for name, value in figures.items()}


def ratio_or_none(value, base):
    return {"value": value / base if base else None, "ours": value, "base": base}
