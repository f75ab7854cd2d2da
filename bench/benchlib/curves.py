# SPDX-License-Identifier: MIT
"""Cost as work grows: the payload from 20 B to 20 kB, the backlog from 10^4 to 10^7."""

import statistics
import time

from .measurements import OFFLINE, acknowledgement, best_window, drain
from .parts import Daemon, Trouble, count_queue, free_port
from .traffic import Connection


def accept_on(lab, path, messages, size=200):
    """Lines a second into the queue at `path`, and the time until its daemon takes them."""
    before = count_queue(path) if path.exists() else 0
    daemon = Daemon(lab, path, free_port(), OFFLINE)
    ready = daemon.send_line() - daemon.spawned
    result = lab.feed(daemon, messages, 1000, size=size)
    daemon.stop()
    if count_queue(path) != before + messages + 1:
        raise Trouble(f"{messages} accepted, {count_queue(path) - before - 1} are there")
    return result["rate"], ready


def drain_some(lab, path, messages):
    """Messages a second while the first of a long backlog leave it, and the most memory."""
    each = acknowledgement(lab)
    broker = lab.broker()
    daemon = Daemon(lab, path, broker.port)
    connection = Connection(broker.port, check=daemon.check)
    try:
        start = first = None
        end = time.monotonic() + 60
        while True:
            now, moved = time.monotonic(), connection.bytes()
            if moved is None and start is None:  # the one that ends an old session
                connection.close()
                connection = Connection(broker.port, check=daemon.check)
                continue
            if moved is None or now > end:
                raise Trouble("the drain does not get on")
            if start is None and moved[1] > 1000:
                start, first = now, moved[1]
            if start and moved[1] - first >= messages * each:
                break
            time.sleep(0.002)
    finally:
        connection.close()
    peak = daemon.status("VmHWM") / 1000
    daemon.stop()
    return (moved[1] - first) / each / (now - start), peak


def payload_curve(lab, rounds, say):
    points = []
    for size in (20, 200, 2000, 20000):
        n = lab.size(100000 if size <= 200 else 30000 if size == 2000 else 4000, 1000)
        samples = []
        for _ in range(rounds):
            with lab.bench():
                accept_base = lab.rows(n, 1000, size)["rate"]
                accepted = accept_on(lab, lab.queue(), n, size)[0]
                broker = lab.broker()
                window = best_window(lab, 0, lab.size(30000, 500))
                drain_base = lab.publish(broker.port, n, window, size)["rate"]
                broker.end()
                drained = drain(lab, lab.template(n, size), n, size)
                samples.append((accepted, accept_base, drained, drain_base))
        columns = [statistics.median(column) for column in zip(*samples)]
        points.append(dict(zip(("accept", "accept_base", "drain", "drain_base"), columns),
                           bytes=size, messages=n))
        say(f"payload {size} B: " + ", ".join(f"{c:,.0f}/s" for c in columns))
    return points


def backlog_curve(lab, rounds, say):
    """One queue that grows, or one that is there already; each step accepts at its end and drains
    at its beginning."""
    points = []
    directory = lab.home / "growing"
    directory.mkdir()
    path = directory / "queue.db"
    for backlog in lab.size((10**4, 10**5, 10**6, 10**7), (10**3, 10**4)):
        path = lab.memo.get(("backlog", backlog), path)
        have = count_queue(path) if path.exists() else 0
        if have < backlog:
            lab.fill(path, backlog - have)
        n = lab.size(20000, 500)
        samples = []
        for _ in range(rounds):
            with lab.bench():
                accepted, ready = accept_on(lab, path, n)
                left = count_queue(path)
                drained, peak = drain_some(lab, path, n // 2)
                samples.append((accepted, drained, 1000 * ready, peak))
                if left - count_queue(path) < n // 2:
                    raise Trouble("not everything that was acknowledged has left the queue")
        columns = [statistics.median(column) for column in zip(*samples)]
        points.append(dict(zip(("accept", "drain", "ready_msec", "peak_mb"), columns),
                           messages=backlog))
        say(f"backlog {backlog}: " + ", ".join(f"{c:,.1f}" for c in columns))
    return points
