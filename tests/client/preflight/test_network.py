"""Each way in which the way to the coordinator may be barred, on loopback."""

from __future__ import annotations

import socket
import ssl
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from client.preflight.finding import Finding
from client.preflight.network import clock, network
from client.site import Coordinator
from server.deploy.certificates import TlsFiles, create
from tests.server.deploy.running import TOMORROW, YESTERDAY, free_port

WELL = {"proxy": "ok", "DNS": "ok", "certificate": "warning"} | dict.fromkeys(
    ("coordinator", "clock"), "ok"
)


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> TlsFiles:
    """A certificate that ends tomorrow, which is a warning."""
    return create(tmp_path_factory.mktemp("tls"), [], TOMORROW)


@contextmanager
def door(
    tls: TlsFiles | None,
    status: int = 401,
    date: float | None = 0.0,
    host: str = "127.0.0.1",
) -> Iterator[int]:
    """Answer with a status and a date so many seconds from now; None = without one."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response_only(status)
            if date is not None:
                self.send_header("Date", formatdate(time.time() + date, usegmt=True))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer((host, 0), Handler)
    if tls is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(tls.certificate, tls.key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


def look(address: str, authority: Path) -> dict[str, Finding]:
    found = list(network(Coordinator(address, authority, Path("key"))))
    assert [one.name for one in found] == list(WELL)
    for one in found:
        assert one.remedy or one.state in ("ok", "unknown")
    return {one.name: one for one in found}


def states(found: dict[str, Finding]) -> dict[str, str]:
    return {name: one.state for name, one in found.items()}


def test_a_free_way(tls: TlsFiles) -> None:
    with door(tls) as port:
        found = look(f"localhost:{port}", tls.authority)
    assert states(found) == WELL
    assert found["certificate"].said.endswith("for localhost, days left: 1")
    assert "127.0.0.1" in found["DNS"].said


@pytest.mark.parametrize(
    ("ahead", "state", "said"),
    [
        (None, "unknown", "no time"),
        (0.0, "ok", "0 s behind"),
        (4.0, "warning", "4 s ahead of the coordinator's"),
        (6.0, "problem", "6 s ahead of"),
        (-60.0, "warning", "1 min 0 s behind"),
        (-304.0, "warning", "5 min 4 s behind"),
        (-306.0, "problem", "5 min 6 s behind"),
    ],
)
def test_the_clock_may_be_late_but_hardly_early(
    ahead: float | None, state: str, said: str
) -> None:
    """Signatures are accepted from 5 s ahead to 305 s behind (flwr 1.41)."""
    found = clock(ahead)
    assert found.state == state and said in found.said


def test_the_clock_is_compared_with_the_answers(tls: TlsFiles) -> None:
    with door(tls, date=-3600.0) as port:
        found = look(f"127.0.0.1:{port}", tls.authority)["clock"]
    assert found.state == "problem" and found.said.startswith("1 h 0 min ahead of")


def test_a_time_that_cannot_be_read_is_none(
    tls: TlsFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    with door(tls) as port:
        monkeypatch.setattr(sys.modules[__name__], "formatdate", lambda *_, **__: "-")
        found = look(f"127.0.0.1:{port}", tls.authority)
    assert found["clock"].state == "unknown" and found["coordinator"].state == "ok"


def test_an_answer_without_a_time_leaves_the_clock_unknown(tls: TlsFiles) -> None:
    with door(tls, status=503, date=None) as port:
        found = look(f"127.0.0.1:{port}", tls.authority)
    assert found["clock"].state == "unknown"
    assert found["coordinator"].state == "problem"
    assert "what is behind does not" in found["coordinator"].said


def test_another_server_is_no_coordinator(tls: TlsFiles) -> None:
    with door(tls, status=404) as port:
        found = look(f"127.0.0.1:{port}", tls.authority)["coordinator"]
    assert found.state == "problem" and "is none (status 404)" in found.said


def silent(found: dict[str, Finding], name: str, said: str) -> None:
    """Assert that the way ended at one step, and nothing is claimed about the rest."""
    rest = states(found)
    assert rest.pop(name) == "problem"
    assert said in found[name].said
    assert set(rest.values()) == {"ok", "unknown"}
    assert rest["clock"] == "unknown"


def test_a_certificate_of_another_authority(tls: TlsFiles, tmp_path: Path) -> None:
    other = create(tmp_path / "other", [], TOMORROW)
    with door(tls) as port:
        found = look(f"127.0.0.1:{port}", other.authority)
    silent(found, "certificate", "not of the authority in")
    assert "reads along" in found["certificate"].remedy


def test_a_certificate_that_has_expired(tmp_path: Path) -> None:
    old = create(tmp_path / "old", [], YESTERDAY)
    with door(old) as port:
        found = look(f"127.0.0.1:{port}", old.authority)
    silent(found, "certificate", "has expired")


def test_a_certificate_for_another_address(tls: TlsFiles) -> None:
    with door(tls, host="127.0.0.2") as port:
        found = look(f"127.0.0.2:{port}", tls.authority)
    silent(found, "certificate", "it is not for 127.0.0.2")


def test_plain_http_where_tls_should_be(tls: TlsFiles) -> None:
    with door(None) as port:
        found = look(f"127.0.0.1:{port}", tls.authority)
    silent(found, "certificate", "does not speak TLS")


@pytest.mark.parametrize("content", [None, "no certificate", "é"])
def test_a_missing_or_unreadable_authority(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "ca.crt"
    if content:
        file.write_text(content)
    found = look(f"127.0.0.1:{free_port()}", file)
    silent(found, "certificate", "holds no certificate of an authority")


def test_nobody_listens(tls: TlsFiles) -> None:
    found = look(f"127.0.0.1:{free_port()}", tls.authority)
    silent(found, "coordinator", "nobody listens there")


def test_a_name_that_is_not_found(
    tls: TlsFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nobody(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", nobody)
    found = look("fl.example.org:8443", tls.authority)
    assert found["DNS"].state == "problem"
    assert found["DNS"].said == "fl.example.org is not found"
    assert found["coordinator"].said == "its name is not found"


def test_a_proxy_of_the_environment_is_told_without_its_password(
    tls: TlsFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://me:secret@127.0.0.1:{free_port()}")
    found = look("fl.example.org:8443", tls.authority)
    assert found["proxy"].state == "warning"
    assert "HTTPS_PROXY" in found["proxy"].said
    assert found["DNS"].state == "unknown"  # the proxy looks it up
    assert found["coordinator"].state == "problem"
    assert "secret" not in repr(found)
    monkeypatch.setenv("NO_PROXY", "localhost,example.org")
    with door(tls) as port:
        monkeypatch.setenv("NO_PROXY", "localhost")
        assert states(look(f"localhost:{port}", tls.authority)) == WELL


@pytest.mark.parametrize("address", ["socks9://127.0.0.1:1", "http://[::1"])
def test_a_proxy_that_cannot_be_used_is_no_traceback(
    tls: TlsFiles, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", address)
    assert look("127.0.0.1:1", tls.authority)["coordinator"].state == "problem"


def test_the_coordinator_is_verified_through_a_proxy(
    tls: TlsFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    with door(tls) as port, forwarding() as (through, asked):
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{through}")
        found = look(f"localhost:{port}", tls.authority)
    assert asked == [f"CONNECT localhost:{port} HTTP/1.1"]
    expected = WELL | {"proxy": "warning", "DNS": "unknown"}
    assert states(found) == expected
    assert found["certificate"].said.endswith("days left: 1")


@contextmanager
def forwarding() -> Iterator[tuple[int, list[str]]]:
    """Run a proxy as hospitals have it, for one connection."""
    asked: list[str] = []

    def serve(listener: socket.socket) -> None:
        inside, _ = listener.accept()
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += inside.recv(1)
        asked.append(head.split(b"\r\n")[0].decode())
        port = int(asked[0].split()[1].rpartition(":")[2])
        outside = socket.create_connection(("127.0.0.1", port))
        inside.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        back = threading.Thread(target=pump, args=(outside, inside), daemon=True)
        back.start()
        pump(inside, outside)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        yield listener.getsockname()[1], asked


def pump(source: socket.socket, target: socket.socket) -> None:
    try:
        while part := source.recv(65536):
            target.sendall(part)
    except OSError:
        pass
