# SPDX-License-Identifier: MIT
"""The service while its state directory's file system is full or read-only; and its clock."""

import os
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from confined import run_confined
from machine import ENVIRONMENT, wait_for
from test_service import (  # noqa: F401: fixtures, too
    SERVICE, SOCKET, Client, config, journal, wait_connected)

STATE = "/var/lib/mqttgw"
RECOVERY = 60

READ_CLOCK = r"""
import ctypes, errno, os
libc = ctypes.CDLL(None, use_errno=True)
for call in (libc.adjtimex, lambda b: libc.clock_adjtime(0, b)):
    print(call(ctypes.create_string_buffer(512)) >= 0)
tick = ctypes.create_string_buffer(512)
tick[0:4] = (0x4000).to_bytes(4, "little")  # ADJ_TICK: to 0, which changes nothing if allowed
print(libc.adjtimex(tick) < 0 and errno.errorcode[ctypes.get_errno()])
print(libc.clock_settime(0, ctypes.create_string_buffer(16)) < 0)
print(os.environ["MQTTGW_BOOT_ID"])
"""


# --- file systems ---------------------------------------------------------------------------------


@contextmanager
def loop_device(machine, tmp_path):
    """A small ext4 on a loop device that the machine has a node for."""
    image = tmp_path / "image"
    with open(image, "wb") as f:
        f.truncate(32 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", image], check=True,
                   env=ENVIRONMENT)
    done = subprocess.run(["losetup", "--find", "--show", image], check=True, text=True,
                          stdout=subprocess.PIPE, env=ENVIRONMENT)
    device = done.stdout.strip()
    try:
        number = os.stat(device).st_rdev
        machine.run("sh", "-c", f"test -e {device} || mknod -m 600 {device} b "
                    f"{os.major(number)} {os.minor(number)}")
        yield device
    finally:
        # Takes effect when the last mount is gone.
        subprocess.run(["losetup", "--detach", device], check=True,
                       env=ENVIRONMENT)


@pytest.fixture(params=["ext4", "tmpfs"])
def small_state(request, machine, tmp_path):
    """mount(): a small, empty file system takes the state directory's place."""
    yield from mounted(machine, tmp_path, request.param)


@pytest.fixture
def ext4_state(machine, tmp_path):
    yield from mounted(machine, tmp_path, "ext4")


def mounted(machine, tmp_path, kind):
    machine.run("systemctl", "stop", SERVICE, SOCKET)
    machine.run("mkdir", "-p", STATE)

    def give_back():
        machine.run("systemctl", "stop", SERVICE, SOCKET)
        # The mount namespace of the service ends a moment after it.
        wait_for(lambda: machine.run("umount", STATE, check=False).returncode == 0, 10,
                 "the file system to be free")
        machine.run("systemctl", "reset-failed", SERVICE, SOCKET, check=False)
        machine.run("systemctl", "start", "test-broker.service", SOCKET)

    if kind == "tmpfs":
        machine.run("mount", "-t", "tmpfs", "-o", "size=32M", "none", STATE)
        try:
            yield None
        finally:
            give_back()
        return
    with loop_device(machine, tmp_path) as device:
        machine.run("mount", device, STATE)
        try:
            yield device
        finally:
            give_back()


