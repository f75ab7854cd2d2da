# SPDX-License-Identifier: MIT
"""Crash tests: every image that a power cut could leave is looked at.

Environment, besides what harness/fixtures.py of the integration tests says:

MQTTGW_CRASH_IMAGES    how many images are checked (default 5000; "all":
                       after every recorded call)
MQTTGW_CRASH_MESSAGES  messages in a phase of the recorded run (default 150)
MQTTGW_SEED            seed of everything random (default 1)
CC                     compiler for the recorder (default cc)
"""

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
sys.path.insert(0, str(HERE.parent / "integration"))

from harness.fixtures import *  # noqa: E402,F401,F403


@pytest.fixture(scope="session")
def recorder(tmp_path_factory: Any) -> Path:
    """The preload library, freshly compiled."""
    library = tmp_path_factory.mktemp("recorder") / "record.so"
    subprocess.run(
        [
            *shlex.split(os.environ.get("CC", "cc")),
            "-std=gnu17", "-O2", "-Wall", "-Wextra", "-Werror",
            "-fPIC", "-shared", "-pthread",
            "-o", str(library), str(HERE / "record.c"),
        ],
        check=True,
    )
    return library
