# SPDX-License-Identifier: MIT
"""The soak: one long run in which everything goes wrong, and its judge.

Environment, besides what harness/fixtures.py of the integration tests says:

MQTTGW_SOAK_SECONDS  length of the run (default 25; the long run has 1800)
MQTTGW_SOAK_EVENTS   only these kinds of events, separated by commas
                     (schedule.py names them; default all)
MQTTGW_SEED          seed of the schedule and of the messages (default 1)
CC                   compiler for the shim (default cc)
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
def shim_library(tmp_path_factory: Any) -> Path:
    """The preload library, freshly compiled."""
    library = tmp_path_factory.mktemp("soak") / "soakshim.so"
    subprocess.run(
        [
            *shlex.split(os.environ.get("CC", "cc")),
            "-std=gnu17", "-O2", "-Wall", "-Wextra", "-Werror",
            "-fPIC", "-shared",
            "-o", str(library), str(HERE / "soakshim.c"),
        ],
        check=True,
    )
    return library
