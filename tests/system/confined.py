# SPDX-License-Identifier: MIT
"""Looking at a unit's confinement from within: another program in it, and what was denied."""

import json

PROBE = "probe.service"
PYTHON = "/usr/bin/python3"

# Of the unit only the confinement counts.
LEFT_OUT = ("#", "Exec", "Type=", "NotifyAccess=", "Restart", "Watchdog", "Requires=", "After=",
            "WantedBy=", "Also=", "[Install]", "StandardOutput=", "StateDirectory",
            "RuntimeDirectory", "StartLimit")

# systemd's message, SD_MESSAGE_UNIT_PROCESS_EXIT_STR
PROCESS_ENDED = "98e322203f7a4ed290d09fe03c09fe15"

#: What systemd says of a process that its system call filter killed.
KILLED = "status=31/SYS"


def run_confined(machine, unit, script, lines=()):
    """Runs a Python script as the unit's user in the unit's confinement, which is widened by the
    right to run Python; returns what it prints."""
    text = machine.inside(machine.show(unit, "FragmentPath")).read_text()
    service = text.split("[Service]\n", 1)[1].split("\n[", 1)[0]
    kept = [line for line in service.splitlines()
            if line.startswith("ExecPaths=") or not line.startswith(LEFT_OUT)]
    machine.write("/opt/probe.py", script, 0o644)
    machine.write(f"/run/systemd/system/{PROBE}", "\n".join([
        "[Service]", *kept, "Type=oneshot", f"ExecStart={PYTHON} /opt/probe.py",
        f"ExecPaths={PYTHON}", "StandardOutput=file:/run/probe", "StandardError=journal",
        *lines]) + "\n")
    machine.run("rm", "-f", "/run/probe")
    machine.run("systemctl", "daemon-reload")
    try:
        done = machine.run("systemctl", "start", PROBE, check=False)
        assert done.returncode == 0, machine.run("journalctl", "-u", PROBE, "--no-pager").stdout
    finally:
        machine.inside(f"/run/systemd/system/{PROBE}").unlink()
        machine.run("systemctl", "daemon-reload")
    return machine.inside("/run/probe").read_text()


def denied(machine, since):
    """systemd's lines about processes that were killed for a system call, since then."""
    machine.run("journalctl", "--sync")
    out = machine.run("journalctl", "-o", "json", "--no-pager", f"--since=@{since:.6f}",
                      f"MESSAGE_ID={PROCESS_ENDED}").stdout
    entries = [json.loads(line) for line in out.splitlines()]
    return [entry["MESSAGE"] for entry in entries if KILLED in entry["MESSAGE"]]
