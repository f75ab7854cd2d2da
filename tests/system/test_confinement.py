# SPDX-License-Identifier: MIT
"""What the units deny is denied, what they need is not, and a test notices a call that is denied.

The whole of tests/system runs with SystemCallErrorNumber=kill, see conftest.py; here also what a
unit refuses for a call's arguments kills.
"""

import json
import re
import ssl
import subprocess
import sys
import time
from pathlib import Path

import pytest

from confined import PYTHON, denied, run_confined
from machine import wait_for
from test_service import (  # noqa: F401: fixtures, too
    SERVICE, SOCKET, Client, config, journal, service, wait_connected, wait_state)

sys.path.insert(0, str(Path(__file__).parents[1] / "integration"))
from harness.tls import Authority  # noqa: E402

REPORT = "mqttgw-report.service"
UNITS = [SERVICE, REPORT]
STRICT = "/opt/strict.py"
EXPOSURE = {SERVICE: 15, REPORT: 10}  # tenths

DOMAIN = "plant.test"


# --- what is denied -------------------------------------------------------------------------------

# Prints what came of each attempt: "ok" or the error's name.
PROBE = r"""
import ctypes, errno, json, mmap, os, socket
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
NUMBERS = {"x86_64": dict(io_uring_setup=425, keyctl=250, shmget=29, mq_open=240, mlock=149,
                          setuid=105, setgroups=116, userfaultfd=323, process_vm_readv=310,
                          pidfd_open=434, unshare=272, mount=165, ptrace=101, bpf=321,
                          perf_event_open=298, sethostname=170, init_module=175, syslog=103,
                          kexec_load=246, sched_setaffinity=203, chroot=161, mknod=133,
                          open_by_handle_at=304, splice=275, add_key=248, swapon=167, chown=92,
                          clock_settime=227)}[os.uname().machine]
told = {}

def attempt(name, what):
    try:
        what()
        told[name] = "ok"
    except OSError as e:
        told[name] = errno.errorcode[e.errno]

def call(*arguments):
    if libc.syscall(*[ctypes.c_long(a) for a in arguments]) < 0:
        raise OSError(ctypes.get_errno(), "")

def c(result):
    if result in (-1, ctypes.c_void_p(-1).value):
        raise OSError(ctypes.get_errno(), "")

def write(path):
    with open(path, "w") as f:
        f.write("x")

def run(path):
    if os.fork() == 0:
        try:
            os.execv(path, [path])
        except OSError as e:
            os._exit(e.errno)
    status = os.waitstatus_to_exitcode(os.wait()[1])
    if status:
        raise OSError(status, "")

def run_copy(path):
    with open("/bin/true", "rb") as source, open(path, "wb") as f:
        f.write(source.read())
    os.chmod(path, 0o700)
    try:
        run(path)
    finally:
        os.unlink(path)

def sent(address):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
        s.setsockopt(socket.IPPROTO_IP, 50, (1).to_bytes(4, "big"))  # IP_UNICAST_IF: lo
        s.sendto(b"x", (address, 5353))

libc.mmap.restype = ctypes.c_void_p
for name, number in NUMBERS.items():
    attempt(name, lambda: call(number, 0, 0, 0, 0, 0, 0))
for path in "/etc/x", "/usr/x", "/var/x", "/run/x", "/opt/x", "/boot/x":
    attempt("write " + path, lambda: write(path))
for path in STATE + "/x", "/tmp/x", "/var/tmp/x", "/dev/shm/x":
    attempt("write " + path, lambda: write(path))
    attempt("run " + path, lambda: run_copy(path + ".run"))
for path in "/bin/sh", "/bin/true", "/usr/sbin/mosquitto":
    attempt("run " + path, lambda: run(path))
for path in "/home/visible", "/root/visible", "/tmp/visible", "/proc/1/stat", "/proc/cpuinfo", \
        "/proc/sys/kernel/hostname", "/dev/kmsg", "/dev/loop-control", "/dev/mem":
    attempt("see " + path, lambda: os.stat(path))
for family in 1, 2, 10, 16, 17, 29, 31, 38, 40:
    attempt(f"family {family}", lambda: socket.socket(family, socket.SOCK_DGRAM).close())
attempt("map W+X", lambda: c(libc.mmap(None, ctypes.c_size_t(4096), 7, 0x22, -1, 0)))
attempt("suid", lambda: (write("/tmp/s"), os.chmod("/tmp/s", 0o4700)))
attempt("user namespace", lambda: c(libc.unshare(0x10000000)))
attempt("real time", lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)))
attempt("personality", lambda: c(libc.personality(8)))
attempt("kill others", lambda: os.kill(1, 0))
attempt("group", lambda: sent("224.0.0.251"))
attempt("broadcast", lambda: sent("255.255.255.255"))
attempt("loopback", lambda: sent("127.0.0.1"))
attempt("adjtimex", lambda: c(libc.adjtimex(ctypes.create_string_buffer(512))))
attempt("pipe", lambda: os.pipe())
attempt("memfd", lambda: os.memfd_create("x"))
status = dict(line.split(":\t", 1) for line in open("/proc/self/status") if ":\t" in line)
for name in "NoNewPrivs", "CapBnd", "CapEff", "Umask", "Seccomp":
    told[name] = status[name].strip()
told["others"] = sum(name.isdigit() and os.stat("/proc/" + name).st_uid != os.getuid()
                     for name in os.listdir("/proc"))
print(json.dumps(told))
"""

