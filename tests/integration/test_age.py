# SPDX-License-Identifier: MIT
"""The age of messages: how long brokers may keep them, which of them are
dropped, and clocks that start in 1970, jump, or are never set."""

import threading
import time

import paho.mqtt.client as paho
import pytest
from harness import Client, Database, wait_until
from harness import mqttwire as wire
from harness.ports import LOOPBACK, free_port
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

YEAR = 365 * 86400.0
#: The daemon looks at the clock and at what is too old every few seconds.
PATIENCE = 40.0
BOOTS = ["0" * 31 + "1", "0" * 31 + "2"]


def make(make_daemon, clock, port, max_age, version="5", **mqtt):
    daemon = make_daemon(
        port,
        queue={"max_age": max_age},
        mqtt={"version": version, "client_id": "gw", **mqtt},
    )
    daemon.extra_env["MQTTGW_BOOT_ID"] = BOOTS[0]
    clock.give(daemon)
    return daemon


def feed(daemon, *messages):
    """Hand messages in, return their ids."""
    with Client(daemon.socket_path) as client:
        return [
            client.ask({"topic": "t", "id": 1, **message})["seq"]
            for message in messages
        ]


def expiry(message):
    return message.properties.get("message_expiry")


def user(message, name):
    return dict(message.properties["user_property"])[name]


def trust(make_daemon, clock, make_fake, **options):
    """A daemon that has shown that it trusts its clock."""
    broker = make_fake()
    daemon = make(make_daemon, clock, broker.port, **options).start()

    def shown():
        feed(daemon, {"payload": "probe"})
        return expiry(broker.wait_delivered(1)[-1]) is not None

    wait_until(shown, PATIENCE, "messages carry an expiry", interval=0.2)
    return broker, daemon


def wait_payload(broker, payload):
    """The message with this payload, delivered."""
    return wait_until(
        lambda: next(
            (m for m in list(broker.delivered) if m.payload == payload), None
        ),
        PATIENCE,
        f"{payload!r} is delivered",
    )


# --- what the broker is told --------------------------------------------------


def test_expiry_is_what_is_left(make_daemon, make_fake, clock):
    """max_age less the age, rounded up; at least 1, at most 32 bits."""
    broker, daemon = trust(
        make_daemon, clock, make_fake, max_age=100000.0,
        will={"topic": "up", "payload": "gone"},
        birth={"topic": "up", "payload": "here"},
    )
    before = clock.now()
    feed(
        daemon,
        {"payload": "new"},
        {"payload": "old", "timestamp": int((before - 30000.5) * 1000)},
        {"payload": "ahead", "timestamp": int((before + 5000.5) * 1000)},
        {"payload": "far", "timestamp": 2**63 - 1},
    )
    left = {
        name: expiry(wait_payload(broker, name.encode()))
        for name in ("new", "old", "ahead", "far")
    }
    passed = clock.now() - before
    for name, exact in (("new", 100000), ("old", 69999.5), ("ahead", 105000.5)):
        assert exact - passed <= left[name] < exact + 1, (name, passed)
    assert left["far"] == 0xFFFFFFFF
    # Presence is never too old.
    lasting = broker.lasting()[0]
    assert "message_expiry" not in broker.connects[-1].will_properties
    here = [
        packet for packet in lasting.received
        if packet.kind == wire.PUBLISH and packet.topic == "up"
    ]
    assert here and all("message_expiry" not in p.properties for p in here)


@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_no_expiry_without_trust(make_daemon, make_fake, clock, version):
    """Nothing is said of age by a clock that is not known to be right."""
    clock.synchronised(False)
    broker = make_fake()
    daemon = make(
        make_daemon, clock, broker.port, 100000.0, version
    ).start()
    feed(daemon, {"payload": "a"}, {"payload": "b", "timestamp": 5})
    broker.wait_delivered(2)
    assert [expiry(m) for m in broker.delivered] == [None, None]


