# SPDX-License-Identifier: MIT
"""Fixtures and hooks that the conftests of the test folders import.

Environment:

MQTTGW_DAEMON       the mqtt-gatewayd to test; without it nothing runs
MQTTGW_TIME_FACTOR  multiplies all bounds, for slow builds (default 1)
MQTTGW_KEEP         keep the temporary directories

Sizes in test_links.py and test_network.py:

MQTTGW_LINK_RATE      messages a second over a link that goes bad (default 200)
MQTTGW_LINK_SLOW      messages over the slow link (default 1000)
MQTTGW_LINK_BULK_KIB  the large message over 64 kbit/s (default 128; at 1024
                      it takes over two minutes)
MQTTGW_LINK_OUTAGE    seconds that a cable stays pulled (default 4)
"""

import os
import shutil
from pathlib import Path
from typing import Any, Callable, Iterator, List

import pytest

from .broker import Mosquitto
from .client import Client
from .clock import Clock, build
from .daemon import Daemon
from .database import Database
from .fakebroker import FakeBroker
from .faults import Link
from .ports import free_port
from .proxy import Proxy
from .subscriber import Subscriber
from .tls import Certificates
from .waiting import TIME_FACTOR

#: Seconds a single test may take, if it says nothing else.
TEST_TIMEOUT = 60

#: Name of a test's lines for the end of the run among its user properties.
MEASURED = "measured"

_summary: List[str] = []


def daemon_path() -> str:
    """The daemon under test, or ""."""
    path = os.environ.get("MQTTGW_DAEMON", "")
    return path if os.access(path, os.X_OK) else ""


def pytest_configure(config: Any) -> None:
    config.addinivalue_line(
        "markers", "timeout(seconds): bound of a test (pytest-timeout)"
    )
    config.addinivalue_line(
        "markers", "long: takes over ten seconds; sizes come from MQTTGW_*"
    )


def spread(items: List[Any]) -> None:
    """Long tests evenly among the others, none at the end.

    pytest-xdist hands out neighbours to one process: with their long ones
    together it would be busy with them when all others are done.
    """
    long = [each for each in items if each.get_closest_marker("long")]
    rest = [each for each in items if not each.get_closest_marker("long")]
    if not long:
        return
    every = max(1, len(rest) * 4 // 5 // len(long))
    items[:] = []
    while long or rest:
        items += long[:1] + rest[:every]
        del long[:1], rest[:every]


def pytest_collection_modifyitems(items: List[Any]) -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:
        spread(items)
    for item in items:
        if getattr(item, "mqttgw_timed", False):
            continue
        item.mqttgw_timed = True
        marker = item.get_closest_marker("timeout")
        seconds = marker.args[0] if marker else TEST_TIMEOUT
        # The marker added last, in front, is the closest one.
        item.add_marker(
            pytest.mark.timeout(seconds * TIME_FACTOR), append=False
        )


def pytest_runtest_logreport(report: Any) -> None:
    """Collect what was measured; with pytest-xdist, from all processes."""
    # Two conftests of one run may share these hooks.
    if report.when == "teardown" and not hasattr(report, "mqttgw_seen"):
        report.mqttgw_seen = True
        _summary.extend(
            value for name, value in report.user_properties if name == MEASURED
        )


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if not daemon_path():
        _summary.append(
            "THE DAEMON WAS NOT TESTED: MQTTGW_DAEMON is "
            f"{os.environ.get('MQTTGW_DAEMON', '')!r}, no program"
        )
    if _summary:
        terminalreporter.section("measured")
        for line in _summary:
            terminalreporter.write_line(line)
        # Two conftests of one run may share these hooks.
        _summary.clear()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: Any) -> Iterator[None]:
    """Let fixtures see whether the test has failed; show daemon logs."""
    outcome = yield
    report = outcome.get_result()
    if report.failed:
        for daemon in getattr(item, "mqttgw_daemons", []):
            report.sections.append(
                (f"log of {daemon.directory}", daemon.process.tail(80))
            )


@pytest.fixture
def measured(request: Any) -> Callable[[str], None]:
    """Call it with a line for the end of the whole run."""

    def note(line: str) -> None:
        request.node.user_properties.append((MEASURED, line))

    return note


@pytest.fixture(scope="session")
def binary() -> str:
    """Path of the daemon under test."""
    if not daemon_path():
        pytest.skip("MQTTGW_DAEMON names no daemon to test")
    return str(Path(daemon_path()).resolve())