FILTERED = """io_uring_setup keyctl shmget mq_open mlock setuid setgroups userfaultfd process_vm_readv
pidfd_open unshare mount ptrace bpf perf_event_open sethostname init_module syslog kexec_load
sched_setaffinity chroot mknod open_by_handle_at splice add_key swapon chown clock_settime""".split()


@pytest.mark.parametrize("unit", UNITS)
def test_exposure(machine, unit):
    """By systemd's own judgement, of what is installed; check-hardening.sh has the same limits."""
    machine.run("systemd-analyze", "security", "--no-pager", f"--threshold={EXPOSURE[unit]}", unit)


@pytest.mark.skipif("__import__('platform').machine() != 'x86_64'")
@pytest.mark.parametrize("unit", UNITS)
def test_each_line_denies(machine, unit):
    """As installed, but for the right to run Python; see the table in SECURITY.md."""
    for path in "/home/visible", "/root/visible", "/tmp/visible":
        machine.write(path, "x")
    state = {SERVICE: "mqttgw", REPORT: "mqttgw-report"}[unit]
    told = json.loads(run_confined(
        machine, unit, f"STATE = '/var/lib/{state}'\n" + PROBE, [f"StateDirectory={state}"]))

    def of(prefix):
        return {name: what for name, what in told.items() if name.startswith(prefix)}

    assert {name: told[name] for name in FILTERED} == dict.fromkeys(FILTERED, "EPERM")
    writable = {f"write {d}/x" for d in (f"/var/lib/{state}", "/tmp", "/var/tmp", "/dev/shm")}
    assert {name for name, what in of("write ").items() if what == "ok"} == writable, told
    assert set(of("run ").values()) == {"EACCES"}, told
    assert "ok" not in of("see ").values(), told
    assert of("family ") == {f"family {n}": "ok" if n in (1, 2, 10, 16) else "EAFNOSUPPORT"
                             for n in (1, 2, 10, 16, 17, 29, 31, 38, 40)}
    for name in "map W+X", "suid", "user namespace", "real time", "personality", "kill others":
        assert told[name] == "EPERM", (name, told[name])
    assert told["loopback"] == "ok"
    if "BPF/cgroup firewalling" not in machine.run("journalctl", "-b", "_PID=1").stdout:
        assert (told["group"], told["broadcast"]) == ("EPERM", "EPERM")
    assert (told["pipe"], told["memfd"]) == ("ok", "ok")
    assert told["adjtimex"] == ("ok" if unit == SERVICE else "EPERM")
    assert (told["NoNewPrivs"], told["Seccomp"], told["Umask"]) == ("1", "2", "0077")
    assert int(told["CapBnd"], 16) == int(told["CapEff"], 16) == 0
    assert told["others"] == 0


def test_bounds(machine):
    """That of tasks is not felt here, where no controller of cgroups may be at hand."""
    assert machine.show(SERVICE, "MemoryMax", "TasksMax", "LimitNOFILE") == {
        "MemoryMax": str(256 << 20), "TasksMax": "16", "LimitNOFILE": "16384"}


# --- secrets --------------------------------------------------------------------------------------


def test_applications_read_no_secrets(service, config, config_path):
    """Who may publish reads neither the configuration nor what others published."""
    service.run("systemctl", "stop", "test-broker.service")
    with Client(service) as client:
        client.queue("secrets", "a")
    listed = service.run("find", "/var/lib/mqttgw", "-type", "f", "-printf", "%u %m %f\n").stdout
    files = [line.split() for line in listed.splitlines()]
    assert {"queue.db", "queue.db-wal", "queue.db-shm"} <= {name for _, _, name in files}
    assert all(entry[:2] == ["mqttgw", "600"] for entry in files), files
    for user in "member", "stranger":
        for command in (["cat", config_path], ["ls", "/var/lib/mqttgw"], ["ls", "/run/mqttgw"],
                        ["cat", "/var/lib/mqttgw/queue.db"],
                        ["ls", "/run/credentials/mqtt-gatewayd.service"],
                        ["/usr/bin/python3", "-c", "import socket; socket.socket(socket.AF_UNIX)"
                         ".connect('/run/mqttgw/control.sock')"]):
            done = service.run(*command, user=user, check=False)
            assert done.returncode != 0 and not done.stdout, (user, command)
            assert re.search("Permission denied|No such file", done.stderr), done.stderr
    pid = service.show(SERVICE, "MainPID")
    for what in "mem", "environ", "fd":
        done = service.run("ls" if what == "fd" else "cat", f"/proc/{pid}/{what}", user="member",
                           check=False)
        assert done.returncode != 0 and "Permission denied" in done.stderr
    service.run("systemctl", "start", "test-broker.service")


