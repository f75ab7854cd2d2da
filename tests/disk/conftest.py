# SPDX-License-Identifier: MIT
"""Disk tests: full, failing and read-only disks, and real power cuts.

As root only: each test has a file system of its own, on a loop device or in
memory. Environment, besides what harness/fixtures.py of the integration tests
says:

MQTTGW_POWER_CUTS  power cuts a file system (default 5; 50 takes minutes)
MQTTGW_SEED        seed of everything random (default 1)
CC                 compiler for the preload library (default cc)
"""

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, Iterator, List

import pytest

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
sys.path.insert(0, str(HERE.parent / "integration"))

from disks import Disk, own_mounts, why_not  # noqa: E402
from harness import Daemon  # noqa: E402
from harness.fixtures import *  # noqa: E402,F401,F403
from rules import Rules  # noqa: E402

#: Trouble that is over must have passed by itself after so many seconds.
RECOVERY = 60


def pytest_report_header(config: Any) -> str:
    reason = why_not("tmpfs")
    if reason:
        return f"disk tests: NOT RUN: {reason}"
    missing = [
        f"{kind}: {why_not(kind)}" for kind in ("ext4", "xfs")
        if why_not(kind)
    ]
    return f"disk tests: {'; '.join(missing) or 'ext4, xfs, tmpfs'}"


@pytest.fixture(scope="session", autouse=True)
def private_mounts() -> None:
    if why_not("tmpfs"):
        pytest.skip("NOT RUN: " + why_not("tmpfs"))
    own_mounts()


@pytest.fixture
def make_disk(private_mounts: None) -> Iterator[Callable[..., Disk]]:
    """make_disk("ext4", 16 << 20): mounted, and gone after the test."""
    made: List[Disk] = []

    def make(kind: str, size: int = 16 << 20, **options: Any) -> Disk:
        reason = why_not(kind)
        if reason:
            pytest.skip("NOT RUN: " + reason)
        disk = Disk(kind, size, **options)
        made.append(disk)
        return disk

    yield make
    for disk in made:
        disk.close()


@pytest.fixture
def make_gateway(
    make_disk: Any, make_daemon: Callable[..., Daemon]
) -> Callable[..., Daemon]:
    """Daemons (not started) whose queue is on a disk; ended before it is."""

    def make(
        disk: Disk, broker_port: int, sync: str = "full", **groups: Any
    ) -> Daemon:
        path = disk.point / "queue.db"
        queue = {"path": str(path), "sync": sync, **groups.pop("queue", {})}
        retry = {"base": 0.02, "max": 0.2, "stable": 0.5}
        daemon = make_daemon(broker_port, queue=queue, retry=retry, **groups)
        daemon.state = disk.point
        daemon.queue_path = path
        return daemon

    return make


@pytest.fixture(scope="session")
def fault_library(tmp_path_factory: Any) -> Path:
    """The preload library, freshly compiled."""
    library = tmp_path_factory.mktemp("faultshim") / "faultshim.so"
    subprocess.run(
        [
            *shlex.split(os.environ.get("CC", "cc")),
            "-std=gnu17", "-O2", "-Wall", "-Wextra", "-Werror",
            "-fPIC", "-shared", "-pthread",
            "-o", str(library), str(HERE / "faultshim.c"),
        ],
        check=True,
    )
    return library


@pytest.fixture
def make_rules(fault_library: Path, tmp_path: Path) -> Callable[..., Rules]:
    """make_rules(daemon): its calls can be made to fail from now on."""

    def make(daemon: Daemon) -> Rules:
        rules = Rules(tmp_path, daemon.state)
        options = os.environ.get("ASAN_OPTIONS", "")
        daemon.extra_env.update(
            rules.environment(),
            LD_PRELOAD=str(fault_library),
            # The library stands in front of the sanitizer's.
            ASAN_OPTIONS=f"{options}:verify_asan_link_order=0",
        )
        return rules

    return make
