"""What a person types to open the door, and what they are told about mistakes."""

from __future__ import annotations

import socket
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
import uvicorn
from typer.testing import CliRunner

from server.deploy import proxy
from server.deploy.certificates import TlsFiles, create
from tests.server.deploy.running import TOMORROW, YESTERDAY


def door(tls: TlsFiles, **changed: object) -> tuple[int, str]:
    """Type the command; a door that opens is closed at once."""
    options = {
        "listen": "127.0.0.1:0",
        "cert": tls.certificate,
        "key": tls.key,
        "upstream-ca": tls.authority,
        **changed,
    }
    words = [
        str(word) for pair in options.items() for word in (f"--{pair[0]}", pair[1])
    ]
    result = CliRunner().invoke(proxy.app, words)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, " ".join(result.output.split())


@pytest.fixture
def tls(tmp_path: Path) -> TlsFiles:
    return create(tmp_path / "tls", [], TOMORROW)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[uvicorn.Config]:
    """Servers that would have been run."""
    configs: list[uvicorn.Config] = []

    async def serve(self: uvicorn.Server, sockets: list[socket.socket]) -> None:
        configs.append(self.config)
        for one in sockets:
            one.close()

    monkeypatch.setattr(uvicorn.Server, "serve", serve)
    return configs


def test_it_says_where_it_listens_and_what_it_guards(
    tls: TlsFiles, served: list[uvicorn.Config]
) -> None:
    code, said = door(tls)
    assert code == 0
    assert "Fleet requests to 127.0.0.1:" in said
    assert "are passed on to https://127.0.0.1:8000" in said
    assert len(served) == 1


def test_targets_stay_as_sent_and_nothing_else_is_spoken(
    tls: TlsFiles, served: list[uvicorn.Config]
) -> None:
    door(tls)
    config = served[0]
    assert (config.http, config.ws, config.proxy_headers) == ("h11", "none", False)
    assert not config.access_log
    assert config.timeout_keep_alive > httpx.Limits().keepalive_expiry  # a node's


Mistake = Callable[[TlsFiles, Path], dict[str, object]]
MISTAKES: dict[str, tuple[Mistake, str]] = {
    "no certificate": (
        lambda tls, folder: {"cert": folder / "none.crt"},
        "Cannot read the certificate",
    ),
    "a key as certificate": (
        lambda tls, folder: {"cert": tls.key},
        "holds no certificate in PEM form",
    ),
    "no key": (
        lambda tls, folder: {"key": folder / "none.key"},
        "No such file or directory. Both are written by one command",
    ),
    "another key": (
        lambda tls, folder: {"key": create(folder / "other", [], TOMORROW).key},
        "cannot be used as the key of",
    ),
    "an expired certificate": (
        lambda tls, folder: expired(folder),
        f"ended on {YESTERDAY.date()}. Nodes that meet it stay deaf",
    ),
    "no authority": (
        lambda tls, folder: {"upstream-ca": folder / "none.crt"},
        "Cannot read the certificate",
    ),
    "plain HTTP upstream": (
        lambda tls, folder: {"upstream": "http://127.0.0.1:8000"},
        "give https://, host and port of the SuperLink",
    ),
    "an upstream path": (
        lambda tls, folder: {"upstream": "https://127.0.0.1:8000/v1/control"},
        "give https://, host and port of the SuperLink",
    ),
    "no URL": (
        lambda tls, folder: {"upstream": "https://[::1"},
        "give https://, host and port of the SuperLink",
    ),
    "no port": (
        lambda tls, folder: {"listen": "0.0.0.0"},
        "give address and port: 0.0.0.0:443",
    ),
    "a port too high": (
        lambda tls, folder: {"listen": "0.0.0.0:70000"},
        "give address and port: 0.0.0.0:443",
    ),
}


def expired(folder: Path) -> dict[str, object]:
    tls = create(folder / "old", [], YESTERDAY)
    return {"cert": tls.certificate, "key": tls.key, "upstream-ca": tls.authority}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_in_a_sentence(
    name: str, tls: TlsFiles, tmp_path: Path, served: list[uvicorn.Config]
) -> None:
    mistake, sentence = MISTAKES[name]
    code, said = door(tls, **mistake(tls, tmp_path))
    assert code == 2
    assert sentence in said
    assert "Traceback" not in said
    assert not served


def test_a_port_in_use_is_told(tls: TlsFiles, served: list[uvicorn.Config]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        code, said = door(tls, listen=where)
    assert code == 2
    assert f"Cannot listen on {where}: Address already in use" in said
    assert not served


def test_the_last_month_of_a_certificate_is_told(
    tmp_path: Path, served: list[uvicorn.Config], caplog: pytest.LogCaptureFixture
) -> None:
    for days, told in ((29, True), (31, False)):
        caplog.clear()
        end = datetime.now(UTC) + timedelta(days=days)
        door(create(tmp_path / str(days), [], end))
        assert (f"ends on {end.date()}. Renew it" in caplog.text) == told


def test_help_shows_a_command_to_type() -> None:
    said = CliRunner().invoke(proxy.app, ["--help"]).output
    assert "python -m server.deploy.proxy --listen 0.0.0.0:443" in said
