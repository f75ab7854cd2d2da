# SPDX-License-Identifier: MIT
"""What is measured. A Measurement fills one or more rows of the table, once a round: first its
baseline, then ours, so that whatever else the machine does hits both."""

import contextlib
import time

from .parts import Daemon, Subscriber, Trouble, count_queue, free_port, wait_until
from .traffic import Connection, watch_drain

OFFLINE = 'retry = { base = 30.0; max = 60.0; };\n'
IMPATIENT = 'retry = { base = 0.2; max = 0.5; };\n'


class Row:
    """One line of the table. `aim` is ("<=" or ">=", value), or None for what is only reported.
    A sample is a dict with "value", and what it was made of: "ours", "base"."""

    def __init__(self, name, what, baseline="", aim=None, unit="", digits=2):
        self.name, self.what, self.baseline = name, what, baseline
        self.aim, self.unit, self.digits = aim, unit, digits


class Measurement:
    name = ""
    rows = ()
    rounds = None  # None: as many as asked for

    def prepare(self, lab):
        """What is done once, before the first round."""

    def run(self, lab):
        """One round. Returns a dict: name of a row -> sample."""
        raise NotImplementedError

    def finish(self, lab):
        """Forgets what prepare() made."""


def ratio(ours, base):
    return {"value": ours / base, "ours": ours, "base": base}


def accept(lab, messages, window, connections=1, size=200, template=None):
    """Lines a second taken by a daemon without a broker; all of them are in the queue after it."""
    queue = lab.queue(template)
    before = count_queue(queue) if template else 0
    daemon = Daemon(lab, queue, free_port(), OFFLINE)
    result = lab.feed(daemon, messages, window, connections, size)
    daemon.stop()
    if count_queue(queue) != before + messages:
        raise Trouble(f"{messages} lines were accepted, {count_queue(queue) - before} are there")
    return result


def drain(lab, template, messages, size=200, round_trip=0, settings="", skip=0):
    """Messages a second to a broker without a subscriber, those behind the first `skip`."""
    broker = lab.broker()
    port = lab.relay(broker.port, round_trip).port if round_trip else broker.port
    daemon = Daemon(lab, lab.queue(template), port, settings, ready=None)
    still = 0.4 + 2 * round_trip / 1000
    skipped = skip * acknowledgement(lab) if skip else 0
    drained = watch_drain(daemon, port, messages, size, still, skip=skipped)
    daemon.stop()
    broker.end()
    lab.memo["acknowledgement"] = drained.received // messages
    return (messages - skip) / drained.seconds


def acknowledgement(lab):
    """Bytes of the broker's answer to a message without a subscriber."""
    if "acknowledgement" not in lab.memo:
        drain(lab, lab.template(1000), 1000)
    return lab.memo["acknowledgement"]


def best_window(lab, round_trip, messages, provenance=False):
    """The window at which a bare publisher is fastest on this way; tried once a run."""
    key = ("window", round_trip, provenance)
    if key not in lab.memo:
        candidates = [20, 50, 100, 200] if not round_trip else [1000, 2000, 5000, 10000, 20000]
        if lab.quick:
            return candidates[0]
        broker = lab.broker()
        port = lab.relay(broker.port, round_trip).port if round_trip else broker.port
        rates = {w: lab.publish(port, max(messages, 3 * w), w, provenance=provenance)["rate"]
                 for w in candidates}
        broker.end()
        lab.memo[key] = max(rates, key=rates.get)
    return lab.memo[key]


class AcceptDisk(Measurement):
    name = "accept-disk"
    rows = (Row("accept-disk", "accept on disk, 1 client, 1000 lines in flight",
                "bare SQLite, 1000 rows a commit", (">=", 0.4), "1/s"),)

    def run(self, lab):
        n = lab.size(100000, 3000)
        base = lab.rows(n, 1000)["rate"]
        return {self.name: ratio(accept(lab, n, 1000)["rate"], base)}


class AcceptBridge(Measurement):
    name = "accept-bridge"
    rows = (Row("accept-bridge", "accept on disk, 1 client, 1000 lines in flight",
                "mosquitto's bridge, offline, in memory", (">=", 2.5), "1/s"),)

    def offline(self, lab, messages, window):
        bridge = lab.bridge(free_port(), 0)
        result = lab.publish(bridge.port, messages, window)
        bridge.end()
        return result["rate"]

    def prepare(self, lab):
        """Its publisher's best window."""
        rates = {w: 0 if lab.quick else self.offline(lab, 20000, w) for w in (20, 100, 1000)}
        self.window = max(rates, key=rates.get)

    def run(self, lab):
        n = lab.size(100000, 3000)
        base = self.offline(lab, n, self.window)
        return {self.name: ratio(accept(lab, n, 1000)["rate"], base)}


