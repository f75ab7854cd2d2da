# SPDX-License-Identifier: MIT
"""A throw-away machine: this host's own files under a booted systemd, in systemd-nspawn.

An overlay over / whose upper layer is a tmpfs stands in for a disk; nothing that happens inside
reaches the host. Mounts and processes live in namespaces of their own, held by one process that
dies with the test run. So, whatever happens to that, nothing stays behind but empty directories,
and the next run removes those.

Works where systemd is process 1 and where it is not, as in a container that may mount.
"""

import ctypes
import os
import re
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from pathlib import Path

PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)

ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "TERM": "dumb",
    "SYSTEMD_PAGER": "cat",
    "SYSTEMD_COLORS": "0",
}


def die_with_parent():
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def wait_for(condition, timeout, what):
    """Returns the first true value of condition(); fails after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout} s for {what}")
        time.sleep(0.03)


def _comm(pid):
    return Path(f"/proc/{pid}/comm").read_text().strip()


def why_not():
    """Why no machine can be booted here, or None."""
    if os.geteuid() != 0:
        return "needs root"
    for program in ("systemd-nspawn", "nsenter", "unshare", "make", "mosquitto"):
        if not shutil.which(program, path=ENVIRONMENT["PATH"]):
            return f"{program} is not installed"
    if "overlay" not in Path("/proc/filesystems").read_text():
        subprocess.run(["modprobe", "overlay"], check=False, stderr=subprocess.DEVNULL)
        if "overlay" not in Path("/proc/filesystems").read_text():
            return "the kernel has no overlay file system"
    with tempfile.TemporaryDirectory(prefix="mqttgw-probe.") as d:
        script = (
            f'mount -t tmpfs none "{d}" && cd "{d}" && mkdir u w m && '
            'mount -t overlay -o "lowerdir=/,upperdir=u,workdir=w" none m'
        )
        probe = subprocess.run(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", script],
            capture_output=True, text=True, check=False)
    if probe.returncode != 0:
        return "cannot mount an overlay over /: " + probe.stderr.strip()
    return None


def _remove_tree_of_cgroups(cgroup):
    for directory, _, _ in os.walk(cgroup, topdown=False):
        try:
            os.rmdir(directory)
        except OSError:
            return False
    return True


def _own_cgroups():
    """The directories of the cgroups that systemd uses and this process is in."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        number, controllers, path = line.split(":", 2)
        if controllers == "name=systemd":
            base = Path("/sys/fs/cgroup/systemd")
        elif number == "0":
            base = Path("/sys/fs/cgroup/unified")
            if not base.is_dir():
                base = Path("/sys/fs/cgroup")
        else:
            continue
        if base.is_dir():
            yield base / path.lstrip("/")