@pytest.fixture
def make_daemon(
    binary: str, request: Any
) -> Iterator[Callable[..., Daemon]]:
    """Makes daemons (not started yet) and judges them at the end."""
    made: List[Daemon] = []
    request.node.mqttgw_daemons = made

    def make(broker_port: int, **options: Any) -> Daemon:
        daemon = Daemon(binary, broker_port, **options)
        made.append(daemon)
        return daemon

    yield make
    try:
        for daemon in made:
            # First whether it lives, then what its end brings to light.
            daemon.verdict()
        for daemon in made:
            daemon.verify_stop()
            daemon.verdict()
    finally:
        for daemon in made:
            daemon.close()


@pytest.fixture
def make_mosquitto() -> Iterator[Callable[..., Mosquitto]]:
    """Makes brokers (not started yet)."""
    made: List[Mosquitto] = []

    def make(**options: Any) -> Mosquitto:
        broker = Mosquitto(**options)
        made.append(broker)
        return broker

    yield make
    for broker in made:
        broker.close()


@pytest.fixture
def mosquitto(make_mosquitto: Callable[..., Mosquitto]) -> Mosquitto:
    """A mosquitto that runs."""
    return make_mosquitto().start()


@pytest.fixture
def make_fake() -> Iterator[Callable[..., FakeBroker]]:
    """Makes scripted brokers; their scripts' errors fail the test."""
    made: List[FakeBroker] = []

    def make(*scripts: Any) -> FakeBroker:
        broker = FakeBroker(*scripts)
        made.append(broker)
        return broker

    yield make
    for broker in made:
        broker.close()


@pytest.fixture
def make_subscriber() -> Iterator[Callable[..., Subscriber]]:
    made: List[Subscriber] = []

    def make(port: int, **options: Any) -> Subscriber:
        subscriber = Subscriber(port, **options)
        made.append(subscriber)
        return subscriber

    yield make
    for subscriber in made:
        subscriber.close()


@pytest.fixture
def make_proxy() -> Iterator[Callable[[int], Proxy]]:
    made: List[Proxy] = []

    def make(target_port: int) -> Proxy:
        proxy = Proxy(target_port)
        made.append(proxy)
        return proxy

    yield make
    for proxy in made:
        proxy.close()


@pytest.fixture
def make_link() -> Iterator[Callable[..., Link]]:
    made: List[Link] = []

    def make(target_port: int, **options: Any) -> Link:
        link = Link(target_port, **options)
        made.append(link)
        return link

    yield make
    for link in made:
        link.close()


@pytest.fixture(scope="module")
def certs() -> Iterator[Certificates]:
    """An authority of the tests' own, and what it has signed."""
    made = Certificates()
    yield made
    made.close()


@pytest.fixture(scope="session")
def clock_library(tmp_path_factory: Any) -> Path:
    return build(tmp_path_factory.mktemp("clock"))


@pytest.fixture
def clock(clock_library: Path, tmp_path: Path) -> Clock:
    """The time of day of the daemons it is given to."""
    return Clock(clock_library, tmp_path / "clock")


@pytest.fixture
def offline(make_daemon: Callable[..., Daemon]) -> Daemon:
    """A daemon that runs without any broker to reach."""
    return make_daemon(free_port()).start()


@pytest.fixture
def client(offline: Daemon) -> Iterator[Client]:
    """A client of the daemon without a broker."""
    with Client(offline.socket_path) as connected:
        yield connected


@pytest.fixture
def database(offline: Daemon) -> Database:
    return Database(offline.queue_path)


@pytest.fixture(scope="session", autouse=True)
def tools_exist() -> None:
    for tool in ("mosquitto", "mosquitto_passwd"):
        path = shutil.which(tool, path=os.defpath + ":/usr/sbin")
        assert path, f"{tool} is not installed"


__all__ = [
    "binary",
    "certs",
    "client",
    "clock",
    "clock_library",
    "database",
    "make_daemon",
    "make_fake",
    "make_link",
    "make_mosquitto",
    "make_proxy",
    "make_subscriber",
    "measured",
    "mosquitto",
    "offline",
    "pytest_collection_modifyitems",
    "pytest_configure",
    "pytest_runtest_logreport",
    "pytest_runtest_makereport",
    "pytest_terminal_summary",
    "tools_exist",
]
