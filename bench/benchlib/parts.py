# SPDX-License-Identifier: MIT
"""The processes of a measurement: daemon, broker, bridge, relay, feeder, subscriber.

Everything is started in a scratch directory of its own and ended with the measurement. Whatever
does not do what it should raises Trouble, which says why in the table.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import tempfile
import time
from pathlib import Path

SBIN = "/usr/local/sbin:/usr/sbin:/usr/local/bin:/usr/bin:/sbin:/bin"


class Trouble(Exception):
    """A measurement could not be made, or what it measured was not true."""


def wait_until(condition, seconds, what, pause=0.005):
    end = time.monotonic() + seconds
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > end:
            raise Trouble(f"waited {seconds:.0f} s in vain: {what}")
        time.sleep(pause)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def is_open(port):
    with socket.socket() as s:
        s.settimeout(1.0)
        return s.connect_ex(("127.0.0.1", port)) == 0


def copy_synced(source, target):
    """A copy whose bytes are on the disk, so that writing them disturbs nobody later."""
    shutil.copyfile(source, target)
    fd = os.open(target, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


class Process:
    """A child that is ended with the scratch directory at the latest."""

    def __init__(self, lab, name, command, **arguments):
        lab.counter += 1
        self.name = name
        self.log_path = lab.scratch / f"{lab.counter}-{name}.log"
        with open(self.log_path, "wb") as log:
            arguments.setdefault("stdout", log)
            self.popen = subprocess.Popen([str(c) for c in command], stderr=log, **arguments)
        self.pid = self.popen.pid
        lab.processes.append(self)

    def log(self):
        return self.log_path.read_text(errors="replace")

    def check(self):
        if self.popen.poll() is not None:
            raise Trouble(f"{self.name} ended with {self.popen.returncode}: {self.log()[-300:]}")

    def end(self, seconds=30.0):
        """SIGTERM, and the exit status; SIGKILL to one that does not end."""
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGTERM)
            try:
                self.popen.wait(seconds)
            except subprocess.TimeoutExpired:
                self.popen.kill()
                self.popen.wait()
        if self.popen.stdout:
            self.popen.stdout.close()
        return self.popen.returncode

    def status(self, key):
        """A number of /proc/PID/status, such as VmRSS in KiB."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(key + ":"):
                return int(line.split()[1])
        raise Trouble(f"no {key} of {self.name}")

    def written(self):
        """Bytes sent to the disk, as the kernel counts them for this process."""
        for line in Path(f"/proc/{self.pid}/io").read_text().splitlines():
            if line.startswith("write_bytes:"):
                return int(line.split()[1])
        raise Trouble(f"no write_bytes of {self.name}")

    def switches(self):
        """How often its threads were given the processor."""
        n = 0
        for path in Path(f"/proc/{self.pid}/task").glob("*/status"):
            for line in path.read_text().splitlines():
                if "ctxt_switches:" in line:
                    n += int(line.split()[1])
        return n

    def cpu_seconds(self):
        nsec = 0
        for path in Path(f"/proc/{self.pid}/task").glob("*/schedstat"):
            nsec += int(path.read_text().split()[0])
        return nsec / 1e9


class Subscriber(Process):
    def __init__(self, lab, port, messages=0, plain=False):
        command = [lab.program("subscribe")]
        command += ["--messages", messages] if messages else []
        command += ["--plain"] if plain else []
        super().__init__(
            lab, "subscribe", command + ["127.0.0.1", port], stdout=subprocess.PIPE, text=True
        )
        self.messages = messages
        if "subscribed" not in self.popen.stdout.readline():
            self.popen.wait()
            raise Trouble(f"no subscription: {self.log()[-300:]}")

    def result(self, seconds=120.0, stop=False):
        """What it saw, when all have come; with `stop`, at once."""
        if stop:
            self.popen.send_signal(signal.SIGTERM)
        try:
            out, _ = self.popen.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.popen.send_signal(signal.SIGTERM)
            out, _ = self.popen.communicate(timeout=10)
            raise Trouble(f"not all of {self.messages} messages came: {out[:200]}") from None
        if self.popen.returncode != 0:
            raise Trouble(f"the subscriber failed: {self.log()[-300:]}")
        result = json.loads(out)
        if self.messages and (result["missing"] or result["strange"]):
            raise Trouble(f"missing or strange messages: {out[:300]}")
        return result


