# SPDX-License-Identifier: MIT
"""mqttgw-report: figures to a real Pushgateway, alerts to a receiver.

The receiver misbehaves, comes and goes; so does the gateway. No alert may be
lost, doubled or overtaken by another.
"""

import re
import signal
import socket
import tempfile
import threading
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Callable, Iterator, List, Optional

import pytest

from harness import TIME_FACTOR, Client, Daemon, wait_until
from harness.ports import LOOPBACK, free_port
from harness.report import Control, Pushgateway, Receiver, Report
from harness.tls import Certificates


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short: a socket's path may have 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="mqttgw-") as name:
        yield Path(name)


@pytest.fixture
def control(folder: Path) -> Iterator[Control]:
    made = Control(folder / "control.sock").start()
    yield made
    made.hung.clear()
    made.stop()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver().start()
    yield made
    made.stop()


@pytest.fixture
def pushgateway(folder: Path) -> Iterator[Pushgateway]:
    made = Pushgateway(folder)
    yield made
    made.stop()


@pytest.fixture(scope="module")
def certificates() -> Iterator[Certificates]:
    made = Certificates()
    yield made
    made.close()


@pytest.fixture(scope="session")
def report_binary(binary: str) -> str:
    path = Path(binary).with_name("mqttgw-report")
    if not path.exists():
        pytest.skip("built without mqttgw-report")
    return str(path)


@pytest.fixture
def make_report(report_binary: str) -> Iterator[Callable[..., Report]]:
    made: List[Report] = []

    def make(control_path: Path, **report: Any) -> Report:
        made.append(Report(report_binary, control_path, **report))
        return made[-1]

    yield make
    for report in made:
        report.close()


def messages(receiver: Receiver) -> List[str]:
    return [alert["message"] for alert in list(receiver.taken)]


def settle(receiver: Receiver, seconds: float = 0.5) -> None:
    """Time for what must not come."""
    count = len(receiver.requests)
    time.sleep(seconds)
    assert len(receiver.requests) == count


# --- figures -----------------------------------------------------------------


def test_push_values_and_labels(control, pushgateway, make_report):
    """What the Pushgateway shows is what the gateway told, under job and
    instance; what the gateway tells no longer is gone."""
    control.text = (
        "# TYPE mqttgw_queue_messages gauge\nmqttgw_queue_messages 17\n"
        "# TYPE mqttgw_messages_accepted_total counter\n"
        'mqttgw_messages_accepted_total{qos="1"} 4096\n'
        'mqttgw_messages_accepted_total{qos="2"} 1.5e+06\n'
    )
    pushgateway.start()
    report = make_report(control.path, push_url=pushgateway.url).start()
    labels = 'instance="test-gateway",job="mqttgw"'

    def shown(qos: str) -> Optional[float]:
        return pushgateway.samples().get(
            f'mqttgw_messages_accepted_total{{{labels},qos="{qos}"}}'
        )

    wait_until(lambda: shown("1") == 4096, 10, "the figures")
    assert shown("2") == 1.5e6
    queue = f"mqttgw_queue_messages{{{labels}}}"
    assert pushgateway.samples()[queue] == 17
    control.text = (
        "# TYPE mqttgw_messages_accepted_total counter\n"
        'mqttgw_messages_accepted_total{qos="1"} 4097\n'
    )
    wait_until(lambda: shown("1") == 4097, 10, "the next figures")
    assert shown("2") is None
    assert queue not in pushgateway.samples()
    # Nobody wants alerts: nobody watches.
    assert control.count("events") == control.count("status") == 0
    assert "pushed" not in re.sub(r"(?m)^.*debug.*$", "", report.output())


def test_push_keeps_its_rhythm(control, make_report, receiver):
    """Every report.interval, whatever a push takes."""
    make_report(control.path, push_url=receiver.url).start()
    wait_until(lambda: len(receiver.requests) >= 4, 10, "four pushes")
    method, path, headers, body = receiver.requests[0]
    assert method == "PUT"
    assert path == "/alerts/metrics/job/mqttgw/instance/test-gateway"
    assert headers["Content-Type"] == "text/plain; version=0.0.4"
    assert "Expect" not in headers
    assert body.decode() == control.text
    began = time.monotonic()
    count = len(receiver.requests)
    wait_until(
        lambda: len(receiver.requests) >= count + 3, 10, "three pushes"
    )
    assert 1.8 < time.monotonic() - began < 6