class AcceptOne(Measurement):
    name = "accept-one"
    rows = (Row("accept-one", "accept one line at a time, each with its reply",
                "bare SQLite, 1 row a commit", (">=", 0.7), "1/s"),)

    def run(self, lab):
        n = lab.size(4000, 200)
        base = lab.rows(n, 1)["rate"]
        return {self.name: ratio(accept(lab, n, 1)["rate"], base)}


class AcceptMany(Measurement):
    name = "accept-100"
    rows = (Row("accept-100", "accept, 100 clients, one line each in flight",
                "one client, one line in flight", (">=", 8), "1/s"),)

    def run(self, lab):
        n = lab.size(4000, 200)
        base = accept(lab, n, 1)["rate"]
        return {self.name: ratio(accept(lab, 10 * n, 1, 100)["rate"], base)}


class DrainAlone(Measurement):
    name = "drain"
    rows = (Row("drain", "drain QoS 1, broker without subscriber",
                "bare libmosquitto at its best window, the same packets", (">=", 0.9), "1/s"),)

    def prepare(self, lab):
        self.window = best_window(lab, 0, lab.size(30000, 500), provenance=True)

    def run(self, lab):
        n = lab.size(100000, 2000)
        broker = lab.broker()
        base = lab.publish(broker.port, n, self.window, provenance=True)["rate"]
        broker.end()
        return {self.name: ratio(drain(lab, lab.template(n), n), base)}


class DrainSubscriber(Measurement):
    """Without user properties, which a bridge does not send."""

    name = "drain-subscriber"
    rows = (Row("drain-subscriber", "drain QoS 1, one subscriber, no provenance",
                "mosquitto's bridge draining its memory", (">=", 1.0), "1/s"),)

    def bridge(self, lab, messages, inflight):
        """The bridge stands still while broker and subscriber get ready: it would be too early."""
        remote = free_port()
        bridge = lab.bridge(remote, inflight)
        lab.publish(bridge.port, messages, best_window(lab, 0, lab.size(30000, 500)))
        bridge.popen.send_signal(19)  # SIGSTOP
        broker = lab.broker(remote)
        subscriber = Subscriber(lab, remote, messages)
        bridge.popen.send_signal(18)  # SIGCONT
        result = subscriber.result()
        bridge.end()
        broker.end()
        return result["rate"]

    def prepare(self, lab):
        rates = {w: 0 if lab.quick else self.bridge(lab, 20000, w) for w in (20, 100, 1000)}
        self.inflight = max(rates, key=rates.get)

    def run(self, lab):
        n = lab.size(100000, 2000)
        base = self.bridge(lab, n, self.inflight)
        template = lab.stamped(n)
        broker = lab.broker()
        subscriber = Subscriber(lab, broker.port, n)
        daemon = Daemon(lab, lab.queue(template), broker.port, "mqtt: { provenance = false; };")
        result = subscriber.result()
        wait_until(lambda: daemon.count() == 0, 20, "an empty queue", 0.05)
        daemon.stop()
        if result["repeated"] or result["out_of_order"]:
            raise Trouble(f"repeated or out of order: {result}")
        return {self.name: ratio(result["rate"], base)}