class Daemon(Process):
    def __init__(self, lab, queue, port, settings="", wrap=(), ready=60.0):
        directory = queue.parent
        self.queue = queue
        self.socket = directory / "gw.sock"
        config = directory / "mqttgw.conf"
        config.write_text(
            'gateway = { id = "bench"; };\n'
            f'socket = {{ path = "{self.socket}"; mode = "0600"; group = ""; }};\n'
            f'control = {{ path = "{directory}/control.sock"; }};\n'
            f'brokers = ( {{ host = "127.0.0.1"; port = {port}; }} );\n'
            + ("" if "queue =" in settings
               else f'queue = {{ path = "{queue}"; max_bytes = "none"; }};\n')
            + settings.replace("@QUEUE@", str(queue))
        )
        self.spawned = time.monotonic()
        super().__init__(
            lab, "mqtt-gatewayd", [*wrap, lab.build / "mqtt-gatewayd", "-c", config]
        )
        if ready:
            self.wait_ready(ready)

    def wait_ready(self, seconds, pause=0.001):
        """Until a client may connect. Returns the open connection."""
        def connect():
            self.check()
            s = socket.socket(socket.AF_UNIX)
            try:
                s.connect(str(self.socket))
                return s
            except OSError:
                s.close()
                return None
        wait_until(connect, seconds, "the daemon accepts", pause).close()

    def send_line(self, payload="00000000000000000000"):
        """One line, and its reply. Returns when that came."""
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(60.0)
            s.connect(str(self.socket))
            line = {"id": 1, "topic": "sensors/00/temperature", "payload": payload}
            s.sendall(json.dumps(line).encode() + b"\n")
            reply = json.loads(s.makefile().readline())
        if reply.get("status") != "queued":
            raise Trouble(f"the line was not accepted: {reply}")
        return time.monotonic()

    def count(self):
        return count_queue(self.queue)

    def stop(self):
        status = self.end(60.0)
        if status != 0:
            raise Trouble(f"the daemon ended with {status}: {self.log()[-300:]}")


def count_queue(path):
    """Messages in the queue, by a connection of its own that is closed at once."""
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5.0)) as db:
        row = db.execute("SELECT value FROM meta WHERE key = 'queue_messages'").fetchone()
        dead = db.execute("SELECT value FROM meta WHERE key = 'dead_letters'").fetchone()
    if dead[0]:
        raise Trouble(f"{dead[0]} messages ended as dead letters")
    return row[0]