@pytest.mark.parametrize(
    "path, wanted",
    [
        ("", "/metrics/job/mqttgw/instance/test-gateway"),
        ("/behind/a/proxy/", "/behind/a/proxy/metrics/job/mqttgw"
         "/instance/test-gateway"),
        ("/metrics/job/other/rack/7", "/metrics/job/other/rack/7"),
        ("/?key=a%20b", "/metrics/job/mqttgw/instance/test-gateway"
         "?key=a%20b"),
    ],
)
def test_push_url(control, receiver, make_report, path, wanted):
    url = f"http://{LOOPBACK}:{receiver.port}{path}"
    make_report(control.path, push_url=url).start()
    wait_until(lambda: receiver.requests, 10, "a push")
    assert receiver.requests[0][1] == wanted


def test_pushgateway_comes_late(control, pushgateway, make_report):
    report = make_report(control.path, push_url=pushgateway.url).start()
    wait_until(
        lambda: "figures are not pushed" in report.output(), 10, "a failure"
    )
    wait_until(lambda: control.count("metrics") >= 3, 20, "three attempts")
    pushgateway.start()
    series = 'mqttgw_up{instance="test-gateway",job="mqttgw"}'
    wait_until(lambda: series in pushgateway.samples(), 20, "figures")
    wait_until(
        lambda: "figures are pushed again" in report.output(), 10, "its word"
    )
    # One line at the start of the trouble, one at its end.
    assert len(re.findall("trying again", report.output())) == 1


def test_pushgateway_refuses_garbage(control, pushgateway, make_report):
    """A real refusal, with its status."""
    control.text = "this is no metric\n"
    pushgateway.start()
    report = make_report(control.path, push_url=pushgateway.url).start()
    wait_until(lambda: "HTTP status 400" in report.output(), 10, "a refusal")
    control.text = "# TYPE mqttgw_up gauge\nmqttgw_up 1\n"
    series = 'mqttgw_up{instance="test-gateway",job="mqttgw"}'
    wait_until(lambda: series in pushgateway.samples(), 20, "figures")


def test_push_without_a_gateway(control, receiver, make_report):
    """Nothing is pushed that nobody told; the last word stays."""
    control.stop()
    report = make_report(control.path, push_url=receiver.url).start()
    wait_until(
        lambda: "figures are not pushed" in report.output(), 10, "a failure"
    )
    assert not receiver.requests
    control.start()
    wait_until(lambda: receiver.requests, 20, "a push")


# --- alerts ------------------------------------------------------------------


def test_alert_fields(control, receiver, make_report):
    control.raise_alert("auth", message='say "hä"\n', count=3)
    make_report(control.path, alert_url=receiver.url).start()
    alert = receiver.wait(1)[0]
    assert alert == {
        "gateway": "test-gateway",
        "kind": "auth",
        "message": 'say "hä"\n',
        "broker": "broker:1883",
        "count": 3,
        "time": "2026-01-02T03:04:05.678Z",
        "seq": 1,
        "instance": control.instance,
        "host": socket.gethostname(),
    }
    method, path, headers, _ = receiver.requests[0]
    assert (method, path) == ("POST", "/alerts")
    assert headers["Content-Type"] == "application/json"
    began = time.monotonic()
    control.raise_alert("store")
    assert receiver.wait(2)[1]["kind"] == "store"
    assert time.monotonic() - began < 2


def test_alerts_survive_everything(control, receiver, make_report):
    """The receiver is away; report is killed and stopped, the stream cut,
    the gateway restarted: each alert arrives once, in order."""
    report = make_report(control.path, alert_url=receiver.url).start()
    expected = []

    def raise_some(count: int) -> None:
        for _ in range(count):
            seq = control.raise_alert("auth")
            expected.append(f"{control.instance} {seq}")

    def taken_in() -> bool:
        """The report holds all that there is to know on its disk."""
        pending = [a["message"] for a in report.saved().get("pending", [])]
        return pending == expected[len(receiver.taken):]

    raise_some(2)
    receiver.wait(2)
    receiver.stop()
    raise_some(3)
    wait_until(taken_in, 10, "alerts on disk")
    report.kill9()
    raise_some(1)
    report.start()
    control.cut()
    raise_some(2)
    wait_until(taken_in, 10, "alerts on disk")
    control.stop()
    control.start()
    raise_some(2)
    wait_until(taken_in, 10, "alerts of the next instance on disk")
    report.stop()
    raise_some(1)
    report.start()
    wait_until(taken_in, 10, "all on disk")
    receiver.start()
    receiver.wait(len(expected), 30)
    settle(receiver)
    assert messages(receiver) == expected
    # Its restart forgets nothing of what was delivered.
    report.stop()
    report.start()
    raise_some(1)
    receiver.wait(len(expected))
    settle(receiver)
    assert messages(receiver) == expected
    numbers = [(a["instance"], a["seq"]) for a in receiver.taken]
    assert len(set(numbers)) == len(numbers)


