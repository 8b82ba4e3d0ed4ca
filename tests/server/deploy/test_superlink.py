"""The SuperLink as we start it: what it is told, and that it does not die unseen."""

from __future__ import annotations

import os
import sqlite3
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from common.atomic import write_atomic
from server.deploy import superlink
from server.deploy.certificates import create
from simulations.consortium import free_port
from tests.server.deploy import running
from tests.server.deploy.running import PATIENCE, TOMORROW


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the words that Flower's own command finds."""
    found: list[str] = []
    monkeypatch.setattr(superlink, "_serve", lambda: found.extend(sys.argv))
    monkeypatch.setattr(sys, "argv", ["superlink"])
    monkeypatch.setattr(os, "environ", {"PATH": "/usr/bin"})
    return found


def test_it_is_flowers_on_loopback_with_tls_and_registered_keys(
    tmp_path: Path, told: list[str]
) -> None:
    tls = create(tmp_path / "tls", ["localhost"], TOMORROW)
    words = superlink.superlink_command(tls, tmp_path / "superlink.db")[3:]
    done = CliRunner().invoke(superlink.app, words)
    assert done.exit_code == 0, done.output
    assert told[told.index("--host") + 1] == "127.0.0.1"
    assert told[told.index("--ssl-keyfile") + 1] == str(tls.key)
    assert told[told.index("--database") + 1] == str(tmp_path / "superlink.db")
    assert "--enable-supernode-auth" in told
    assert "--disable-runtime-dependency-installation" in told
    assert "--insecure" not in told
    assert os.environ["FLWR_TELEMETRY_ENABLED"] == "0"
    assert os.environ["PATH"].split(":")[0] == str(Path(sys.executable).parent)


def test_missing_certificates_are_told(tmp_path: Path, told: list[str]) -> None:
    done = CliRunner().invoke(superlink.app, ["--cert", str(tmp_path / "none.crt")])
    assert done.exit_code == 2 and not told
    assert "none.crt" in done.stderr and "certificates create" in done.stderr


def test_it_ends_with_the_helper_that_starts_runs(tmp_path: Path) -> None:
    tls = create(tmp_path / "tls", ["localhost", "127.0.0.1"], TOMORROW)
    with running.superlink(tmp_path, tls, free_port()) as process:
        _helper(process.process.pid).kill()
        process.process.wait(PATIENCE)
        assert "SuperExec has ended" in process.said()


def test_who_writes_while_the_database_is_locked_waits(tmp_path: Path) -> None:
    """Flower's own patience, 5 s, is over before the lock is, and it answers 500."""
    tls = create(tmp_path / "tls", ["localhost", "127.0.0.1"], TOMORROW)
    port, home = free_port(), tmp_path / "coordinator"
    running.key_pair(tmp_path, "north")
    with (
        running.superlink(tmp_path, tls, port) as process,
        sqlite3.connect(
            tmp_path / "superlink.db", timeout=30, isolation_level=None
        ) as held,
        ThreadPoolExecutor() as beside,
    ):
        helper = _helper(process.process.pid)
        write_atomic(
            home / "config.toml",
            f'[superlink.here]\naddress = "127.0.0.1:{port}"\n'
            f'root-certificates = "{tls.authority}"\n'.encode(),
        )
        held.execute("BEGIN EXCLUSIVE")
        words = "supernode", "register", str(tmp_path / "north.pub"), "here"
        registered = beside.submit(running.flwr, home, *words, "--name", "north")
        time.sleep(10)
        held.execute("ROLLBACK")
        assert "success" in registered.result().lower()
        assert helper.status() != psutil.STATUS_ZOMBIE
        assert " 500" not in process.said()


def _helper(pid: int) -> psutil.Process:
    """Find the SuperExec of a SuperLink; it may not be started yet."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        for child in psutil.Process(pid).children():
            if any("flower-superexec" in word for word in child.cmdline()):
                return child
        time.sleep(0.2)
    raise AssertionError("no SuperExec")