def test_no_expiry_without_bound(make_daemon, make_fake, clock):
    broker = make_fake()
    daemon = make(make_daemon, clock, broker.port, "none").start()
    feed(daemon, {"payload": "a"}, {"payload": "b", "timestamp": 5})
    broker.wait_delivered(2)
    assert [expiry(m) for m in broker.delivered] == [None, None]


def test_file_of_timesyncd_will_do(make_daemon, make_fake, clock):
    """Where the kernel may not be asked, as in a sandbox."""
    clock.refused()
    clock.file(True)
    broker, daemon = trust(make_daemon, clock, make_fake, max_age=1000.0)
    # Only for the first trust: then the clock is counted on.
    clock.set(86400.0)
    before = len(broker.delivered)
    feed(daemon, {"payload": "later"})
    broker.wait_delivered(before + 1)
    assert expiry(wait_payload(broker, b"later")) == 1000


def test_clock_set_by_hand(make_daemon, make_fake, clock):
    """The kernel says no then; neither ages nor timestamps follow."""
    broker, daemon = trust(make_daemon, clock, make_fake, max_age=1000.0)
    for seconds in (time.time() + YEAR, 0.0):
        clock.synchronised(False)
        clock.set(seconds)
        name = f"at {seconds}"
        earliest = time.time()
        feed(daemon, {"payload": name})
        message = wait_payload(broker, name.encode())
        assert expiry(message) == 1000
        assert -1 < int(user(message, "gw-time")) / 1000 - earliest < PATIENCE


def test_subscriber_sees_what_is_left(make_daemon, mosquitto, clock):
    """A real broker counts on, and tells its subscribers."""
    daemon = make(make_daemon, clock, mosquitto.port, 1000.0)
    got = []
    subscribed = threading.Event()
    client = paho.Client("late", protocol=paho.MQTTv5)
    client.on_message = lambda c, u, message: got.append(message)
    client.on_subscribe = lambda *_: subscribed.set()
    properties = Properties(PacketTypes.CONNECT)
    properties.SessionExpiryInterval = 3600
    client.connect(
        LOOPBACK, mosquitto.port, clean_start=True, properties=properties
    )
    client.loop_start()
    try:
        client.subscribe("t", qos=1)
        assert subscribed.wait(PATIENCE)
        daemon.start()

        def seen():
            stamp = int((clock.now() - 400) * 1000)
            feed(daemon, {"payload": "x", "timestamp": stamp})
            return [
                m.properties.MessageExpiryInterval for m in list(got)
                if hasattr(m.properties, "MessageExpiryInterval")
            ]

        left = wait_until(seen, PATIENCE, "an expiry arrives", interval=0.2)
        assert 600 - PATIENCE < left[0] <= 600
    finally:
        client.disconnect()
        client.loop_stop()


# --- what is dropped -----------------------------------------------------------


def old(clock, seconds):
    return int((clock.now() - seconds) * 1000)


def test_expires(make_daemon, clock):
    """What is too old goes, in any order, and counts stay exact."""
    daemon = make(make_daemon, clock, free_port(), 5.0).start()
    database = Database(daemon.queue_path)
    ids = feed(
        daemon,
        {"payload": "future", "timestamp": old(clock, -YEAR)},
        {"payload": "hour", "timestamp": old(clock, 3600)},
        {"payload": "new"},
        {"payload": "later", "timestamp": old(clock, -1000)},
        {"payload": "day", "timestamp": old(clock, 86400)},
    )
    database.wait_count(2, PATIENCE)
    assert [row[0] for row in database.query("SELECT id FROM queue")] == [
        ids[0], ids[3]
    ]
    assert database.value(
        "SELECT value FROM meta WHERE key = 'queue_messages'"
    ) == 2


def test_never_without_trust(make_daemon, clock):
    """A clock that nobody set drops nothing, whatever it shows."""
    clock.synchronised(False)
    clock.set(time.time() + 10 * YEAR)
    daemon = make(make_daemon, clock, free_port(), 0.5).start()
    database = Database(daemon.queue_path)
    feed(daemon, {"payload": "a"}, {"payload": "b", "timestamp": 5})
    # Long enough for several looks: all of them let it be.
    end = time.monotonic() + 8
    while time.monotonic() < end:
        assert database.count() == 2
        time.sleep(0.2)
    clock.set(time.time())
    clock.synchronised(True)
    database.wait_empty(PATIENCE)