class DrainFar(Measurement):
    """Bytes in flight are tuned to the way, as the baseline's window is. The first quarter is not
    counted on either side: there the gateway, which is told no window, finds one."""

    def __init__(self, round_trip, normal, settings=""):
        self.round_trip, self.normal, self.settings = round_trip, normal, settings
        self.name = f"drain-{round_trip}ms"
        self.rows = (Row(self.name, f"drain QoS 1 at {round_trip} ms round trip",
                         "bare libmosquitto at its best window there, the same packets",
                         (">=", 0.9), "1/s"),)

    def prepare(self, lab):
        self.window = best_window(lab, self.round_trip, lab.size(self.normal // 4, 2000),
                                  provenance=True)

    def run(self, lab):
        n = lab.size(self.normal, 500)
        broker = lab.broker()
        relay = lab.relay(broker.port, self.round_trip)
        base = lab.publish(relay.port, n, self.window, skip=n // 4, provenance=True)["rate"]
        broker.end()
        ours = drain(lab, lab.template(n), n, round_trip=self.round_trip,
                     settings=self.settings, skip=n // 4)
        return {self.name: dict(ratio(ours, base), window=self.window)}


class Latency(Measurement):
    name = "latency"
    rows = tuple(
        Row(f"latency-{p}", f"online end to end, 1000 a second, {p}: above direct, in fsyncs",
            "published straight to the broker; fsync", ("<=", 2), "us") for p in ("p50", "p99"))

    def run(self, lab):
        n = lab.size(5000, 300)
        syncs = lab.syncs()
        broker = lab.broker()
        subscriber = Subscriber(lab, broker.port, n)
        lab.publish(broker.port, n, 1000, rate=1000)
        direct = subscriber.result()["latency_usec"]
        daemon = Daemon(lab, lab.queue(), broker.port)
        connection = Connection(broker.port, check=daemon.check)
        connection.close()
        subscriber = Subscriber(lab, broker.port, n)
        lab.feed(daemon, n, 1000, rate=1000)
        ours = subscriber.result()["latency_usec"]
        daemon.stop()
        return {f"latency-{p}": {"value": (ours[p] - direct[p]) / syncs[p], "ours": ours[p],
                                 "base": direct[p], "fsync": syncs[p]} for p in ("p50", "p99")}


class IngestDraining(Measurement):
    name = "ingest-draining"
    rows = (Row("ingest-draining", "accept while draining flat out",
                "accept alone", (">=", 0.6), "1/s"),)

    def run(self, lab):
        n, backlog = lab.size(100000, 3000), lab.size(300000, 10000)
        size = acknowledgement(lab)
        base = accept(lab, n, 1000)["rate"]
        broker = lab.broker()
        daemon = Daemon(lab, lab.queue(lab.template(backlog)), broker.port)
        connection = Connection(broker.port, check=daemon.check)
        try:
            while (connection.bytes() or (0, 0))[0] < 1000:
                if connection.bytes() is None:  # the one that ends an old session
                    connection.close()
                    connection = Connection(broker.port, check=daemon.check)
                time.sleep(0.002)
            before = connection.bytes()
            began = time.monotonic()
            result = lab.feed(daemon, n, 1000)
            seconds = time.monotonic() - began
            moved = (connection.bytes() or before)[1] - before[1]
        finally:
            connection.close()
        if moved == 0:
            raise Trouble("nothing was drained meanwhile")
        # The backlog has to outlast the lines, or they were accepted by a daemon at rest.
        if daemon.count() == 0:
            raise Trouble("the backlog was gone before the lines were in")
        daemon.end()
        return {self.name: dict(ratio(result["rate"], base), drained=moved / size / seconds)}


class Backlog(Measurement):
    """A daemon that starts on 0, a million and ten million messages."""

    name = "backlog"
    sizes = ((0, "0"), (1000000, "1M"), (10000000, "10M"))
    rows = tuple(
        Row(f"memory-{word}", f"resident memory at most, {word} queued, delivering", "",
            ("<=", 10), "MB", 1) for _, word in sizes
    ) + (
        Row("start-accept", "start with 10M queued, to the first accepted line",
            "start with an empty queue", ("<=", 1.5), "s", 2),
        Row("start-deliver", "start with 10M queued, to the first delivery",
            "start with an empty queue", ("<=", 2), "s", 2),
    )

    def prepare(self, lab):
        self.paths = {}
        for size, word in self.sizes:
            directory = lab.home / f"backlog-{word}"
            directory.mkdir(exist_ok=True)
            self.paths[word] = directory / "queue.db"
            if size:
                lab.fill(self.paths[word], lab.size(size, size // 100))
                lab.memo["backlog", lab.size(size, size // 100)] = self.paths[word]
            else:
                Daemon(lab, self.paths[word], free_port(), OFFLINE).stop()

    def start(self, lab, size, word):
        wanted = lab.size(size, size // 100)
        have = count_queue(self.paths[word])
        if have < wanted:  # what the round before delivered
            lab.fill(self.paths[word], wanted - have)
        broker = lab.broker()
        subscriber = Subscriber(lab, broker.port, plain=True)
        path = self.paths[word]
        daemon = Daemon(lab, path, broker.port)
        accepted = daemon.send_line() - daemon.spawned
        lab.feed(daemon, lab.size(5000, 200), 1000)
        time.sleep(lab.size(1.0, 0.2))
        peak, rest = daemon.status("VmHWM") / 1000, daemon.status("VmRSS") / 1000
        daemon.stop()
        seen = subscriber.result(stop=True)
        broker.end()
        if seen["messages"] == 0:
            raise Trouble("nothing was delivered")
        if not lab.quick and count_queue(path) < 0.7 * size:
            raise Trouble("the backlog has shrunk too far to count as one")
        return {"accepted": accepted, "peak": peak, "rest": rest,
                "delivered": seen["first_usec"] / 1e6 - daemon.spawned}

    def run(self, lab):
        seen = {word: self.start(lab, size, word) for size, word in self.sizes}
        result = {f"memory-{word}": {"value": s["peak"], "ours": s["peak"], "rest": s["rest"]}
                  for word, s in seen.items()}
        result["start-accept"] = ratio(seen["10M"]["accepted"], seen["0"]["accepted"])
        result["start-deliver"] = ratio(seen["10M"]["delivered"], seen["0"]["delivered"])
        return result


class Wear(Measurement):
    """Bytes written to the disk, as the kernel counts them for the daemon, all threads."""

    name = "wear"
    rows = (
        Row("wear-queued", "bytes written, 200 B messages queued flat out, then drained",
            "payload", ("<=", 4.5), "B"),
        Row("wear-delayed", "bytes written, 200 B online at 100/s, commit_delay = 1",
            "payload", ("<=", 6), "B"),
        Row("wear-one", "bytes written, 200 B online one by one",
            "bare SQLite, insert + delete", ("<=", 0.6), "B"),
    )

    def queued(self, lab):
        n = lab.size(50000, 2000)
        port = free_port()
        daemon = Daemon(lab, lab.queue(), port, IMPATIENT)
        before = daemon.written()
        lab.feed(daemon, n, 1000)
        if daemon.count() != n:
            raise Trouble(f"{daemon.count()} of {n} are in the queue")
        lab.broker(port)
        self.settle(lab, daemon)
        written = (daemon.written() - before) / n
        daemon.stop()
        return ratio(written, 200)

    @staticmethod
    def settle(lab, daemon):
        """Until all is delivered, removed, and given back."""
        wait_until(lambda: daemon.count() == 0, 60, "an empty queue", 0.05)
        time.sleep(lab.size(1.5, 0.2))

    @contextlib.contextmanager
    def online(self, lab, settings=""):
        broker = lab.broker()
        daemon = Daemon(lab, lab.queue(), broker.port, settings)
        Connection(broker.port, check=daemon.check).close()
        yield daemon
        daemon.stop()
        broker.end()

    def delayed(self, lab):
        n = lab.size(500, 150)
        queue = 'queue = { path = "@QUEUE@"; max_bytes = "none"; commit_delay = 1.0; };\n'
        with self.online(lab, queue) as daemon:
            lab.feed(daemon, lab.size(200, 50), 1000, rate=100)
            before = daemon.written()
            lab.feed(daemon, n, 1000, rate=100)
            self.settle(lab, daemon)
            return ratio((daemon.written() - before) / n, 200)

    def one(self, lab):
        n = lab.size(4000, 200)
        base = lab.rows(n, 1, remove=True)["written"] / n
        with self.online(lab) as daemon:
            lab.feed(daemon, 100, 1)
            before = daemon.written()
            lab.feed(daemon, n, 1)
            self.settle(lab, daemon)
            return ratio((daemon.written() - before) / n, base)

    def run(self, lab):
        return {"wear-queued": self.queued(lab), "wear-delayed": self.delayed(lab),
                "wear-one": self.one(lab)}


class Idle(Measurement):
    name = "idle"
    rounds = 1
    rows = (
        Row("idle-wakeups", "idle and connected, 60 s: wake-ups a second", "", ("<=", 1), "1/s"),
        Row("idle-written", "idle and connected, 60 s: bytes written", "", ("<=", 0), "B", 0),
        Row("idle-cpu", "idle and connected, 60 s: processor time", "", None, "ms", 1),
    )

    def run(self, lab):
        seconds = lab.size(60.0, 1.0)
        broker = lab.broker()
        daemon = Daemon(lab, lab.queue(), broker.port)
        Connection(broker.port, check=daemon.check).close()
        daemon.send_line()
        wait_until(lambda: daemon.count() == 0, 30, "an empty queue", 0.05)
        time.sleep(lab.size(5.0, 1.5))
        switches, cpu, written = daemon.switches(), daemon.cpu_seconds(), daemon.written()
        time.sleep(seconds)
        daemon.check()
        values = {
            "idle-wakeups": (daemon.switches() - switches) / seconds,
            "idle-written": daemon.written() - written,
            "idle-cpu": 1000 * (daemon.cpu_seconds() - cpu),
        }
        daemon.stop()
        return {name: {"value": value, "ours": value} for name, value in values.items()}


def all_measurements():
    from .instructions import Instructions
    return [AcceptDisk(), AcceptBridge(), AcceptOne(), AcceptMany(), DrainAlone(),
            DrainSubscriber(), DrainFar(100, 100000),
            DrainFar(600, 100000, 'mqtt = { inflight_bytes = "4M"; };\n'), Latency(),
            IngestDraining(), Backlog(), Wear(), Idle(), Instructions()]