def test_without_a_state_directory(control, receiver, make_report):
    """All that is kept is sent: better twice than never."""
    report = make_report(control.path, alert_url=receiver.url)
    report.extra_env["STATE_DIRECTORY"] = ""
    control.raise_alert("auth")
    report.start()
    receiver.wait(1)
    control.cut()
    control.raise_alert("auth")
    receiver.wait(2)
    settle(receiver)
    report.stop()
    report.start()
    assert len(receiver.wait(4)) == 4


def test_damaged_state_file(control, receiver, make_report):
    report = make_report(control.path, alert_url=receiver.url)
    report.state_path.write_text('{"pending": [{"kind":')
    control.raise_alert("auth")
    report.start()
    receiver.wait(1)
    assert "state.json cannot be used" in report.output()
    wait_until(lambda: report.saved().get("seen") == 1, 10, "a new file")
    assert report.saved()["pending"] == []


def test_lost_in_the_ring(folder, receiver, make_report):
    """What fell out of the gateway's ring before it was read is told."""
    control = Control(folder / "small.sock", kept=3).start()
    try:
        for _ in range(10):
            control.raise_alert("auth")
        make_report(control.path, alert_url=receiver.url).start()
        receiver.wait(4)
        assert [(a["kind"], a["count"]) for a in receiver.taken] == [
            ("lost", 7), ("auth", 1), ("auth", 1), ("auth", 1),
        ]
        assert [a["seq"] for a in receiver.taken[1:]] == [8, 9, 10]
    finally:
        control.stop()


@pytest.mark.long
def test_too_many_waiting(folder, receiver, make_report, measured):
    """A thousand wait; for the oldest ones, which are dropped, one alert
    tells how many it was."""
    control = Control(folder / "large.sock", kept=5000).start()
    try:
        receiver.stop()
        report = make_report(control.path, alert_url=receiver.url).start()
        for _ in range(1500):
            control.raise_alert("auth")
        wait_until(
            lambda: any("1000 waiting" in li for li in report.notify.lines),
            20,
            "a full outbox",
        )
        wait_until(
            lambda: report.saved().get("seen") == 1500, 20, "1500 alerts read"
        )
        measured(
            f"mqttgw-report with 1000 alerts waiting: {report.memory() >> 10} "
            f"KiB, state file {report.state_path.stat().st_size >> 10} KiB"
        )
        report.stop()
        receiver.start()
        report.start()
        taken = receiver.wait(1001, 60)
        lost = [alert for alert in taken if alert["kind"] == "lost"]
        assert len(lost) == 1 and taken[0] is lost[0]
        assert lost[0]["count"] == 500
        assert [a["seq"] for a in taken[1:]] == list(range(501, 1501))
    finally:
        control.stop()


# --- a receiver that misbehaves ----------------------------------------------


def once(action: Callable[[Any], Optional[int]]) -> Callable[[Any], Any]:
    """The action for the first request, 200 afterwards."""
    first = threading.Event()

    def behave(handler: Any) -> Optional[int]:
        if first.is_set():
            return 200
        first.set()
        return action(handler)

    return behave


def answer(raw: bytes) -> Callable[[Any], None]:
    def behave(handler: Any) -> None:
        handler.wfile.write(raw)
        handler.wfile.flush()
        handler.connection.shutdown(socket.SHUT_RDWR)

    return behave