class Lab:
    """Where measurements are made: programs, sizes, a scratch directory, processes."""

    def __init__(self, build, directory, quick):
        self.build = build
        self.quick = quick
        self.home = Path(tempfile.mkdtemp(prefix="mqttgw-bench-", dir=directory))
        self.scratch = self.home
        self.processes = []
        self.counter = 0
        self.memo = {}
        self.mosquitto = shutil.which("mosquitto", path=os.environ.get("PATH", "") + ":" + SBIN)

    def size(self, normal, quick):
        return quick if self.quick else normal

    def program(self, name):
        path = self.build / "bench" / name
        if not path.exists():
            raise Trouble(f"{path} is not built: make bench/{name}")
        return path

    @contextlib.contextmanager
    def bench(self):
        """A scratch directory; its processes end with it."""
        self.scratch = Path(tempfile.mkdtemp(dir=self.home))
        try:
            yield self.scratch
        finally:
            for process in reversed(self.processes):
                process.end()
            self.processes.clear()
            shutil.rmtree(self.scratch, ignore_errors=True)
            self.scratch = self.home

    def close(self):
        shutil.rmtree(self.home, ignore_errors=True)

    def call(self, program, *arguments, seconds=600.0):
        """Runs one of the small programs to its end. Returns its JSON."""
        command = [str(self.program(program)), *(str(a) for a in arguments)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
        except subprocess.TimeoutExpired:
            raise Trouble(f"{program} took longer than {seconds:.0f} s") from None
        if done.returncode != 0:
            raise Trouble(f"{program}: {done.stderr.strip()[-300:]}")
        return json.loads(done.stdout)

    def rows(self, count, batch, size=200, remove=False):
        more = ["--remove"] if remove else []
        return self.call("rows", "--rows", count, "--batch", batch, "--bytes", size, *more,
                         self.scratch)

    def syncs(self):
        return self.call("rows", "--fsync", self.size(500, 50), self.scratch)["fsync_usec"]

    def feed(self, daemon, messages, window, connections=1, size=200, rate=0):
        more = ["--rate", rate] if rate else []
        result = self.call("feed", "--messages", messages, "--window", window, "--connections",
                           connections, "--bytes", size, *more, daemon.socket)
        if result["queued"] != messages or result["errors"]:
            raise Trouble(f"not every line was accepted: {result}")
        return result

    def publish(self, port, messages, window, size=200, rate=0, skip=0, provenance=False):
        more = ["--rate", rate] if rate else []
        more += ["--skip", skip] if skip else []
        more += ["--provenance"] if provenance else []
        return self.call("publish", "--messages", messages, "--window", window, "--bytes", size,
                         *more, "127.0.0.1", port)

    def fill(self, path, rows, size=200):
        """A backlog without a daemon: numbers and times are not in its payloads."""
        command = [self.program("backlog"), "--rows", rows, "--bytes", size, path]
        done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
        if done.returncode != 0:
            raise Trouble(f"backlog: {done.stderr.strip()[-300:]}")

    def template(self, rows, size=200):
        """A queue with so many rows, made once; to be copied."""
        key = ("template", rows, size)
        if key not in self.memo:
            path = self.home / f"template-{rows}-{size}.db"
            self.fill(path, rows, size)
            self.memo[key] = path
        return self.memo[key]

    def stamped(self, rows):
        """The same, fed through the daemon: the payloads have numbers, from 0."""
        key = ("stamped", rows)
        if key not in self.memo:
            path = self.scratch / "stamped" / "queue.db"
            path.parent.mkdir()
            daemon = Daemon(self, path, free_port())
            self.feed(daemon, rows, 1000)
            daemon.stop()
            target = self.home / f"stamped-{rows}.db"
            copy_synced(path, target)
            self.memo[key] = target
        return self.memo[key]

    def queue(self, template=None):
        """The path of a queue in a directory of its own: new, or a copy."""
        directory = Path(tempfile.mkdtemp(dir=self.scratch))
        if template:
            copy_synced(template, directory / "queue.db")
        return directory / "queue.db"

    def broker(self, port=0, inflight=0, more="", wait=True):
        if not self.mosquitto:
            raise Trouble("mosquitto is not installed")
        port = port or free_port()
        config = self.scratch / f"mosquitto-{port}.conf"
        config.write_text(
            f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\n"
            f"max_inflight_messages {inflight}\nmax_queued_messages 0\nset_tcp_nodelay true\n"
            "log_type error\nsys_interval 0\n" + more
            + ("user root\n" if os.geteuid() == 0 else "")
        )
        broker = Process(self, "mosquitto", [self.mosquitto, "-c", config])
        broker.port = port
        if wait:
            wait_until(lambda: broker.check() or is_open(port), 10.0, "mosquitto accepts")
        return broker

    def bridge(self, remote_port, inflight):
        """mosquitto with a bridge to a broker that may not be there."""
        return self.broker(inflight=inflight, more=(
            f"connection gateway\naddress 127.0.0.1:{remote_port}\ntopic # out 1\n"
            "cleansession false\nnotifications false\nrestart_timeout 1 1\n"
        ))

    def relay(self, port, round_trip_msec):
        listening = free_port()
        relay = Process(self, "delay", [
            self.program("delay"), "--msec", round_trip_msec // 2, listening, port
        ], stdout=subprocess.PIPE, text=True)
        if "listening" not in relay.popen.stdout.readline():
            raise Trouble(f"no relay: {relay.log()[-300:]}")
        relay.port = listening
        return relay
