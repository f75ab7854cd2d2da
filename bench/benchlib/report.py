# SPDX-License-Identifier: MIT
"""Samples to a table, and to JSON."""

import json
import os
import statistics


def file_system(directory):
    """Its kind, such as ext4."""
    best = ("", "unknown")
    with open("/proc/self/mounts", encoding="utf-8") as mounts:
        for line in mounts:
            _, point, kind = line.split()[:3]
            inside = point == "/" or f"{directory}/".startswith(point + "/")
            if inside and len(point) >= len(best[0]):
                best = (point, kind)
    return best[1]


class Result:
    """A row and its samples."""

    def __init__(self, row):
        self.row = row
        self.samples = []
        self.error = None

    def figures(self, key):
        return [s[key] for s in self.samples if s.get(key) is not None]

    def median(self, key="value"):
        figures = self.figures(key)
        return statistics.median(figures) if figures else None

    def met(self):
        if self.error or not self.row.aim or self.median() is None:
            return None
        op, aim = self.row.aim
        return self.median() >= aim if op == ">=" else self.median() <= aim

    def to_json(self):
        values = self.figures("value")
        return {
            "name": self.row.name, "what": self.row.what, "baseline": self.row.baseline,
            "unit": self.row.unit,
            "aim": {"op": self.row.aim[0], "value": self.row.aim[1]} if self.row.aim else None,
            "median": self.median(), "min": min(values, default=None),
            "max": max(values, default=None), "ours": self.median("ours"),
            "base": self.median("base"), "met": self.met(), "error": self.error,
            "samples": self.samples,
        }


def number(value, digits=2):
    if value is None:
        return "-"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.{digits}f}"


def plain(value):
    """A figure with three places that count."""
    if value is None:
        return "-"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def table(results, judged=True):
    """Lines of a Markdown table."""
    lines = ["| what | baseline | ours | baseline | value | min .. max | aim | |",
             "| --- | --- | --: | --: | --: | --: | --: | --- |"]
    for r in results:
        row, values = r.row, r.figures("value")
        aim = f"{row.aim[0]} {row.aim[1]:g}" if row.aim else ""
        unit = f" {row.unit}" if row.unit else ""
        if r.error:
            lines.append(f"| {row.what} | {row.baseline} | | | | | {aim} "
                         f"| not measured: {r.error} |")
            continue
        base = plain(r.median("base")) + unit if r.median("base") is not None else ""
        verdict = {True: "ok", False: "BELOW" if row.aim and row.aim[0] == ">=" else "ABOVE",
                   None: ""}[r.met()] if judged else ""
        note = next((s["note"] for s in r.samples if s.get("note")), "")
        spread = f"{number(min(values), row.digits)} .. {number(max(values), row.digits)}" \
            if len(values) > 1 else ""
        lines.append(
            f"| {row.what} | {row.baseline} | {plain(r.median('ours'))}{unit} | {base} "
            f"| {number(r.median(), row.digits)} | {spread} | {aim} | {verdict or note} |")
    return lines


def aligned(lines):
    """The same, with columns of one width, for a terminal."""
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in lines]
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    right = [c.endswith(":") for c in cells[1]]
    out = []
    for row in [cells[0]] + cells[2:]:
        out.append("  ".join(c.rjust(w) if r else c.ljust(w)
                             for c, w, r in zip(row, widths, right)).rstrip())
    return out


def write_json(path, results, curves, options):
    document = {
        "version": 1, "cores": os.cpu_count(), "file_system": file_system(options.dir),
        "rounds": options.rounds, "quick": options.quick,
        "rows": [r.to_json() for r in results], "curves": curves,
    }
    path.write_text(json.dumps(document, indent=1) + "\n")