@pytest.mark.parametrize(
    "behaviour",
    [
        lambda _: 500,
        lambda _: 404,
        lambda _: 401,
        lambda _: 408,
        lambda _: 429,
        lambda _: 302,
        answer(b""),
        answer(b"\x00\xff\xfe garbage\r\n\r\n" * 20),
        answer(b"HTTP/1.1 banana\r\n\r\n"),
        answer(b"HTTP/1.1 100 Continue\r\n\r\n"),
    ],
    ids=["500", "404", "401", "408", "429", "302", "cut", "garbage",
         "banana", "continue"],
)
def test_receiver_fails_once(control, receiver, make_report, behaviour):
    """Whatever is no answer is tried again, and nothing overtakes."""
    receiver.behave = once(behaviour)
    control.raise_alert("auth")
    control.raise_alert("store")
    report = make_report(control.path, alert_url=receiver.url).start()
    receiver.wait(2)
    settle(receiver)
    assert receiver.kinds() == ["auth", "store"]
    assert len(receiver.requests) == 3
    assert report.output().count("trying again") == 1
    assert "alerts are taken again" in report.output()


def test_redirect_is_not_followed(control, receiver, make_report):
    elsewhere = Receiver().start()

    def redirect(handler: Any) -> None:
        handler.send_response(307)
        handler.send_header("Location", elsewhere.url)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    receiver.behave = once(redirect)
    control.raise_alert("auth")
    make_report(control.path, alert_url=receiver.url).start()
    receiver.wait(1)
    assert not elsewhere.requests
    elsewhere.stop()


def test_retry_after(control, receiver, make_report):
    def busy(handler: Any) -> None:
        handler.send_response(503)
        handler.send_header("Retry-After", "4")
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    receiver.behave = once(busy)
    control.raise_alert("auth")
    began = time.monotonic()
    make_report(control.path, alert_url=receiver.url).start()
    receiver.wait(1)
    assert time.monotonic() - began >= 4


def test_endless_answer(control, receiver, make_report):
    """200 and a body without end: taken, once, and not read to its end."""
    sent = []

    def endless(handler: Any) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "text/plain")
        handler.end_headers()
        try:
            while True:
                handler.wfile.write(b"x" * 65536)
                sent.append(65536)
        except OSError:
            pass

    receiver.behave = once(endless)
    control.raise_alert("auth")
    control.raise_alert("store")
    make_report(control.path, alert_url=receiver.url).start()
    receiver.wait(1)
    settle(receiver)
    assert receiver.kinds() == ["store"]
    assert len(receiver.requests) == 2
    assert sum(sent) < 16 * 1024 * 1024


@pytest.mark.long
@pytest.mark.long
@pytest.mark.timeout(90)
@pytest.mark.parametrize("how", ["hangs", "trickles"])
def test_receiver_that_hangs(control, receiver, make_report, how):
    """Given up after its time; pushing does not wait for it meanwhile."""
    over = threading.Event()

    def hang(handler: Any) -> None:
        if how == "trickles":
            handler.wfile.write(b"HTTP/1.1 200 O")
        while not over.wait(0.2):
            if how == "trickles":
                handler.wfile.write(b"K")

    receiver.behave = once(hang)
    pushes = Receiver().start()
    control.raise_alert("auth")
    make_report(
        control.path, alert_url=receiver.url, push_url=pushes.url
    ).start()
    try:
        receiver.wait(1, 45)
    finally:
        over.set()
        pushes.stop()
    assert len(receiver.requests) == 2
    assert len(pushes.requests) >= 15


def test_refused_for_good(control, receiver, make_report):
    """An alert that the receiver does not want is dropped after three
    attempts; the next ones arrive, and how many were dropped."""
    def picky(handler: Any) -> int:
        body = receiver.requests[-1][3]
        return 422 if b"dead-letter" in body else 200

    receiver.behave = picky
    for kind in ("auth", "dead-letter", "store"):
        control.raise_alert(kind)
    report = make_report(control.path, alert_url=receiver.url).start()
    receiver.wait(3, 30)
    settle(receiver)
    assert [(a["kind"], a["count"]) for a in receiver.taken] == [
        ("auth", 1), ("lost", 1), ("store", 1),
    ]
    assert len(receiver.requests) == 6
    assert 'an alert of kind "dead-letter" is dropped' in report.output()


@pytest.mark.long
def test_lost_keeps_nobody_waiting(control, receiver, make_report):
    """Not even how many were dropped is wanted: the others arrive."""
    def picky(handler: Any) -> int:
        body = receiver.requests[-1][3]
        return 400 if b"dead-letter" in body or b'"lost"' in body else 200

    receiver.behave = picky
    for kind in ("dead-letter", "store"):
        control.raise_alert(kind)
    make_report(control.path, alert_url=receiver.url).start()
    receiver.wait(1, 40)
    receiver.behave = None
    receiver.wait(2, 40)
    assert receiver.kinds() == ["store", "lost"]