# --- all of its work, under a filter that kills ---------------------------------------------------


@pytest.fixture
def strict(machine, drop_in):
    """strict(unit): it runs by strict.py from its next start on; strict(unit, without="AF_NETLINK")
    with one family less."""
    machine.write(STRICT, Path(__file__).with_name("strict.py").read_text(), 0o644)

    def apply(unit, without=""):
        families = machine.show(unit, "RestrictAddressFamilies").split()
        text = machine.inside(machine.show(unit, "FragmentPath")).read_text()
        command = re.search(r"^ExecStart=(.*)$", text, re.M).group(1)
        families = ",".join(f for f in families if f != without)
        drop_in(unit, f"[Service]\nExecPaths={PYTHON}\nExecStart=\n"
                      f"ExecStart={PYTHON} {STRICT} {families} {command}\n")

    return apply


@pytest.fixture
def names(machine, tmp_path):
    """A name server, and a broker behind TLS and a password that the name server knows."""
    authority = Authority(tmp_path / "ca")
    pair = authority.issue("broker", san=f"DNS:broker.{DOMAIN}")
    for path, inside in ((authority.cert, "ca"), (pair.cert, "cert"), (pair.key, "key")):
        machine.write(f"/etc/test-tls/{inside}.pem", Path(path).read_text(), 0o644)
    machine.run("mosquitto_passwd", "-c", "-b", "/etc/test-tls/users", "gw", "mosquito net")
    machine.write("/etc/test-tls/broker.conf", f"""\
listener 8883
cafile /etc/test-tls/ca.pem
certfile /etc/test-tls/cert.pem
keyfile /etc/test-tls/key.pem
password_file /etc/test-tls/users
allow_anonymous false
user root
""")
    machine.write("/etc/test-tls/dns.conf", f"""\
no-resolv
no-hosts
listen-address=127.0.0.1
bind-interfaces
user=root
pid-file=
address=/broker.{DOMAIN}/127.0.0.1
srv-host=_secure-mqtt._tcp.{DOMAIN},broker.{DOMAIN},8883,1,1
""")
    for name, command, kind in (
            ("test-tls", "/usr/sbin/mosquitto -c /etc/test-tls/broker.conf", "notify"),
            ("test-dns", "/usr/sbin/dnsmasq -k -C /etc/test-tls/dns.conf", "exec")):
        machine.write(f"/run/systemd/system/{name}.service",
                      f"[Service]\nType={kind}\nExecStart={command}\n")
    machine.run("systemctl", "daemon-reload")
    resolv = machine.inside("/etc/resolv.conf")
    before = resolv.read_text()
    resolv.write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
    machine.run("systemctl", "start", "test-tls.service", "test-dns.service")
    yield machine
    machine.run("systemctl", "stop", "test-tls.service", "test-dns.service")
    resolv.write_text(before)


def subscriber(machine, topic, n):
    """A subscriber at the TLS broker that ends after `n` messages."""
    command = machine._command(
        ["mosquitto_sub", "-h", f"broker.{DOMAIN}", "-p", "8883", "--cafile", "/etc/test-tls/ca.pem",
         "-u", "gw", "-P", "mosquito net", "-t", topic, "-q", "1", "-C", str(n), "-W", "40"], None)
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


WORK = f"""\
discovery: {{ srv = "_secure-mqtt._tcp.{DOMAIN}"; refresh = 10.0; }};
brokers: ( {{ username = "gw"; password_file = "broker-password";
	tls: {{ ca_file = "/etc/test-tls/ca.pem"; }}; }} );
metrics: {{ listen = "127.0.0.1:9641"; }};
report: {{ push_url = "http://broker.{DOMAIN}:9091"; interval = 1; }};
log: {{ level = "debug"; }};
"""
SLOW = "retry: { base = 3600.0; max = 3600.0; timeout_attempts = 1; heartbeat_attempts = 1; };\n"
QUICK = "retry: { base = 0.1; max = 0.5; };\n"


