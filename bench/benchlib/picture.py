# SPDX-License-Identifier: MIT
"""Pictures for the documentation, drawn as plain SVG."""

import math
from xml.sax.saxutils import escape

OURS, BASE, AXIS, GOOD, BAD = "#4477aa", "#ccaa55", "#555555", "#e3f1e3", "#bb3333"


class Picture:
    def __init__(self, width, height, title, subtitle=""):
        self.width, self.height = width, height
        self.parts = [
            f"<svg xmlns='http://www.w3.org/2000/svg' width='{width}' height='{height}' "
            "font-family='sans-serif' font-size='12'>",
            "<!-- SPDX-License-Identifier: MIT; made by bench/run -->",
            "<rect width='100%' height='100%' fill='#ffffff'/>",
        ]
        self.text(20, 24, title, size=15)
        self.text(20, 44, subtitle)

    def text(self, x, y, text, anchor="start", size=12, color="#000000"):
        self.parts.append(f"<text x='{x:.1f}' y='{y:.1f}' text-anchor='{anchor}' "
                          f"font-size='{size}' fill='{color}'>{escape(text)}</text>")

    def line(self, x1, y1, x2, y2, color=AXIS, width=1, dashed=False):
        dash = " stroke-dasharray='5 4'" if dashed else ""
        self.parts.append(f"<path d='M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}' stroke='{color}' "
                          f"stroke-width='{width}'{dash}/>")

    def rectangle(self, x, y, width, height, color):
        self.parts.append(f"<rect x='{x:.1f}' y='{y:.1f}' width='{width:.1f}' "
                          f"height='{height:.1f}' fill='{color}'/>")

    def path(self, points, color, dashed=False):
        dash = " stroke-dasharray='5 4'" if dashed else ""
        way = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        self.parts.append(f"<path d='M{way}' fill='none' stroke='{color}' stroke-width='2'{dash}/>")
        for x, y in points:
            self.parts.append(f"<circle cx='{x:.1f}' cy='{y:.1f}' r='3' fill='{color}'/>")

    def write(self, path):
        path.write_text("\n".join(self.parts + ["</svg>"]) + "\n")


def short(value):
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def draw_rows(path, results):
    """How far from its aim each row is: to the right of the line is better than asked for."""
    shown = []
    for r in results:
        values = [v for v in r.figures("value") if v > 0]
        if r.row.aim and r.row.aim[1] > 0 and not r.error and values and r.median() > 0:
            op, aim = r.row.aim
            better = (lambda v, a=aim: v / a) if op == ">=" else (lambda v, a=aim: a / v)
            shown.append((r, better(r.median()), sorted(map(better, values))))
    left, right, top, step = 470, 60, 80, 26
    picture = Picture(1040, top + step * len(shown) + 50, "How near each figure is to its aim",
                      "Bar: median. Thin line: lowest to highest round. Right of 1: better than "
                      "asked for. The scale is logarithmic.")
    width = picture.width - left - right

    def x_of(value):
        return left + width * min(max(math.log2(value) + 3, 0), 6) / 6

    bottom = top + step * len(shown)
    picture.rectangle(x_of(1), top - 6, left + width - x_of(1), bottom - top + 6, GOOD)
    for power in range(-3, 4):
        picture.line(x_of(2.0 ** power), bottom, x_of(2.0 ** power), bottom + 4)
        picture.text(x_of(2.0 ** power), bottom + 18, f"{2.0 ** power:g}", "middle")
    picture.line(left, bottom, left + width, bottom)
    for i, (r, median, values) in enumerate(shown):
        y = top + step * i
        op, aim = r.row.aim
        color = OURS if median >= 1 else BAD
        picture.text(left - 10, y + 13, f"{r.row.what} ({op} {aim:g})", "end", 11)
        picture.rectangle(min(x_of(1), x_of(median)), y + 3, abs(x_of(median) - x_of(1)), 13, color)
        picture.line(x_of(values[0]), y + 9.5, x_of(values[-1]), y + 9.5, "#000000")
        picture.text(left + width + 8, y + 13, f"{r.median():.2f}", size=11)
    picture.line(x_of(1), top - 6, x_of(1), bottom, "#000000")
    picture.write(path)


def draw_curves(path, title, subtitle, x_title, points, x_key, panels):
    """Panels side by side, both axes logarithmic. A panel: (title, [(key, name, color, dashed)])."""
    size, gap, top = 400, 90, 90
    picture = Picture(gap + (size + gap) * len(panels), top + 300 + 70, title, subtitle)
    xs = [math.log10(p[x_key]) for p in points]
    span = (xs[-1] - xs[0]) or 1
    for number, (name, series) in enumerate(panels):
        left = gap + number * (size + gap)
        values = [p[key] for p in points for key, *_ in series]
        low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
        high = max(high, low + 1)

        def place(x, y, left=left, low=low, high=high):
            return (left + size * (x - xs[0]) / span,
                    top + 300 * (1 - (math.log10(y) - low) / (high - low)))

        picture.text(left, top - 26, name, size=13)
        for power in range(low, high + 1):
            _, y = place(xs[0], 10.0 ** power)
            picture.line(left, y, left + size, y, "#dddddd")
            picture.text(left - 8, y + 4, short(10.0 ** power), "end")
        for p, x in zip(points, xs):
            at, _ = place(x, 10.0 ** low)
            picture.line(at, top + 300, at, top + 304)
            picture.text(at, top + 320, short(p[x_key]), "middle")
        picture.text(left + size / 2, top + 342, x_title, "middle")
        for i, (key, label, color, dashed) in enumerate(series):
            picture.path([place(x, p[key]) for p, x in zip(points, xs)], color, dashed)
            picture.line(left + 200 * i, top - 12, left + 200 * i + 24, top - 12, color, 2, dashed)
            picture.text(left + 200 * i + 30, top - 8, label, size=11)
    picture.write(path)


def draw_all(directory, results, curves):
    directory.mkdir(parents=True, exist_ok=True)
    if results:
        draw_rows(directory / "performance-aims.svg", results)
    if curves.get("payload"):
        draw_curves(
            directory / "performance-payload.svg", "Messages a second as payloads grow",
            "Both axes are logarithmic.", "bytes of payload", curves["payload"], "bytes",
            [("accepted on disk", [("accept", "mqtt-gatewayd", OURS, False),
                                   ("accept_base", "bare SQLite, 1000 a commit", BASE, True)]),
             ("drained, QoS 1", [("drain", "mqtt-gatewayd", OURS, False),
                                 ("drain_base", "bare libmosquitto", BASE, True)])])
    if curves.get("backlog"):
        draw_curves(
            directory / "performance-backlog.svg", "As the backlog grows",
            "Both axes are logarithmic.", "messages in the queue", curves["backlog"], "messages",
            [("messages a second", [("accept", "accepted", OURS, False),
                                    ("drain", "drained", BASE, False)]),
             ("start and memory", [("ready_msec", "ms to the first reply", OURS, False),
                                   ("peak_mb", "MB resident at most", BASE, False)])])
