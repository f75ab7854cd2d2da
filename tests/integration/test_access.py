# SPDX-License-Identifier: MIT
"""Who may publish what: rules for users and groups, by the kernel's word."""

import json
import os
import re
import signal
import subprocess
import sys

import pytest
from harness import TIME_FACTOR, Client, Database, wait_until
from harness.control import ask
from harness.ctltools import run
from harness.ports import free_port

#: Connects, sends standard input, writes all replies until the other end
#: closes. By itself: whoever it runs as may see nothing of these tests.
SPEAK = """
import socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
s.connect(sys.argv[1])
s.sendall(sys.stdin.buffer.read())
s.shutdown(socket.SHUT_WR)
while True:
    data = s.recv(65536)
    if not data:
        break
    sys.stdout.buffer.write(data)
"""

#: Numbers of nobody on this machine.
APP, OTHER, GROUP, EXTRA = 61234, 61235, 61236, 61237

root_only = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root can be somebody else"
)


def rule(topics, **who):
    return {**who, "topics": topics}


def start(make_daemon, rules, **groups):
    """A daemon without a broker; everybody can reach its socket."""
    daemon = make_daemon(free_port(), **groups)
    daemon.settings["socket"]["mode"] = "0666"
    if rules is not None:
        daemon.settings["access"] = rules
    daemon.directory.chmod(0o755)
    daemon.write_config()
    return daemon.start()


def publish_as(daemon, topics, user, group=OTHER, extra=()):
    """What is answered, a word for each topic."""
    lines = "".join(
        json.dumps({"topic": topic, "id": number}) + "\n"
        for number, topic in enumerate(topics)
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", SPEAK, str(daemon.socket_path)],
        input=lines.encode(),
        stdout=subprocess.PIPE,
        user=user,
        group=group,
        extra_groups=list(extra),
        timeout=30 * TIME_FACTOR,
        cwd="/",
        check=True,
    )
    replies = [json.loads(line) for line in done.stdout.splitlines()]
    assert [reply["id"] for reply in replies] == list(range(len(topics)))
    return [reply.get("error", reply["status"]) for reply in replies]


def reload(daemon, answer):
    seen = len(re.findall(answer, daemon.output()))
    daemon.process.signal(signal.SIGHUP)
    wait_until(
        lambda: len(re.findall(answer, daemon.output())) > seen,
        10,
        f"log line matching {answer!r}",
    )


@root_only
def test_users_and_groups(make_daemon):
    """By user, by group, by supplementary group; what is not given is not
    to be had."""
    daemon = start(
        make_daemon,
        [
            rule(["sensors/#", "log/+"], user=str(APP)),
            rule(["ops/#"], group=str(GROUP)),
            rule(["#", "$own/#"], group=str(EXTRA)),
        ],
    )
    topics = ["sensors/a/b", "sensors", "log/x", "log/x/y", "ops/x", "$own/x",
              "$SYS/x"]
    no, yes = "not-allowed", "queued"
    assert publish_as(daemon, topics, APP) == [yes, yes, yes, no, no, no, no]
    assert publish_as(daemon, topics, OTHER) == [no] * 7
    assert publish_as(daemon, topics, OTHER, GROUP) == [
        no, no, no, no, yes, no, no
    ]
    assert publish_as(daemon, topics, APP, GROUP) == [
        yes, yes, yes, no, yes, no, no
    ]
    many = list(range(70000, 70100))
    assert publish_as(daemon, topics, OTHER, OTHER, [*many, GROUP]) == [
        no, no, no, no, yes, no, no
    ]
    assert publish_as(daemon, topics, OTHER, OTHER, [EXTRA, *many]) == [
        yes, yes, yes, yes, yes, yes, no
    ]
    assert publish_as(daemon, topics, 0, 0) == [no] * 7, "nor is root"
    stored = Database(daemon.queue_path).count()
    assert stored == 3 + 0 + 1 + 4 + 1 + 6
    text = ask(daemon, "metrics")["text"]
    assert 'mqttgw_messages_refused_total{error="not-allowed"} 34' in text


@root_only
def test_without_rules_everybody_may_publish(make_daemon):
    daemon = start(make_daemon, None)
    assert publish_as(daemon, ["a", "$x"], APP) == ["queued", "queued"]


