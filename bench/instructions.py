#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Instructions a message, compared with those recorded in bench/instructions.json.

    bench/instructions.py [--build DIR] [--record]

Exit status: 0 within a tenth of the record, or recorded; 1 above it; 77 when nothing could be
compared, which is said."""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parent))

from benchlib import instructions  # noqa: E402
from benchlib.parts import Lab, Trouble  # noqa: E402

TOP = Path(__file__).resolve().parent.parent
SKIP = 77


def skip(why):
    print(f"SKIPPED: instructions a message were not compared: {why}")
    return SKIP


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", type=Path, default=TOP / "build" / "dev")
    parser.add_argument("--record", action="store_true", help="writes bench/instructions.json")
    options = parser.parse_args()
    build = options.build.resolve()
    if not shutil.which("valgrind"):
        return skip("valgrind is not installed")
    base, why = instructions.recorded(build)
    if why and not options.record:
        return skip(why)
    lab = Lab(build, tempfile.gettempdir(), quick=False)
    try:
        with lab.bench():
            figures = instructions.measure(lab)
    except Trouble as trouble:
        print(f"instructions a message could not be counted: {trouble}")
        return 1
    finally:
        lab.close()
    if options.record:
        instructions.write_record(build, figures)
    risen = False
    for name, value in figures.items():
        share = f", {100 * (value / base[name] - 1):+.1f} %" if base else ""
        print(f"{name}: {value:,.0f} instructions a message{share}")
        risen |= bool(base) and not options.record and \
            value > base[name] * instructions.MOST_RISE
    if risen:
        print("More than a tenth above bench/instructions.json. If that is what the change is "
              "worth, record it: bench/instructions.py --record")
    return 1 if risen else 0


if __name__ == "__main__":
    sys.exit(main())
