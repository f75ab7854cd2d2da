# SPDX-License-Identifier: MIT
"""Integration tests: the real daemon, real and scripted brokers.

Environment, besides what harness/fixtures.py says:

MQTTGW_MESSAGES  size of the large backlog (default 20000)
MQTTGW_CUTS      broker cuts a QoS level (default 50)
MQTTGW_KILLS     kill -9 rounds (default 10)
MQTTGW_SEED      seed of everything random (default 1)
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from harness.fixtures import *  # noqa: E402,F401,F403