def test_starts_in_1970(make_daemon, make_fake, clock):
    """Rows of this boot get their right time, and only what is really too
    old is dropped."""
    clock.synchronised(False)
    clock.set(60.0)
    broker = make_fake()
    port = broker.port
    broker.down()
    daemon = make(make_daemon, clock, port, 600.0).start()
    database = Database(daemon.queue_path)
    earliest = time.time()
    ids = feed(
        daemon,
        {"payload": "a"},
        {"payload": "ancient", "timestamp": 1000},
        {"payload": "own", "timestamp": int(time.time() * 1000)},
        {"payload": "b"},
    )
    latest = time.time()
    assert database.value(
        "SELECT timestamp FROM queue WHERE id = ?", ids[0]
    ) < YEAR * 1000
    clock.set(time.time())
    clock.synchronised(True)
    database.wait_count(3, PATIENCE)
    wait_until(
        lambda: database.value("SELECT count(*) FROM unset_clock") == 0,
        PATIENCE, "timestamps are corrected",
    )
    broker.up()
    for payload in (b"a", b"b"):
        stamp = int(user(wait_payload(broker, payload), "gw-time")) / 1000
        assert earliest - 0.1 <= stamp <= latest + 0.1
    assert b"ancient" not in broker.payloads()


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_boot_without_a_clock(make_daemon, clock, how):
    """The clock was not set in the last boot: its rows count as old as this
    boot is, with their distances."""
    clock.synchronised(False)
    clock.set(60.0)
    daemon = make(make_daemon, clock, free_port(), 10 * YEAR).start()
    database = Database(daemon.queue_path)
    feed(daemon, {"payload": "a"})
    clock.set(clock.now() + 0.5)
    feed(daemon, {"payload": "b"})
    if how == "stop":
        daemon.stop()
    else:
        daemon.kill9()
    before = [row[0] for row in database.query("SELECT timestamp FROM queue")]
    clock.set(time.time())
    clock.synchronised(True)
    daemon.extra_env["MQTTGW_BOOT_ID"] = BOOTS[1]
    daemon.start()
    wait_until(
        lambda: database.value("SELECT count(*) FROM unset_clock") == 0,
        PATIENCE, "timestamps are corrected",
    )
    after = [row[0] for row in database.query("SELECT timestamp FROM queue")]
    boot = (time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)) * 1000
    assert abs(after[1] - boot) < 1000
    assert after[1] - after[0] == before[1] - before[0]


def test_trust_survives_a_restart(make_daemon, clock):
    """Of the process, while the kernel says no and the clock is wrong."""
    daemon = make(make_daemon, clock, free_port(), 600.0).start()
    database = Database(daemon.queue_path)
    feed(daemon, {"payload": "a"})
    wait_until(
        lambda: feed(daemon, {"payload": "b"}) and database.query(
            "SELECT value FROM meta WHERE key = 'clock'"
        ),
        PATIENCE, "trust is on disk", interval=0.2,
    )
    count = database.count()
    clock.synchronised(False)
    clock.set(time.time() + YEAR)
    daemon.restart()
    feed(daemon, {"payload": "c", "timestamp": int(time.time() * 1000)},
         {"payload": "old", "timestamp": int((time.time() - 700) * 1000)})
    database.wait_count(count + 1, PATIENCE)
    # In another boot nothing of it counts.
    daemon.stop()
    daemon.extra_env["MQTTGW_BOOT_ID"] = BOOTS[1]
    daemon.start()
    feed(daemon, {"payload": "d", "timestamp": 5})
    end = time.monotonic() + 5
    while time.monotonic() < end:
        assert database.count() == count + 2
        time.sleep(0.2)