# --- the gateway -------------------------------------------------------------


@pytest.mark.long
@pytest.mark.timeout(120)
def test_gateway_gone_and_back(control, receiver, make_report):
    """Told once when it has lasted, also over a restart of the report."""
    report = make_report(control.path, alert_url=receiver.url).start()
    wait_until(lambda: control.count("events"), 10, "the stream")
    control.stop()
    time.sleep(3)
    control.start()
    wait_until(lambda: control.count("events") >= 2, 10, "the stream again")
    assert not receiver.requests
    control.stop()
    began = time.monotonic()
    gone = receiver.wait(1, 30)[0]
    assert 14 < time.monotonic() - began < 20 * TIME_FACTOR
    assert (gone["kind"], gone["gateway"]) == ("daemon-gone", "test-gateway")
    assert gone["seq"] == 1 and re.fullmatch("[0-9a-f]{32}", gone["instance"])
    assert re.fullmatch(
        r"the gateway cannot be reached, for 1[5-9] s: No such file or directory",
        gone["message"],
    )
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", gone["time"]
    )
    report.stop()
    report.start()
    time.sleep(18)
    assert receiver.kinds() == ["daemon-gone"]
    control.start()
    back = receiver.wait(2, 20)[1]
    assert (back["kind"], back["seq"]) == ("daemon-back", 2)
    assert back["instance"] == gone["instance"]
    control.raise_alert("auth")
    receiver.wait(3)


@pytest.mark.long
@pytest.mark.timeout(90)
def test_gateway_hangs(control, receiver, make_report):
    report = make_report(control.path, alert_url=receiver.url).start()
    wait_until(lambda: control.count("status") >= 2, 10, "probes")
    control.hung.set()
    began = time.monotonic()
    hangs = receiver.wait(1, 30)[0]
    assert 9 < time.monotonic() - began < 15 * TIME_FACTOR
    assert hangs["kind"] == "daemon-hangs"
    assert "no answer within 10 s" in hangs["message"]
    control.hung.clear()
    assert receiver.wait(2, 30)[1]["kind"] == "daemon-back"
    settle(receiver, 2)
    assert "daemon-hangs" in report.output()


@pytest.mark.long
@pytest.mark.timeout(90)
def test_gateway_hung_and_restarted(control, receiver, make_report):
    """As its watchdog does it: the restart is over before it is an alert."""
    make_report(control.path, alert_url=receiver.url).start()
    wait_until(lambda: control.count("status"), 10, "a probe")
    control.hung.set()
    receiver.wait(1, 30)
    control.stop()
    control.hung.clear()
    time.sleep(3)
    control.start()
    receiver.wait(2, 30)
    settle(receiver)
    assert receiver.kinds() == ["daemon-hangs", "daemon-back"]


@pytest.mark.long
def test_gateway_that_stops_slowly(control, receiver, make_report):
    """What says that it is stopping is as good as gone; no line is logged
    for each attempt."""
    report = make_report(control.path, alert_url=receiver.url).start()
    wait_until(lambda: control.count("events"), 10, "the stream")
    control.refuse = {
        "status": "error", "error": "stopping", "message": "stopping",
    }
    control.cut()
    gone = receiver.wait(1, 30)[0]
    assert gone["kind"] == "daemon-gone"
    assert gone["message"].endswith(": it was stopped")
    assert "gives no alerts" not in report.output()
    control.refuse = None
    assert receiver.wait(2, 30)[1]["kind"] == "daemon-back"


@pytest.mark.long
def test_gateway_hangs_from_the_start(control, receiver, make_report):
    control.hung.set()
    make_report(control.path, alert_url=receiver.url).start()
    assert receiver.wait(1, 30)[0]["kind"] == "daemon-hangs"
    control.hung.clear()
    assert receiver.wait(2, 30)[1]["kind"] == "daemon-back"


