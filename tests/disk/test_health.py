# SPDX-License-Identifier: MIT
"""/healthz and /metrics while the queue cannot be written."""

import errno
import json
import urllib.error
import urllib.request

import pytest
from conftest import RECOVERY
from harness import Client, wait_until
from harness.ports import LOOPBACK, free_port
from telling import probe


def get(port, path):
    """Status and body."""
    url = f"http://{LOOPBACK}:{port}{path}"
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.mark.timeout(150)
def test_health_tells_of_a_failing_disk(make_disk, make_gateway, make_rules):
    """503 with the reason while lines are refused, and 200 again after."""
    port = free_port()
    daemon = make_gateway(
        make_disk("tmpfs"), free_port(),
        metrics={"listen": f"{LOOPBACK}:{port}"},
    )
    if not daemon.has_http:
        pytest.skip("NOT TESTED: this build has no HTTP")
    rules = make_rules(daemon)
    daemon.start()
    assert probe(daemon)["status"] == "queued"
    assert get(port, "/healthz")[0] == 200
    rules.set("write", "sync", error=errno.EIO)
    refused = 3
    with Client(daemon.socket_path) as client:
        for number in range(refused):
            reply = client.ask({"topic": "t", "id": number})
            assert reply["error"] == "storage"
    status, body = get(port, "/healthz")
    assert status == 503
    answer = json.loads(body)
    assert (answer["status"], answer["reason"]) == ("failing", "storage")
    assert answer["message"] == "Input/output error"
    status, body = get(port, "/metrics")
    assert status == 200
    counted = f'mqttgw_messages_refused_total{{error="storage"}} {refused}\n'
    assert counted in body
    rules.clear()
    wait_until(
        lambda: get(port, "/healthz")[0] == 200, RECOVERY, "healthy again"
    )
    assert probe(daemon)["status"] == "queued"
