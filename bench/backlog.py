#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""A long outage and its end: a backlog on disk, the daemon that starts on it,
and a broker that takes it all.

    bench/backlog.py [--rows N] [--bytes N] [--build DIRECTORY] [--keep]

Fills a queue with bench/backlog, starts mqtt-gatewayd on it beside a mosquitto
without subscribers, and prints a table: time until the first line is accepted
and until the first message is delivered, how fast each tenth of the backlog
goes, memory, bytes written, and how the file shrinks. Everything is on the
loopback interface and in a temporary directory. Exit status 1 when the backlog
does not drain, or a daemon that gives space back leaves the file as it is.
"""

import argparse
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MOSQUITTO = shutil.which("mosquitto", path="/usr/sbin:/usr/bin:/sbin:/bin")
# A disk that does nothing for so long is taken for a fault.
STALL_SECONDS = 60.0


def row(what, value, unit=""):
    print(f"{what:<32} {value:>14} {unit}", flush=True)


def wait_until(condition, seconds, what, pause=0.005):
    end = time.monotonic() + seconds
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > end:
            sys.exit(f"waited {seconds:.0f} s in vain: {what}")
        time.sleep(pause)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def accepts(port):
    with socket.socket() as s:
        s.settimeout(1.0)
        return s.connect_ex(("127.0.0.1", port)) == 0


def proc_kib(pid, key):
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1])
    return 0


def proc_written(pid):
    """Bytes that the process sent to the disk, as the kernel counts them."""
    for line in Path(f"/proc/{pid}/io").read_text().splitlines():
        if line.startswith("write_bytes:"):
            return int(line.split()[1])
    return 0


class Counter:
    """Reads the number of messages; each look is a cursor of its own."""

    def __init__(self, path):
        self.db = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5.0)

    def __call__(self):
        sql = "SELECT value FROM meta WHERE key = 'queue_messages'"
        return self.db.execute(sql).fetchone()[0]

    def close(self):
        self.db.close()


class Bench:
    def __init__(self, options, directory):
        self.options = options
        self.directory = directory
        self.queue = directory / "queue.db"
        self.processes = []

    def spawn(self, name, command, **arguments):
        with open(self.directory / f"{name}.log", "wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, **arguments)
        self.processes.append(process)
        return process

    def end(self):
        for process in reversed(self.processes):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()

    def fill(self):
        subprocess.run(
            [self.options.build / "bench/backlog", "--rows", str(self.options.rows),
             "--bytes", str(self.options.bytes), self.queue],
            check=True,
        )

    def start_broker(self):
        self.port = free_port()
        config = self.directory / "mosquitto.conf"
        config.write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\n"
            "persistence false\nmax_inflight_messages 0\n"
            "set_tcp_nodelay true\n" + ("user root\n" if os.geteuid() == 0 else "")
        )
        self.spawn("mosquitto", [MOSQUITTO, "-c", str(config)])
        wait_until(lambda: accepts(self.port), 10.0, "mosquitto accepts")

    def write_config(self):
        config = self.directory / "mqttgw.conf"
        config.write_text(
            'gateway = { id = "bench"; };\n'
            f'socket = {{ path = "{self.directory}/gw.sock"; mode = "0600"; group = ""; }};\n'
            f'control = {{ path = "{self.directory}/control.sock"; }};\n'
            f'queue = {{ path = "{self.queue}"; max_bytes = "none"; }};\n'
            f'brokers = ( {{ host = "127.0.0.1"; port = {self.port}; }} );\n'
        )
        return config

    def start_daemon(self):
        config = self.write_config()
        notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        notify.bind(str(self.directory / "notify"))
        environment = dict(os.environ, NOTIFY_SOCKET=str(self.directory / "notify"))
        started = time.monotonic()
        self.daemon = self.spawn(
            "mqtt-gatewayd", [self.options.build / "mqtt-gatewayd", "-c", config],
            env=environment,
        )
        notify.setblocking(False)
        wait_until(lambda: self.is_ready(notify), STALL_SECONDS, "READY=1")
        row("READY after", f"{time.monotonic() - started:.3f}", "s")
        notify.close()
        self.send_line()
        row("first line accepted after", f"{time.monotonic() - started:.3f}", "s")
        row("resident memory then", proc_kib(self.daemon.pid, "VmRSS") // 1024, "MiB")
        return started

    def is_ready(self, notify):
        if self.daemon.poll() is not None:
            log = (self.directory / "mqtt-gatewayd.log").read_text()
            sys.exit(f"the daemon ended with {self.daemon.returncode}:\n{log}")
        try:
            return b"READY=1" in notify.recv(65536).splitlines()
        except BlockingIOError:
            return False

    def send_line(self):
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(STALL_SECONDS)
            s.connect(str(self.directory / "gw.sock"))
            s.sendall(b'{"id":1,"topic":"sensors/bench","payload":"x"}\n')
            reply = json.loads(s.makefile().readline())
        if reply.get("status") != "queued":
            sys.exit(f"the line was not accepted: {reply}")

    def drain(self, started):
        """Returns the rates of the tenths."""
        count = Counter(self.queue)
        rows = self.options.rows
        left = wait_until(lambda: (n := count()) < rows and n, STALL_SECONDS, "a delivery")
        row("first delivery seen after", f"{time.monotonic() - started:.3f}", "s")
        rates = []
        begin, begin_left = time.monotonic(), left
        moved, last = time.monotonic(), left
        for tenth in range(1, 11):
            goal = rows - rows * tenth // 10
            while left > goal:
                time.sleep(0.005)
                left = count()
                if left != last:
                    moved, last = time.monotonic(), left
                if time.monotonic() - moved > STALL_SECONDS:
                    sys.exit(f"the drain stands still with {left} messages left")
            now = time.monotonic()
            if now > begin and begin_left > left:
                rates.append((begin_left - left) / (now - begin))
                row(f"drain, tenth {tenth}", f"{rates[-1]:.0f}", "1/s")
            begin, begin_left = now, left
        wait_until(lambda: count() == 0, STALL_SECONDS, "an empty queue")
        row("drained after", f"{time.monotonic() - started:.1f}", "s")
        count.close()
        return rates

    def watch_file(self):
        """Waits until the file stands still; returns its size."""
        drained = stood = time.monotonic()
        size = first = self.queue.stat().st_size
        row("database after the drain", f"{first / 1e6:.1f}", "MB")
        while time.monotonic() - stood < self.options.still:
            time.sleep(0.05)
            now = self.queue.stat().st_size
            if now != size:
                size, stood = now, time.monotonic()
        row("database in the end", f"{size / 1e6:.1f}", "MB")
        row("which took", f"{stood - drained:.1f}", "s")
        return size

    def run(self):
        self.fill()
        self.start_broker()
        started = self.start_daemon()
        rates = self.drain(started)
        size = self.watch_file()
        row("resident memory, most", proc_kib(self.daemon.pid, "VmHWM") // 1024, "MiB")
        row("written by the daemon", f"{proc_written(self.daemon.pid) / 1e6:.1f}", "MB")
        row("slowest of fastest tenth", f"{100 * min(rates) / max(rates):.0f}", "%")
        self.daemon.send_signal(signal.SIGTERM)
        status = self.daemon.wait(30)
        row("exit status", status)
        return 0 if status == 0 and (size < 4e6 or not self.options.shrinks) else 1


def main():
    parser = argparse.ArgumentParser(description="A backlog and its end, measured.")
    parser.add_argument("--rows", type=int, default=100000)
    parser.add_argument("--bytes", type=int, default=200, help="of a payload")
    parser.add_argument("--build", type=Path, default=Path("build/dev"),
                        help="where mqtt-gatewayd and bench/backlog were built")
    parser.add_argument("--still", type=float, default=10.0,
                        help="seconds without a change after which the file is done")
    parser.add_argument("--shrinks", action="store_true",
                        help="fail when the file is over 4 MB in the end")
    parser.add_argument("--directory", type=Path, help="where the files go; default: a new one")
    parser.add_argument("--keep", action="store_true", help="leave the files")
    options = parser.parse_args()
    options.build = options.build.resolve()
    if not MOSQUITTO:
        sys.exit("mosquitto is not installed")
    directory = Path(tempfile.mkdtemp(prefix="mqttgw-backlog-", dir=options.directory))
    bench = Bench(options, directory)
    try:
        return bench.run()
    finally:
        bench.end()
        if options.keep:
            print(f"files are in {directory}")
        else:
            shutil.rmtree(directory)


if __name__ == "__main__":
    sys.exit(main())