def test_gateway_refuses_the_stream(control, receiver, make_report):
    """It lives: no alert; it is asked again later."""
    control.refuse = {
        "status": "error", "error": "too-many-clients", "message": "32",
    }
    report = make_report(control.path, alert_url=receiver.url).start()
    wait_until(lambda: control.count("events") >= 3, 15, "three requests")
    assert report.output().count("too-many-clients") == 1
    assert not receiver.requests
    control.refuse = None
    control.raise_alert("auth")
    receiver.wait(1)


@pytest.mark.parametrize(
    "raw",
    [
        b"\n",
        b"[1, 2]\n",
        b'{"status": "ok"',
        b'{"status": 1}\n{"status": "event", "kind": "hel\xff"}\n',
        b"[" * 100000 + b"\n",
        b"x" * (5 << 20),
    ],
    ids=["blank", "array", "cut", "no-utf8", "deep", "long"],
)
def test_gateway_talks_nonsense(control, receiver, make_report, raw):
    control.raw = raw
    report = make_report(
        control.path, alert_url=receiver.url, push_url=receiver.url
    ).start()
    wait_until(
        lambda: control.count("events") >= 3 and control.count("metrics") >= 2,
        20, "further attempts",
    )
    assert not receiver.requests
    control.raw = b""
    control.raise_alert("auth")
    receiver.wait(1)
    wait_until(lambda: "figures are pushed again" in report.output(), 10, "it")


# --- HTTPS, proxies, secrets -------------------------------------------------


def test_https(control, certificates, make_report):
    receiver = Receiver(tls=certificates.server).start()
    report = make_report(control.path, alert_url=receiver.url)
    report.extra_env["SSL_CERT_FILE"] = certificates.ca.cert
    control.raise_alert("auth")
    report.start()
    receiver.wait(1)
    receiver.stop()


@pytest.mark.parametrize("wrong", ["issuer", "name", "expired"])
def test_https_certificate_refused(
    control, certificates, make_report, wrong
):
    pair = {
        "issuer": certificates.server,
        "name": certificates.wrong_name,
        "expired": certificates.expired,
    }[wrong]
    receiver = Receiver(tls=pair).start()
    report = make_report(control.path, alert_url=receiver.url)
    if wrong != "issuer":
        report.extra_env["SSL_CERT_FILE"] = certificates.ca.cert
    control.raise_alert("auth")
    report.start()
    wait_until(lambda: "alerts are not taken" in report.output(), 10, "it")
    assert re.search("alerts are not taken by https:.*(SSL|certificate)",
                     report.output())
    time.sleep(2)
    assert not receiver.requests
    receiver.stop()


def test_proxy_from_the_environment(control, receiver, make_report):
    report = make_report(
        control.path, alert_url="http://receiver.invalid:81/a"
    )
    report.extra_env["http_proxy"] = f"http://{LOOPBACK}:{receiver.port}"
    control.raise_alert("auth")
    report.start()
    receiver.wait(1)
    assert receiver.requests[0][1] == "http://receiver.invalid:81/a"


def test_secrets_stay_secret(control, receiver, make_report):
    """The receiver is given them, the log is not."""
    report = make_report(
        control.path,
        alert_url=f"http://me:s3cret@{LOOPBACK}:{receiver.port}"
        "/t0ken/x?key=qu3ry",
        push_url=f"http://me:s3cret@{LOOPBACK}:{free_port()}/t0ken?key=qu3ry",
    )
    receiver.behave = once(lambda _: 500)
    control.raise_alert("auth")
    report.start()
    receiver.wait(1)
    _, path, headers, _ = receiver.requests[0]
    assert path == "/t0ken/x?key=qu3ry"
    assert headers["Authorization"] == "Basic bWU6czNjcmV0"
    report.settings["no"] = 1
    report.write_config(alert_url="http://me:s3cret@:1/t0ken?qu3ry")
    report.reload()
    report.stop()
    for secret in ("s3cret", "t0ken", "qu3ry"):
        assert secret not in report.output()
        assert not any(secret in line for line in report.notify.lines)


# --- the program -------------------------------------------------------------


def test_reload(control, receiver, make_report):
    """A good file takes effect, a faulty one changes nothing."""
    other = Receiver().start()
    report = make_report(control.path, alert_url=receiver.url).start()
    control.raise_alert("auth")
    receiver.wait(1)
    report.write_config(alert_url=other.url)
    report.reload()
    control.raise_alert("store")
    other.wait(1)
    report.write_config(alert_url="ftp://example.org/")
    report.reload()
    assert re.search(r"report\.conf:\d+: report\.alert_url: this value is not"
                     r" allowed", report.output())
    assert "the configuration stays as it was" in report.output()
    control.raise_alert("held")
    other.wait(2)
    assert other.kinds() == ["store", "held"]
    assert receiver.kinds() == ["auth"]
    report.write_config(alert_url="", push_url=other.url)
    report.reload()
    wait_until(lambda: other.requests[-1][0] == "PUT", 10, "a push")
    other.stop()


