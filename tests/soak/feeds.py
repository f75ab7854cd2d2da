# SPDX-License-Identifier: MIT
"""Local applications that send at random and check each answer."""

import json
import random
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any, Deque, Dict

from harness import Client
from harness.client import encode
from ledger import Ledger, payload

#: Lines of one client that wait for an answer.
WINDOW = 400
#: No more is sent while so many messages are owed to the broker.
LEAD = 4000
#: Shares of payload sizes: up to so many bytes.
SIZES = [0, 30, 30, 200, 200, 1000, 1000, 5000, 30000, 100_000]


class Feed:
    """A client in a thread; connects again whatever happens."""

    def __init__(
        self,
        path: Path,
        ledger: Ledger,
        number: int,
        seed: int,
        pause: float,
    ) -> None:
        self.path = path
        self.ledger = ledger
        self.number = number
        self.rng = random.Random(f"{seed}/feed/{number}")
        #: Mean seconds between two bursts.
        self.pause = pause
        self.connections = 0
        self._stop = threading.Event()
        self._waiting: Deque[str] = deque()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Send nothing more; the answers to come are waited for."""
        self._stop.set()

    def join(self, timeout: float) -> None:
        self._thread.join(timeout)
        if self._thread.is_alive():
            self.ledger.problem(f"client {self.number} does not end")

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                try:
                    client = Client(self.path)
                except OSError:
                    time.sleep(0.01)
                    continue
                self.connections += 1
                with client:
                    self._session(client)
        except BaseException as error:
            self.ledger.problem(f"client {self.number}: {error!r}")

    def _session(self, client: Client) -> None:
        """One connection, to its end from either side."""
        self._stopped = False
        try:
            self._talk(client)
            self._answers(client, len(self._waiting))
        except (ConnectionError, TimeoutError) as error:
            for line in client.raw(client.pending()):
                self._answer(json.loads(line))
            if isinstance(error, TimeoutError):
                self.ledger.problem(
                    f"client {self.number}: no answer to "
                    f"{len(self._waiting)} lines: {error}"
                )
        self.ledger.unanswered(self._waiting, self._stopped)
        self._waiting.clear()

    def _talk(self, client: Client) -> None:
        sent = 0
        for _ in range(self.rng.randint(3, 40)):
            burst = self.rng.choice([1, 1, 3, 10, 40, 100])
            for _ in range(burst):
                sent += 1
                client.send(encode(self._message(sent)))
            self._answers(client, client.pending())
            while len(self._waiting) > WINDOW:
                self._answers(client, 1)
            if self.rng.random() < 0.5:
                self._answers(client, len(self._waiting))
            self._stop.wait(self.rng.expovariate(1 / self.pause))
            while self.ledger.owed() > LEAD and not self._stop.is_set():
                self._answers(client, client.pending())
                time.sleep(0.02)
            if self._stop.is_set():
                return

    def _message(self, sent: int) -> Dict[str, Any]:
        """Never the same name: what was not answered is not sent again, so
        that what arrives tells what was accepted."""
        name = f"{self.number}-{self.connections}-{sent}"
        size = self.rng.randint(0, self.rng.choice(SIZES))
        qos = self.rng.choice([0, 1, 1, 2, 2])
        self.ledger.sent(name, qos)
        self._waiting.append(name)
        return {
            "id": name,
            "topic": f"soak/{self.number}",
            "payload": payload(name, size),
            "qos": qos,
        }

    def _answers(self, client: Client, count: int) -> None:
        for reply in client.replies(count):
            self._answer(reply)

    def _answer(self, reply: Dict[str, Any]) -> None:
        """Exactly one for each line, in their order."""
        if reply.get("error") == "stopping" and reply.get("id") is None:
            self._stopped = True
            return
        name = self._waiting.popleft() if self._waiting else None
        if self._stopped or name is None or reply.get("id") != name:
            self.ledger.problem(f"{reply} instead of an answer to {name}")
        elif reply["status"] == "queued":
            self.ledger.queued(name, reply["seq"])
        elif reply.get("error") in ("storage", "queue-full"):
            self.ledger.refused(name, reply["error"])
        else:
            self.ledger.problem(f"unexpected answer: {reply}")
            self.ledger.refused(name, str(reply.get("error")))