class Machine:
    PREFIX = "mqttgw-test-"

    def __init__(self):
        self.name = f"{self.PREFIX}{os.getpid()}"
        self.unshare = None
        self.keeper = None  # process 1 of the namespaces
        self.nspawn = None
        self.leader = None  # the machine's process 1
        self.cgroups = []
        self._sweep()
        self.dir = Path(tempfile.mkdtemp(prefix=self.name + "."))
        self.console = self.dir / "console"

    def _sweep(self):
        """Removes what a run left that was killed."""
        old = list(Path(tempfile.gettempdir()).glob(self.PREFIX + "*"))
        for parent in _own_cgroups():
            old += parent.glob(self.PREFIX + "*")
        for path in old:
            pid = re.match(r"\d+", path.name[len(self.PREFIX):])
            if not pid or os.path.exists(f"/proc/{pid[0]}"):
                continue
            if path.is_relative_to("/sys/fs/cgroup"):
                _remove_tree_of_cgroups(path)
            else:
                shutil.rmtree(path, ignore_errors=True)

    # --- up and down -----------------------------------------------------------------------------

    def make_disk(self):
        """Mounts the overlay; from now on path() can be written to."""
        with open(self.console, "wb") as console:
            self.unshare = subprocess.Popen(
                ["unshare", "--mount", "--propagation", "private", "--pid", "--fork",
                 "--mount-proc", "--kill-child", "sleep", "infinity"],
                preexec_fn=die_with_parent, start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=console, stderr=console)
        children = Path(f"/proc/{self.unshare.pid}/task/{self.unshare.pid}/children")

        def asleep():
            child = children.read_text().strip()
            return child if child and _comm(child) == "sleep" else None
        self.keeper = int(wait_for(asleep, 5, "unshare"))
        self.on_disk("mount", "-t", "tmpfs", "-o", "size=768M,mode=755", self.name, self.dir)
        for sub in "uwm":
            self.on_disk("mkdir", self.dir / sub)
        self.on_disk("mount", "-t", "overlay", "-o",
                     f"lowerdir=/,upperdir={self.dir}/u,workdir={self.dir}/w",
                     self.name, self.dir / "m")
        # What the host has switched on is no business of ours.
        for wants in self.path("/etc/systemd/system").glob("*.wants"):
            for link in wants.iterdir():
                link.unlink()
        self.path("/etc/fstab").write_text("")

    def on_disk(self, *command, **options):
        """Runs a command of the host that sees the mounted disk at self.dir / "m"."""
        options.setdefault("check", True)
        return subprocess.run(["nsenter", "-t", str(self.keeper), "-m", *map(str, command)],
                              **options)

    def path(self, inside):
        """Where the host finds a file of the machine's disk, booted or not."""
        return Path(f"/proc/{self.keeper}/root{self.dir}/m{inside}")

    def boot(self):
        command = ["nsenter", "-t", str(self.keeper), "-m", "-p", "systemd-nspawn", "--quiet",
                   f"--directory={self.dir}/m", f"--machine={self.name}", "--register=no",
                   "--private-network", "--console=pipe", "--link-journal=no",
                   # Nobody is asked for a scope: systemd may not be there, and would not know
                   # our process by the number it has in its namespace.
                   "--keep-unit",
                   # As outside of a container: whoever may not set the clock can ask for its state;
                   # and systemd has a say in which addresses a service may use.
                   "--system-call-filter=adjtimex clock_adjtime bpf",
                   "--capability=CAP_BPF,CAP_NET_ADMIN,CAP_PERFMON",
                   "--boot", "systemd.log_target=journal", "systemd.unit=multi-user.target"]
        # A cgroup of its own instead, or two machines would share one.
        for parent in _own_cgroups():
            cgroup = parent / self.name
            cgroup.mkdir()
            self.cgroups.append(cgroup)

        def prepare():
            die_with_parent()
            for cgroup in self.cgroups:
                (cgroup / "cgroup.procs").write_text(str(os.getpid()))

        with open(self.console, "ab") as console:
            self.nspawn = subprocess.Popen(
                command, preexec_fn=prepare, start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=console, stderr=console)
        self.leader = wait_for(self._find_leader, 20, "systemd inside")
        state = self.run("systemctl", "is-system-running", "--wait", check=False, timeout=60)
        assert state.stdout.strip() in ("running", "degraded"), state.stdout + self.console_text()

    def _find_leader(self):
        if self.nspawn.poll() is not None:
            raise AssertionError("systemd-nspawn ended:\n" + self.console_text())
        below = [self.nspawn.pid]
        for pid in below:
            try:
                status = Path(f"/proc/{pid}/status").read_text()
                for children in Path(f"/proc/{pid}/task").glob("*/children"):
                    below += map(int, children.read_text().split())
            except (FileNotFoundError, ProcessLookupError):
                continue
            numbers = status.split("NSpid:", 1)[1].split("\n", 1)[0].split()
            private = f"/proc/{pid}/root/run/systemd/private"
            if len(numbers) > 1 and numbers[-1] == "1" and os.path.exists(private):
                return pid
        return None

    def console_text(self):
        return self.console.read_text(errors="replace")[-4000:]

    def close(self):
        """Ends what runs and removes what lies about. May be called at any stage, and again."""
        if self.nspawn and self.nspawn.poll() is None:
            if self.leader:
                try:
                    os.kill(self.leader, signal.SIGRTMIN + 4)  # systemd: power off
                    self.nspawn.wait(15)
                except (ProcessLookupError, subprocess.TimeoutExpired):
                    pass
        if self.keeper:
            try:
                os.kill(self.keeper, signal.SIGKILL)  # and all below it
            except ProcessLookupError:
                pass
        for process in (self.nspawn, self.unshare):
            if process:
                process.wait()
        self.unshare = self.keeper = self.nspawn = self.leader = None
        for cgroup in self.cgroups:
            wait_for(lambda: _remove_tree_of_cgroups(cgroup), 5, f"the processes in {cgroup}")
        self.cgroups = []
        shutil.rmtree(self.dir, ignore_errors=True)

    # --- inside ----------------------------------------------------------------------------------

    def _command(self, command, user):
        enter = ["nsenter", "-t", str(self.leader), "-m", "-u", "-i", "-n", "-p", "-C"]
        if user:
            enter += ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"]
        return enter + [str(c) for c in command]

    def run(self, *command, user=None, check=True, timeout=30, **options):
        """Runs a command inside and returns its result, text captured."""
        done = subprocess.run(
            self._command(command, user), env=ENVIRONMENT, timeout=timeout, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)
        if check and done.returncode != 0:
            raise AssertionError(f"{' '.join(map(str, command))}: exit {done.returncode}\n"
                                 f"{done.stdout}{done.stderr}")
        return done

    def write(self, inside, text, mode=None):
        """Writes a file as the machine sees it, mounts such as /run included."""
        path = Path(f"/proc/{self.leader}/root{inside}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        if mode is not None:
            path.chmod(mode)

    def inside(self, path):
        """Where the host finds a file of the booted machine, mounts such as /run included."""
        return Path(f"/proc/{self.leader}/root{path}")

    def show(self, unit, *properties):
        """Properties of a unit: one as a string, several as a dictionary."""
        out = self.run("systemctl", "show", unit, "-p", ",".join(properties)).stdout
        values = dict(line.split("=", 1) for line in out.splitlines() if "=" in line)
        return values[properties[0]] if len(properties) == 1 else values

    def host_pid(self, inside_pid):
        """The number the host knows a process of the machine by."""
        namespace = os.readlink(f"/proc/{self.leader}/ns/pid")
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                if os.readlink(entry / "ns/pid") != namespace:
                    continue
                status = (entry / "status").read_text()
            except OSError:
                continue
            if status.split("NSpid:", 1)[1].split("\n", 1)[0].split()[-1] == str(inside_pid):
                return int(entry.name)
        raise AssertionError(f"no process {inside_pid} inside")


def is_socket(path):
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except FileNotFoundError:
        return False