def fill(machine):
    """Another file takes all the room there is."""
    fd = os.open(machine.inside(STATE + "/filler"), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        step = 1 << 20
        while step >= 4096:
            try:
                os.posix_fallocate(fd, os.fstat(fd).st_size, step)
            except OSError:
                step //= 2
    finally:
        os.close(fd)


class Lines:
    """Lines of one topic, and how each was answered."""

    def __init__(self, machine, topic):
        self.machine = machine
        self.topic = topic
        self.queued = []
        self.refused = []

    def feed(self, count):
        with Client(self.machine) as client:
            payloads = [f"{len(self.queued) + len(self.refused) + n}" for n in range(count)]
            client.send(self.topic, *payloads)
            for payload in payloads:
                reply = client.reply()
                assert reply["id"] == payload
                if reply["status"] == "queued":
                    self.queued.append(payload)
                else:
                    assert reply["error"] == "storage", reply
                    self.refused.append(payload)

    def until(self, answers, timeout=30):
        """Ten lines at a time until ten of them got that answer."""
        def answered():
            before = len(answers)
            self.feed(10)
            return len(answers) - before == 10
        what = "queued" if answers is self.queued else "refused"
        wait_for(answered, timeout, f"lines to be {what}")

    def wait_arrived(self, recorded):
        """All that was accepted reached the broker; some of it more than once, maybe."""
        wait_for(lambda: set(self.queued) <= set(recorded(self.topic, 0)), RECOVERY,
                 f"all {len(self.queued)} accepted lines to arrive")

    def check(self, recorded):
        """So it is, and nothing else arrived."""
        self.wait_arrived(recorded)
        assert not set(self.refused) & set(recorded(self.topic, 0))


def still_up(machine):
    assert machine.show(SERVICE, "ActiveState", "SubState", "NRestarts") == {
        "ActiveState": "active", "SubState": "running", "NRestarts": "0"}


def wait_status(machine, lines):
    """While lines come: a disk on which the last one just fitted is not full."""
    def told():
        lines.feed(10)
        return "cannot be written" in machine.show(SERVICE, "StatusText")
    wait_for(told, 15, "STATUS to tell of the disk")


def start(machine):
    machine.run("systemctl", "reset-failed", SERVICE, SOCKET, check=False)
    machine.run("systemctl", "start", SERVICE)


# --- the disk -------------------------------------------------------------------------------------


def test_full_disk_under_the_service(machine, config, small_state, recorded):
    start(machine)
    wait_connected(machine)
    lines = Lines(machine, f"full/{small_state or 'tmpfs'}")
    lines.feed(100)
    machine.run("systemctl", "stop", "test-broker.service")
    lines.until(lines.queued)
    since = time.time()

    fill(machine)
    lines.until(lines.refused)
    wait_status(machine, lines)
    assert any("No space left on device" in entry["MESSAGE"] for entry in journal(machine, since))
    still_up(machine)

    machine.run("systemctl", "start", "test-broker.service")
    wait_connected_again(machine)
    lines.wait_arrived(recorded)
    machine.inside(STATE + "/filler").unlink()
    lines.until(lines.queued, RECOVERY)
    lines.check(recorded)
    wait_for(lambda: "cannot be written" not in machine.show(SERVICE, "StatusText"), 15,
             "STATUS to be as before")
    still_up(machine)


def wait_connected_again(machine):
    """STATUS may begin with news of the disk."""
    wait_for(lambda: " connected " in f" {machine.show(SERVICE, 'StatusText')} ", 15,
             "a connection to the broker")


def test_start_on_a_read_only_disk(machine, config, ext4_state, recorded):
    """An existing queue, and an operator who mends it.

    The service has its own view of the mounts, in which it stays read-only: it takes a restart.
    """
    start(machine)
    wait_connected(machine)
    machine.run("systemctl", "stop", "test-broker.service")
    lines = Lines(machine, "read-only/start")
    lines.feed(100)
    assert not lines.refused
    machine.run("systemctl", "stop", SERVICE, SOCKET)
    machine.run("mount", "-o", "remount,ro", STATE)

    start(machine)
    machine.run("systemctl", "start", "test-broker.service")
    lines.until(lines.refused)
    wait_status(machine, lines)
    still_up(machine)
    machine.run("mount", "-o", "remount,rw", STATE)
    machine.run("systemctl", "restart", SERVICE)
    lines.until(lines.queued, RECOVERY)
    lines.check(recorded)
    still_up(machine)


def test_disk_turns_read_only(machine, config, ext4_state, recorded):
    """As after an error in the file system; the way back is a new mount, and a start."""
    start(machine)
    wait_connected(machine)
    lines = Lines(machine, "read-only/turns")
    lines.feed(100)
    machine.run("systemctl", "stop", "test-broker.service")
    lines.until(lines.queued)
    machine.run("mount", "-o", "remount,abort", STATE)
    lines.until(lines.refused)
    wait_status(machine, lines)
    still_up(machine)

    machine.run("systemctl", "stop", SERVICE, SOCKET)
    wait_for(lambda: machine.run("umount", STATE, check=False).returncode == 0, 10,
             "the file system to be free")
    machine.run("mount", ext4_state, STATE)
    machine.run("systemctl", "start", "test-broker.service")
    start(machine)
    lines.until(lines.queued, RECOVERY)
    lines.check(recorded)
    still_up(machine)


# --- the clock ------------------------------------------------------------------------------------


def test_clock_can_be_read_but_not_set(machine):
    """In the unit's confinement: is the clock synchronised, and which boot is it?"""
    *clock, boot = run_confined(machine, SERVICE, READ_CLOCK).split()
    assert clock == ["True", "True", "EPERM", "True"]
    # As the machine's systemd knows it.
    said = machine.run("systemd-id128", "boot-id").stdout.strip()
    assert boot.replace("-", "") == said.replace("-", "")
