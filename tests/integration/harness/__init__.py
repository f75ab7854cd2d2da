# SPDX-License-Identifier: MIT
"""Parts that the integration and crash tests are built from.

Everything runs on the loopback interface and on temporary directories;
every wait is for a condition and is bounded.
"""

from .broker import Mosquitto
from .client import Client, Feeder, Flood, Producer
from .clock import Clock
from .daemon import Daemon, DaemonFailure, config_text
from .database import Database
from .fakebroker import FakeBroker, Ended
from .faults import Link
from .proxy import Proxy
from .subscriber import Record, Subscriber
from .waiting import TIME_FACTOR, Deadline, env_int, wait_until

__all__ = [
    "Client",
    "Clock",
    "Daemon",
    "DaemonFailure",
    "Database",
    "Deadline",
    "Ended",
    "FakeBroker",
    "Feeder",
    "Flood",
    "Link",
    "Mosquitto",
    "Producer",
    "Proxy",
    "Record",
    "Subscriber",
    "TIME_FACTOR",
    "config_text",
    "env_int",
    "wait_until",
]
