# SPDX-License-Identifier: MIT
"""Lines that keep coming while the disk fails, and an account of each."""

import json
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any, Dict, List, Set

from disks import Disk
from harness import TIME_FACTOR, Client, Daemon, FakeBroker, wait_until
from harness.client import encode

#: What a client does after a refusal, in seconds, so as not to make a
#: million of them.
PAUSE = 0.005


class Stream:
    """One application, which sends without waiting for answers.

    What is refused is not sent again: each line has one answer, or none
    because its connection broke. Names are ``TAG-NUMBER``. ``rate`` bounds
    the lines a second.
    """

    WINDOW = 100

    def __init__(
        self, path: Path, tag: str, size: int = 200, rate: int = 0
    ) -> None:
        self.path = path
        self.tag = tag
        self.size = size
        self.rate = rate
        self.queued: Dict[str, int] = {}
        self.refused: Dict[str, str] = {}
        self.unanswered: Set[str] = set()
        self.sent = 0
        self._stop = threading.Event()
        self._errors: List[BaseException] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                try:
                    client = Client(self.path)
                except OSError:
                    time.sleep(0.01)
                    continue
                with client:
                    self._converse(client)
        except BaseException as error:
            self._errors.append(error)

    def _line(self) -> Dict[str, Any]:
        name = f"{self.tag}-{self.sent}"
        message = {
            "id": name,
            "topic": f"disk/{self.tag}",
            "payload": f"{name} ".ljust(self.size, "."),
            "qos": 1 + self.sent % 2,
        }
        self.sent += 1
        return message

    def _converse(self, client: Client) -> None:
        open_names: List[str] = []
        try:
            while open_names or not self._stop.is_set():
                lines = []
                while (
                    len(open_names) < self.WINDOW and not self._stop.is_set()
                ):
                    message = self._line()
                    open_names.append(message["id"])
                    lines.append(encode(message))
                if lines:
                    client.send(b"".join(lines))
                if not open_names:
                    return
                self._note(
                    client.replies(max(1, client.pending())), open_names
                )
                if self.rate and lines:
                    self._stop.wait(len(lines) / self.rate)
        except ConnectionError:
            rest = [json.loads(each) for each in client.raw(client.pending())]
            self._note(
                [reply for reply in rest if reply["id"] is not None],
                open_names,
            )
            self.unanswered.update(open_names)

    def _note(self, replies: List[Dict[str, Any]], names: List[str]) -> None:
        refusals = False
        for reply in replies:
            if reply.get("error") == "stopping":
                raise ConnectionError("the daemon stops")
            name = names.pop(0)
            assert reply["id"] == name, f"{reply} instead of {name}'s answer"
            if reply["status"] == "queued":
                self.queued[name] = reply["seq"]
            else:
                self.refused[name] = reply["error"]
                refusals = True
        if refusals:
            time.sleep(PAUSE)

    # --- what tests ask ---

    def check(self) -> None:
        if self._errors:
            raise self._errors[0]

    def _wait(self, table: Dict[str, Any], more: int, timeout: float,
              what: str) -> None:
        goal = len(table) + more

        def reached() -> bool:
            self.check()
            return len(table) >= goal

        wait_until(reached, timeout, f"{more} more lines {what}")

    def wait_queued(self, more: int, timeout: float = 30.0) -> None:
        """Until so many further lines were answered `queued`."""
        self._wait(self.queued, more, timeout, "are queued")

    def wait_refused(self, more: int, timeout: float = 30.0) -> None:
        self._wait(self.refused, more, timeout, "are refused")

    def trust(self, told: Set[str]) -> None:
        """After stop(): answers `queued` to other lines do not count."""
        late = set(self.queued) - told
        self.unanswered |= late
        for name in late:
            del self.queued[name]

    def stop(self) -> None:
        """Send nothing new and wait for the answers still to come."""
        self._stop.set()
        self._thread.join(30.0 * TIME_FACTOR)
        assert not self._thread.is_alive(), "the stream does not end"
        self.check()


class Account:
    """Holds what clients were told against what the broker was given."""

    def __init__(self, broker: FakeBroker, *streams: Stream) -> None:
        self.broker = broker
        self.streams = list(streams)

    def queued(self) -> Set[str]:
        return set().union(*(each.queued.copy() for each in self.streams))

    def refused(self) -> Set[str]:
        return set().union(*(each.refused.copy() for each in self.streams))

    def delivered(self) -> List[str]:
        return [each.split(b" ", 1)[0].decode()
                for each in self.broker.payloads()]

    def missing(self) -> Set[str]:
        return self.queued() - set(self.delivered())

    def wait_delivered(
        self, daemon: Daemon, timeout: float = 60.0
    ) -> None:
        """Until the broker has all that is acknowledged by now."""
        owed = self.queued()

        def paid() -> bool:
            daemon.check_alive()
            self.broker.check()
            return not owed - set(self.delivered())

        try:
            wait_until(paid, timeout, "", interval=0.05)
        except TimeoutError:
            left = sorted(owed - set(self.delivered()))
            raise TimeoutError(
                f"{len(left)} of {len(owed)} acknowledged lines were not "
                f"delivered, e.g. {left[:3]}"
            ) from None

    def power_off(
        self, daemon: Daemon, disk: Disk, how: int, *streams: Stream
    ) -> None:
        """Takes the disk's power while lines come in, and gives it back.

        Answers count that were there when the cut began. While the ioctl
        runs, ext4 lets a sync under way succeed and drops its data all the
        same; no real disk says anything after its power has failed.
        """
        told = self.queued()
        disk.cut(how)
        # On a dead disk it may have ended by itself, when starting.
        daemon.expect_exit = True
        daemon.process.kill9()
        for stream in streams:
            stream.stop()
            stream.trust(told)
        disk.revive()

    def judge(self, cut: bool = False) -> str:
        """At the end: nothing acknowledged is lost, nothing refused kept.

        With ``cut``, the disk went away at once and for good: what it had
        written of the last batch then, nobody could know or take back.
        """
        wrong = Counter(
            error for each in self.streams for error in each.refused.values()
            if error != "storage"
        )
        assert not wrong, f"refused for another reason: {wrong}"
        count = Counter(self.delivered())
        kept = self.refused() & set(count)
        lost = self.missing()
        summary = self.summary()
        assert not lost, f"{summary}; e.g. {sorted(lost)[:3]}"
        assert cut or not kept, (
            f"{len(kept)} refused lines were delivered, e.g. "
            f"{sorted(kept)[:3]}"
        )
        return summary

    def summary(self) -> str:
        delivered = self.delivered()
        return (
            f"{len(self.queued())} acknowledged, {len(self.refused())} "
            f"refused, {len(self.missing())} lost, "
            f"{len(delivered) - len(set(delivered))} doubled"
        )