def test_reload_tries_at_once(control, receiver, make_report):
    receiver.stop()
    control.raise_alert("auth")
    report = make_report(control.path, alert_url=receiver.url).start()
    # The third wait is about four seconds long.
    wait_until(
        lambda: re.search(r"again in [3-9]", report.output()), 20, "waits"
    )
    receiver.start()
    report.reload()
    receiver.wait(1, 1)


def test_stop_waits_for_an_answer(control, receiver, make_report):
    """An alert that is being answered is not sent again afterwards."""
    arrived = threading.Event()

    def slow(handler: Any) -> int:
        arrived.set()
        time.sleep(1)
        return 200

    receiver.behave = slow
    control.raise_alert("auth")
    report = make_report(control.path, alert_url=receiver.url).start()
    assert arrived.wait(10)
    report.stop()
    assert len(receiver.taken) == 1
    receiver.behave = None
    report.start()
    control.raise_alert("store")
    receiver.wait(2)
    settle(receiver)
    assert receiver.kinds() == ["auth", "store"]


def test_command_line(control, receiver, make_report):
    report = make_report(control.path, alert_url=receiver.url)
    done = report.run("--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"mqttgw-report \(mqtt-gatewayd [\d.]+\)\n",
                        done.stdout)
    done = report.run("--help")
    assert done.returncode == 0 and "Usage: mqttgw-report" in done.stdout
    assert report.run("--no-such-option").returncode == 1
    assert report.run("surplus").returncode == 1
    report.write_config(alert_url="", push_url="")
    done = report.run("-c", str(report.config_path))
    assert done.returncode == 78 and "nothing to do" in done.stderr
    report.config_path.write_text("report: { pushurl = 1; };\n")
    done = report.run("-c", str(report.config_path))
    assert done.returncode == 78
    assert "report.conf:1: unknown key" in done.stderr
    assert report.run("-c", "/does/not/exist").returncode == 78


def test_needs_no_secrets(control, receiver, make_report):
    """Files of the brokers may be out of its reach."""
    report = make_report(control.path, alert_url=receiver.url)
    report.settings["brokers"] = [{
        "host": "h", "username": "u", "password_file": "/does/not/exist",
        "tls": {"key_file": "/nor/this", "cert_file": "/nor/that"},
    }]
    report.write_config()
    control.raise_alert("auth")
    report.start()
    receiver.wait(1)


def test_idle_is_quiet(control, receiver, make_report):
    """Nothing at info but what it was told to do."""
    report = make_report(
        control.path, alert_url=receiver.url, push_url=receiver.url
    )
    report.settings["log"]["level"] = "info"
    report.write_config()
    report.start()
    wait_until(lambda: len(receiver.requests) >= 3, 15, "three pushes")
    lines = report.output().splitlines()
    assert len(lines) == 1 and "figures go to" in lines[0]


# --- with the real gateway ---------------------------------------------------


@pytest.fixture
def gateway(make_daemon) -> Callable[..., Daemon]:
    """Makes a gateway with a control socket in its own directory."""

    def make(port: int, **options: Any) -> Daemon:
        daemon = make_daemon(port, **options)
        daemon.settings["control"] = {"path": str(daemon.directory / "c.sock")}
        daemon.write_config()
        return daemon

    return make


def report_of(
    make_report: Callable[..., Report], daemon: Daemon, **report: Any
) -> Report:
    return make_report(Path(daemon.settings["control"]["path"]), **report)


