# SPDX-License-Identifier: MIT
"""kill -9 at random moments, at full speed: what was answered arrives."""

import random

import pytest
from harness import Database, Producer, env_int, wait_until
from harness.subscriber import duplicates, first_deliveries

KILLS = env_int("MQTTGW_KILLS", 10)
SEED = env_int("MQTTGW_SEED", 1)

#: Between two kills, at most so many answers to one producer.
STEP = env_int("MQTTGW_KILL_STEP", 3000)

#: The producers may be so far ahead of the subscriber.
LEAD = 20000


class Watch:
    """Follows what the producers were answered."""

    def __init__(self, daemon, producers):
        self.daemon = daemon
        self.producers = producers

    def answered(self):
        return sum(len(producer.answered) for producer in self.producers)

    def wait_more(self, count):
        """Wait for so many further answers; the daemon must live."""
        goal = self.answered() + count

        def reached():
            self.daemon.check_alive()
            return self.answered() >= goal

        wait_until(reached, 60, f"{count} more answers", interval=0.0005)


@pytest.mark.long
@pytest.mark.timeout(60 + 10 * KILLS)
@pytest.mark.parametrize("version", ["3.1.1", "5"])
def test_kill_at_random_moments(
    make_daemon, mosquitto, make_proxy, make_subscriber, measured, version
):
    """Two producers, QoS 1 and 2; kills and cuts of the connection.

    Every message that was answered `queued` reaches the subscriber, first
    deliveries in order. Repetitions are allowed after a kill, and counted.
    """
    rng = random.Random(SEED)
    subscriber = make_subscriber(mosquitto.port)
    proxy = make_proxy(mosquitto.port)
    daemon = make_daemon(
        proxy.port,
        mqtt={"version": version, "client_id": "gw"},
        retry={"base": 0.02, "max": 0.1, "stable": 0.5},
    ).start()

    def producer(qos):
        return Producer(
            daemon.socket_path,
            lambda number: {
                "topic": f"qos/{qos}",
                "payload": f"{number} " + "x" * (number % 300),
                "qos": qos,
            },
            gate=lambda: len(subscriber.records) // 2 + LEAD,
        )

    producers = [producer(1), producer(2)]
    watch = Watch(daemon, producers)
    for _ in range(KILLS):
        watch.wait_more(rng.randint(1, 2 * STEP))
        if rng.random() < 0.5:
            proxy.cut(rst=rng.random() < 0.5)
            watch.wait_more(rng.randint(1, STEP))
        daemon.kill9()
        daemon.start()
    watch.wait_more(1)
    for each in producers:
        each.stop()
    database = Database(daemon.queue_path)
    database.wait_empty(120)

    lost = repeated = 0
    for qos, each in zip((1, 2), producers):
        topic = f"qos/{qos}"
        wanted = set(each.answered)

        def arrived():
            return [
                int(record.payload.split()[0])
                for record in list(subscriber.records)
                if record.topic == topic
            ]

        try:
            wait_until(
                lambda: wanted <= set(arrived()), 30, "all have arrived",
                interval=0.2,
            )
        except TimeoutError:
            lost += len(wanted - set(arrived()))
        numbers = arrived()
        assert first_deliveries(numbers) == sorted(set(numbers))
        repeated += duplicates(numbers)
        assert each.refused == []
    measured(
        f"kill -9: MQTT {version}: {watch.answered()} accepted, "
        f"{KILLS} kills, {proxy.cuts} cuts, {lost} lost, "
        f"{repeated} duplicates"
    )
    assert lost == 0
    assert database.value("PRAGMA integrity_check") == "ok"
