# SPDX-License-Identifier: MIT
"""Certificates for tests, made with the openssl command, and a TLS peer.

What is made lives in a directory of its own and is worth nothing outside
the test.
"""

import os
import shutil
import socket
import ssl
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import Any, Callable, List, NamedTuple, Optional

from .ports import LOOPBACK
from .waiting import TIME_FACTOR

OPENSSL = shutil.which("openssl")


class Pair(NamedTuple):
    """Paths of a certificate and its key."""

    cert: str
    key: str


class Authority:
    """A CA of its own; ``issue`` makes what it signs."""

    def __init__(self, directory: Path, name: str = "ca") -> None:
        assert OPENSSL, "openssl is not installed"
        self.directory = directory
        self.directory.mkdir(exist_ok=True)
        self.name = name
        self.cert = str(directory / f"{name}.pem")
        self._key = str(directory / f"{name}.key")
        self._serial = 100
        (directory / f"{name}.index").touch()
        self._run(
            "req", "-x509", "-newkey", "ec", "-pkeyopt",
            "ec_paramgen_curve:prime256v1", "-nodes", "-days", "30",
            "-subj", f"/CN=Test {name}", "-keyout", self._key,
            "-out", self.cert,
            "-addext", "basicConstraints=critical,CA:TRUE",
            "-addext", "keyUsage=critical,keyCertSign",
        )

    def _run(self, *arguments: str) -> None:
        environment = {**os.environ, "LC_ALL": "C"}
        environment.pop("OPENSSL_CONF", None)
        done = subprocess.run(
            [str(OPENSSL), *arguments], cwd=self.directory,
            env=environment, stdin=subprocess.DEVNULL,
            capture_output=True, text=True,
        )
        assert done.returncode == 0, done.stderr

    def issue(
        self,
        name: str,
        san: str = "",
        not_before: str = "",
        not_after: str = "",
    ) -> Pair:
        """A signed certificate: of a server with ``san``, else a client's.

        ``san`` is e.g. "DNS:localhost,IP:127.0.0.1"; dates are
        YYYYMMDDHHMMSSZ.
        """
        cert = self.directory / f"{name}.pem"
        key = self.directory / f"{name}.key"
        request = self.directory / f"{name}.csr"
        config = self.directory / f"{name}.cnf"
        self._serial += 1
        serial = self.directory / f"{self.name}.serial"
        serial.write_text(f"{self._serial:04x}\n")
        extensions = f"subjectAltName={san}" if san else ""
        usage = "serverAuth" if san else "clientAuth"
        config.write_text(
            "[ca]\ndefault_ca = this\n"
            f"[this]\ndatabase = {self.name}.index\n"
            f"serial = {self.name}.serial\nnew_certs_dir = .\n"
            "default_md = sha256\ndefault_days = 30\npolicy = any\n"
            "unique_subject = no\nx509_extensions = ext\n"
            "[any]\ncommonName = supplied\n"
            f"[ext]\nextendedKeyUsage = {usage}\n{extensions}\n"
        )
        self._run(
            "req", "-new", "-newkey", "ec", "-pkeyopt",
            "ec_paramgen_curve:prime256v1", "-nodes", "-subj",
            f"/CN={name}", "-keyout", str(key), "-out", str(request),
        )
        dates: List[str] = []
        if not_before:
            dates += ["-startdate", not_before]
        if not_after:
            dates += ["-enddate", not_after]
        self._run(
            "ca", "-batch", "-notext", "-config", str(config), "-cert",
            self.cert, "-keyfile", self._key, "-in", str(request), "-out",
            str(cert), *dates,
        )
        return Pair(str(cert), str(key))


class Certificates:
    """What most tests need, made once."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="mqttgw-tls-"))
        self.ca = Authority(self.directory / "ours")
        self.other_ca = Authority(self.directory / "theirs", "other")
        both = "DNS:localhost,IP:127.0.0.1"
        self.server = self.ca.issue("server", both)
        self.wrong_name = self.ca.issue("elsewhere", "DNS:elsewhere.test")
        self.expired = self.ca.issue(
            "expired", both, "20200101000000Z", "20200201000000Z"
        )
        self.future = self.ca.issue(
            "future", both, "20900101000000Z", "20910101000000Z"
        )
        self.client = self.ca.issue("client")
        self.foreign_client = self.other_ca.issue("foreign")

    def close(self) -> None:
        if "MQTTGW_KEEP" not in os.environ:
            shutil.rmtree(self.directory, ignore_errors=True)


def mosquitto_options(
    pair: Pair, ca: Optional[str] = None, tls_version: str = ""
) -> List[str]:
    """Lines that make mosquitto's listener speak TLS.

    With ``ca`` it takes clients with a certificate of that CA only.
    """
    lines = [f"certfile {pair.cert}", f"keyfile {pair.key}"]
    if ca:
        lines += [f"cafile {ca}", "require_certificate true"]
    if tls_version:
        lines.append(f"tls_version {tls_version}")
    return lines


class Peer:
    """Accepts on a loopback port and hands each socket to ``script``.

    The script runs in a thread of its own; the socket is closed when it
    returns. What it raises counts as a fault only if it is an assertion.
    """

    def __init__(self, script: Callable[[socket.socket], Any]) -> None:
        self.errors: List[AssertionError] = []
        self.accepted = 0
        self._script = script
        self._stopping = False
        self._listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._listener.bind((LOOPBACK, 0))
        self._listener.listen(16)
        self._listener.settimeout(0.1)
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopping:
            try:
                sock, _ = self._listener.accept()
            except socket.timeout:
                continue
            except OSError:
                return
            self.accepted += 1
            sock.settimeout(10.0 * TIME_FACTOR)
            try:
                self._script(sock)
            except AssertionError as error:
                self.errors.append(error)
            except OSError:
                pass
            finally:
                sock.close()

    def close(self) -> None:
        self._stopping = True
        self._listener.close()
        self._thread.join(30.0 * TIME_FACTOR)
        if self.errors:
            raise self.errors[0]


def server_context(pair: Pair) -> ssl.SSLContext:
    """Of a Python TLS server."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.cert, pair.key)
    return context


__all__ = [
    "Authority", "Certificates", "Pair", "Peer", "mosquitto_options",
    "server_context",
]