def test_all_of_its_work(names, config, drop_in, strict, tmp_path):
    """TLS, a credential, DNS, HTTP, netlink, reload, a damaged queue, the report: nothing denied."""
    machine = names
    since = time.time()
    machine.write("/etc/test-password", "mosquito net\n", 0o600)
    strict(SERVICE)
    with open(machine.inside(f"/run/systemd/system/{SERVICE}.d/test.conf"), "a") as f:
        f.write("LoadCredential=broker-password:/etc/test-password\n")
    strict(REPORT)
    machine.run("systemctl", "stop", SERVICE, SOCKET, REPORT)
    machine.run("systemctl", "reset-failed", SERVICE, SOCKET, REPORT, check=False)
    # Not a database: it is set aside.
    machine.run("sh", "-c", "rm -rf /var/lib/mqttgw; install -d -m 700 -o mqttgw /var/lib/mqttgw;"
                            " yes | head -c 9000 >/var/lib/mqttgw/queue.db;"
                            " chown mqttgw /var/lib/mqttgw/queue.db")
    config(WORK + QUICK)
    with subscriber(machine, "work/#", 300) as sub:
        machine.run("systemctl", "start", SERVICE, REPORT)
        wait_connected(machine)
        with Client(machine) as client:
            client.queue("work/a", *(f"a{n}" for n in range(100)))
        ask = ("import urllib.request as u\n"
               "print(u.urlopen('http://127.0.0.1:9641/metrics', timeout=10).read().decode())\n")
        assert "mqttgw_uplink_state" in machine.run(PYTHON, "-c", ask).stdout
        machine.run("mqttgwctl", "status")
        wait_for(lambda: "failed" in machine.show(REPORT, "StatusText"), 15, "a push that fails")
        machine.run("systemctl", "reload", REPORT)

        # The end of a wait of an hour is the network's, heard of by netlink.
        config(WORK + SLOW)
        machine.run("systemctl", "reload", SERVICE)
        wait_connected(machine)
        machine.run("systemctl", "stop", "test-tls.service")
        wait_for(lambda: machine.show(SERVICE, "StatusText").startswith("offline"), 20, "offline")
        with Client(machine) as client:
            client.queue("work/b", *(f"b{n}" for n in range(100)))
        machine.run("systemctl", "start", "test-tls.service")
        machine.run("ip", "link", "add", "gw0", "type", "veth", "peer", "name", "gw1")
        machine.run("ip", "address", "add", "192.0.2.1/24", "dev", "gw0")
        machine.run("ip", "link", "set", "gw1", "up")
        machine.run("ip", "link", "set", "gw0", "up")
        wait_connected(machine)
        machine.run("ip", "link", "delete", "gw0")

        machine.run("systemctl", "restart", SERVICE)
        wait_connected(machine)
        with Client(machine) as client:
            client.queue("work/c", *(f"c{n}" for n in range(100)))
        wait_for(lambda: " 0 queued" in machine.show(SERVICE, "StatusText"), 20, "an empty queue")
        sub.kill()
    machine.run("mqttgwctl", "queue", "purge", "--yes", check=False)
    machine.run("systemctl", "stop", SERVICE, REPORT)
    for unit in UNITS:
        assert machine.show(unit, "Result", "NRestarts") == {"Result": "success", "NRestarts": "0"}
    events = {entry.get("MQTTGW_EVENT") for entry in journal(machine, since)}
    assert {"database-set-aside", "connected", "offline", "network"} <= events
    text = "\n".join(entry["MESSAGE"] for entry in journal(machine, since))
    assert "mosquito net" not in text
    assert denied(machine, since) == []


# --- and that it would be noticed -----------------------------------------------------------------


@pytest.mark.denies
@pytest.mark.parametrize("what", ["call", "family"])
def test_denied_call_is_noticed(machine, config, drop_in, strict, what):
    """Both are tried and done without in silence, where they are only refused."""
    since = time.time()
    if what == "call":
        drop_in(SERVICE, "[Service]\nSystemCallFilter=~adjtimex clock_adjtime\n")
    else:
        strict(SERVICE, without="AF_NETLINK")
    machine.run("systemctl", "restart", SERVICE, check=False)
    wait_for(lambda: denied(machine, since), 15, "the end of the daemon")
    machine.run("systemctl", "stop", SERVICE, SOCKET)
    machine.run("systemctl", "reset-failed", SERVICE, SOCKET, check=False)


def test_refused_call_is_survived(machine, config, drop_in):
    """As installed, where nothing kills: a gateway out of reach makes the best of it."""
    drop_in(SERVICE, "[Service]\nSystemCallErrorNumber=EPERM\n"
                     "SystemCallFilter=~adjtimex clock_adjtime\n")
    machine.run("systemctl", "stop", SERVICE)
    machine.run("systemctl", "start", SERVICE)
    wait_connected(machine)
    assert machine.show(SERVICE, "NRestarts") == "0"