def test_figures_of_the_gateway(
    gateway, mosquitto, make_subscriber, pushgateway, make_report
):
    """What happened is what the Pushgateway shows."""
    pushgateway.start()
    subscriber = make_subscriber(mosquitto.port)
    daemon = gateway(mosquitto.port).start()
    report_of(make_report, daemon, push_url=pushgateway.url).start()
    with Client(daemon.socket_path) as client:
        for number in range(60):
            client.publish(topic="t", payload=str(number), qos=number % 3,
                           id=number)
        assert [r["status"] for r in client.replies(60)] == ["queued"] * 60
    subscriber.wait_for(60)
    labels = 'instance="test-gateway",job="mqttgw"'

    def shown(name: str, more: str = "") -> Optional[float]:
        return pushgateway.samples().get(f"{name}{{{labels}{more}}}")

    for qos in range(3):
        for what in ("accepted", "delivered"):
            wait_until(
                lambda: shown(f"mqttgw_messages_{what}_total",
                              f',qos="{qos}"') == 20,
                15, f"20 messages of QoS {qos} {what}",
            )
    wait_until(lambda: shown("mqttgw_queue_messages") == 0, 10, "no backlog")
    mosquitto.stop()
    with Client(daemon.socket_path) as client:
        for number in range(7):
            client.publish(topic="t", payload="later", id=number)
        client.replies(7)
    wait_until(lambda: shown("mqttgw_queue_messages") == 7, 15, "a backlog")


def test_alert_of_the_gateway(
    gateway, make_mosquitto, receiver, make_report
):
    """A wrong password is told; once, over restarts of the report."""
    broker = make_mosquitto(users={"u": "right"}).start()
    daemon = gateway(
        broker.port, broker={"username": "u", "password": "wrong"}
    ).start()
    report = report_of(make_report, daemon, alert_url=receiver.url).start()
    alert = receiver.wait(1)[0]
    assert (alert["kind"], alert["gateway"]) == ("auth", "test-gateway")
    assert str(broker.port) in alert["broker"]
    assert alert["seq"] >= 1 and alert["count"] >= 1 and alert["message"]
    age = datetime.now(timezone.utc) - datetime.strptime(
        alert["time"], "%Y-%m-%dT%H:%M:%S.%f%z"
    )
    assert -1 < age.total_seconds() < 60
    report.stop()
    report.start()
    settle(receiver, 2)
    names = [(a["instance"], a["seq"]) for a in receiver.taken]
    assert len(set(names)) == len(names)
    # The next process of the gateway finds the same, and numbers anew.
    count = len(names)
    daemon.restart()
    again = receiver.wait(count + 1)[count]
    assert (again["kind"], again["seq"]) == ("auth", 1)
    assert again["instance"] != alert["instance"]


@pytest.mark.long
@pytest.mark.timeout(90)
def test_gateway_killed(gateway, receiver, make_report):
    daemon = gateway(free_port()).start()
    report_of(make_report, daemon, alert_url=receiver.url).start()
    settle(receiver, 2)
    daemon.kill9()
    gone = receiver.wait(1, 30)[0]
    assert gone["kind"] == "daemon-gone"
    assert re.search("Connection refused|No such file", gone["message"])
    daemon.start()
    assert receiver.wait(2, 30)[1]["kind"] == "daemon-back"


@pytest.mark.long
@pytest.mark.timeout(90)
def test_gateway_stopped_by_a_signal(gateway, receiver, make_report):
    """SIGSTOP: there, and silent; SIGCONT: back."""
    daemon = gateway(free_port()).start()
    report_of(make_report, daemon, alert_url=receiver.url).start()
    settle(receiver, 2)
    daemon.process.signal(signal.SIGSTOP)
    assert receiver.wait(1, 30)[0]["kind"] == "daemon-hangs"
    daemon.process.signal(signal.SIGCONT)
    assert receiver.wait(2, 30)[1]["kind"] == "daemon-back"
    assert receiver.kinds() == ["daemon-hangs", "daemon-back"]


@pytest.mark.long
def test_watching_writes_nothing(gateway, mosquitto, receiver, make_report):
    """Being asked how it is costs the gateway no write, not even of a log
    line."""
    daemon = gateway(mosquitto.port).start()
    daemon.wait_output(r"-> connected\b")
    report_of(make_report, daemon, alert_url=receiver.url,
              push_url=receiver.url).start()
    wait_until(lambda: len(receiver.requests) >= 4, 15, "pushes")

    def written() -> int:
        text = Path(f"/proc/{daemon.process.pid}/io").read_text()
        return int(re.search(r"(?m)^write_bytes: (\d+)", text).group(1))

    before, pushes = written(), len(receiver.requests)
    wait_until(
        lambda: len(receiver.requests) >= pushes + 4, 20, "four more pushes"
    )
    assert written() == before