@root_only
def test_names(make_daemon):
    """Names of the user database, and how a prefix does not matter."""
    daemon = start(
        make_daemon,
        [rule(["a"], user="nobody"), rule(["b"], group="daemon")],
        mqtt={"topic_prefix": "plant/"},
    )
    import grp
    import pwd

    nobody, group = pwd.getpwnam("nobody").pw_uid, grp.getgrnam("daemon").gr_gid
    assert publish_as(daemon, ["a", "b"], nobody) == ["queued", "not-allowed"]
    assert publish_as(daemon, ["a", "b"], OTHER, group) == [
        "not-allowed", "queued"
    ]


def test_reload_changes_rules_for_those_who_are_connected(make_daemon):
    """Both ways, without a new connection; a fault changes nothing."""
    me = str(os.geteuid())
    daemon = start(make_daemon, [rule(["a/#"], user=me)])

    def answers(client):
        return [
            client.ask({"topic": topic, "id": 1}).get("error", "queued")
            for topic in ("a/x", "b/x")
        ]

    with Client(daemon.socket_path) as client:
        assert answers(client) == ["queued", "not-allowed"]
        daemon.settings["access"] = [rule(["b/#"], user=me)]
        daemon.write_config()
        reload(daemon, r"reloaded: access\[0\]\.topics\n")
        assert answers(client) == ["not-allowed", "queued"]
        daemon.settings["access"] = [rule(["#"], user="no-such-user")]
        daemon.write_config()
        reload(daemon, r"there is no user \"no-such-user\"")
        assert answers(client) == ["not-allowed", "queued"]
        daemon.settings["access"] = [
            rule(["#"], user=str(APP)), rule(["a/x"], group=str(os.getegid()))
        ]
        daemon.write_config()
        reload(daemon, r"reloaded: access\n")
        assert answers(client) == ["queued", "not-allowed"]
        del daemon.settings["access"]
        daemon.write_config()
        reload(daemon, r"reloaded: access\n")
        assert answers(client) == ["queued", "queued"]


def test_told_once(make_daemon):
    """One line, with who, what and which rules; not one for each message."""
    daemon = start(make_daemon, [rule(["sensors/#"], user=str(os.geteuid()))])
    with Client(daemon.socket_path) as client:
        for number in range(50):
            reply = client.ask({"topic": f"other/{number}", "id": number})
            assert reply["error"] == "not-allowed"
            assert "rule" in reply["message"]
    told = re.findall(r".*may not publish to.*", daemon.output())
    assert len(told) == 1
    me = os.geteuid()
    assert f"uid {me} " in told[0] and f"pid {os.getpid()})" in told[0]
    assert '"other/0"' in told[0] and f"user {me}: sensors/#" in told[0]


def test_mqttgwctl_pub_is_a_client_like_others(make_daemon, binary):
    daemon = start(make_daemon, [rule(["a"], user=str(os.geteuid()))])
    arguments = (binary, "-c", daemon.config_path, "pub", "-m", "x", "-t")
    assert run(*arguments, "a").returncode == 0
    refused = run(*arguments, "b")
    assert refused.returncode == 1
    assert "not-allowed" in refused.stderr or "access" in refused.stderr


def test_print_and_check(make_daemon):
    """What is printed reads back; faults have their lines."""
    daemon = make_daemon(free_port())
    daemon.settings["access"] = [
        rule(["a/#", 'q"\\'], user="root"), rule(["+"], group="7")
    ]
    daemon.write_config()
    conf = str(daemon.config_path)
    printed = daemon.run("-c", conf, "--print-config").stdout
    assert (
        'access: (\n\t{\n\t\tuser = "root";\n\t\ttopics = ( "a/#", "q\\"\\\\" );\n'
        '\t},\n\t{\n\t\tgroup = "7";\n\t\ttopics = ( "+" );\n\t}\n);\n'
    ) in printed
    again = daemon.directory / "again.conf"
    again.write_text(printed)
    assert daemon.run("-c", str(again), "--print-config").stdout == printed
    again.write_text(
        "access: (\n"
        '  { user = "no-such-user"; topics = ( "#" ); },\n'
        '  { group = "no-such-group"; topics = ( "#" ); },\n'
        '  { user = "root"; topics = ( "a/#/b" ); }\n'
        ");\n"
    )
    done = daemon.run("-c", str(again), "--check-config")
    assert done.returncode == 78
    faults = (done.stdout + done.stderr).splitlines()
    for line, word in (2, "no-such-user"), (3, "no-such-group"), (4, "wildcard"):
        assert any(
            fault.startswith(f"{again}:{line}: ") and word in fault
            for fault in faults
        ), faults
