# SPDX-License-Identifier: MIT
"""The receiving end: a paho client that writes down what it gets."""

import threading
from collections import Counter
from typing import Any, Callable, List, NamedTuple, Optional

import paho.mqtt.client as paho

from .ports import LOOPBACK
from .waiting import TIME_FACTOR, Deadline, wait_until


class Record(NamedTuple):
    """One message as it arrived."""

    topic: str
    payload: bytes
    qos: int
    retain: bool
    dup: bool


class Subscriber:
    """Subscribes, reconnects by itself, records in order of arrival.

    With ``persistent`` the broker keeps the session, so that nothing is
    missed while the subscriber's own connection is down.
    """

    def __init__(
        self,
        port: int,
        topic: str = "#",
        qos: int = 2,
        persistent: bool = True,
        client_id: str = "subscriber",
        username: str = "",
        password: str = "",
    ) -> None:
        self.records: List[Record] = []
        self._changed = threading.Condition()
        self._subscribed = threading.Event()
        self._filter = (topic, qos)
        self._client = paho.Client(client_id, clean_session=not persistent)
        if username:
            self._client.username_pw_set(username, password)
        self._client.max_inflight_messages_set(65535)
        self._client.reconnect_delay_set(1, 1)
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = self._on_subscribe
        self._client.on_message = self._on_message
        self._client.connect(LOOPBACK, port, keepalive=30)
        self._client.loop_start()
        if not self._subscribed.wait(10.0 * TIME_FACTOR):
            self.close()
            raise TimeoutError("the broker does not confirm a subscription")

    def _on_connect(
        self, client: Any, userdata: Any, flags: Any, rc: int
    ) -> None:
        if rc == 0:
            client.subscribe(*self._filter)

    def _on_subscribe(
        self, client: Any, userdata: Any, mid: int, granted: Any
    ) -> None:
        self._subscribed.set()

    def _on_message(self, client: Any, userdata: Any, message: Any) -> None:
        record = Record(
            message.topic,
            bytes(message.payload),
            message.qos,
            bool(message.retain),
            bool(message.dup),
        )
        with self._changed:
            self.records.append(record)
            self._changed.notify_all()

    def reconnected(self) -> bool:
        return bool(self._client.is_connected())

    def wait_connected(self, timeout: float = 10.0) -> None:
        wait_until(self.reconnected, timeout, "subscriber is connected")

    def wait_for(
        self,
        count: int,
        timeout: float = 30.0,
        check: Optional[Callable[[], None]] = None,
    ) -> List[Record]:
        """Wait until ``count`` messages have arrived, return them all.

        ``check`` is called now and then and may raise, e.g. because the
        daemon has died.
        """
        deadline = Deadline(timeout)
        with self._changed:
            while len(self.records) < count:
                if check:
                    check()
                deadline.check(
                    f"{count} messages at the subscriber, got "
                    f"{len(self.records)}: {self.records[-3:]}"
                )
                self._changed.wait(min(0.5, deadline.remaining()))
            return list(self.records)

    def wait_payloads(
        self, payloads: Any, timeout: float = 30.0
    ) -> List[Record]:
        """Wait until each of the payloads has arrived at least once."""
        wanted = set(payloads)
        deadline = Deadline(timeout)
        seen = 0
        with self._changed:
            while True:
                for record in self.records[seen:]:
                    wanted.discard(record.payload)
                seen = len(self.records)
                if not wanted:
                    return list(self.records)
                if deadline.passed():
                    raise TimeoutError(
                        f"{len(wanted)} payloads still missing, e.g. "
                        f"{sorted(wanted)[:3]}"
                    )
                self._changed.wait(min(0.5, deadline.remaining()))

    def payloads(self) -> List[bytes]:
        return [record.payload for record in list(self.records)]

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


def first_deliveries(payloads: List[bytes]) -> List[bytes]:
    """The payloads without later repetitions, in order of arrival."""
    return list(dict.fromkeys(payloads))


def duplicates(payloads: List[bytes]) -> int:
    """How many arrivals were repetitions."""
    return sum(count - 1 for count in Counter(payloads).values())
