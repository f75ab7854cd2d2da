# SPDX-License-Identifier: MIT
"""A real Prometheus that scrapes one gateway, and what it says of it."""

import json
import os
import shutil
import tempfile
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any, Dict, Optional

from .ports import LOOPBACK, free_port
from .process import Process
from .waiting import TIME_FACTOR, wait_until

#: The rules that are shipped.
RULES = Path(__file__).resolve().parents[3] / "doc" / "prometheus-rules.yml"

CONFIG = """\
global:
  scrape_interval: 1s
  scrape_timeout: 1s
  evaluation_interval: 1s
rule_files: ["{rules}"]
scrape_configs:
  - job_name: mqttgw
    static_configs:
      - targets: ["{target}"]
"""


def installed() -> bool:
    return shutil.which("prometheus") is not None


class Prometheus:
    """In a directory of its own, on a port of its own."""

    def __init__(self, target: str) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="mqttgw-prom-"))
        self.port = free_port()
        self.process = Process("prometheus", self.directory / "log")
        self._config = self.directory / "prometheus.yml"
        self._config.write_text(CONFIG.format(rules=RULES, target=target))

    def start(self) -> "Prometheus":
        self.process.spawn(
            [
                "prometheus",
                f"--config.file={self._config}",
                f"--storage.tsdb.path={self.directory / 'tsdb'}",
                f"--web.listen-address={LOOPBACK}:{self.port}",
                "--log.level=warn",
            ],
            env=dict(os.environ),
        )
        wait_until(self._ready, 30.0, "Prometheus is ready", 0.1)
        return self

    def _ready(self) -> bool:
        assert self.process.running(), self.process.tail()
        try:
            self._get("/-/ready")
        except OSError:
            return False
        return True

    def _get(self, path: str) -> bytes:
        url = f"http://{LOOPBACK}:{self.port}{path}"
        with urllib.request.urlopen(url, timeout=5 * TIME_FACTOR) as answer:
            return answer.read()

    def api(self, what: str, **parameters: str) -> Any:
        query = urllib.parse.urlencode(parameters)
        answer = json.loads(self._get(f"/api/v1/{what}?{query}"))
        assert answer["status"] == "success", answer
        return answer["data"]

    def values(self, expression: str, label: str) -> Dict[str, float]:
        """The values an expression has now, by one of their labels."""
        result = self.api("query", query=expression)["result"]
        return {
            entry["metric"].get(label, ""): float(entry["value"][1])
            for entry in result
        }

    def value(self, expression: str) -> Optional[float]:
        """The one value of an expression; None: it has none."""
        result = self.api("query", query=expression)["result"]
        assert len(result) <= 1, result
        return float(result[0]["value"][1]) if result else None

    def wait_value(
        self, expression: str, wanted: float, timeout: float = 20.0
    ) -> None:
        seen = []

        def there() -> bool:
            seen.append(self.value(expression))
            return seen[-1] == wanted

        try:
            wait_until(there, timeout, f"{expression} is {wanted}", 0.2)
        except TimeoutError as error:
            raise TimeoutError(f"{error}; it is {seen[-1]}") from None

    def close(self) -> None:
        self.process.end()
        if "MQTTGW_KEEP" not in os.environ:
            shutil.rmtree(self.directory, ignore_errors=True)
