"""Real processes of a consortium on loopback, and bytes as no client sends them."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.client import HTTPResponse
from pathlib import Path

import psutil
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from common.atomic import write_atomic
from server.deploy.certificates import TlsFiles
from server.deploy.superlink import flower_environment, superlink_command

PATIENCE = 60.0
"""Seconds for anything that is sure to come; a machine may be busy."""

TOMORROW = datetime.now(UTC) + timedelta(days=1)
YESTERDAY = datetime.now(UTC) - timedelta(days=1)


class Running:
    """A process of ours, and what it has said."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process, self.log = process, log

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_for(self, words: str) -> str:
        """Wait until it has said these words, and return the line."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            over = self.process.poll() is not None
            for line in self.said().splitlines():
                if words in line:
                    return line
            assert not over, f"ended without {words!r}:\n{self.said()}"
            time.sleep(0.05)
        raise AssertionError(f"never said {words!r}:\n{self.said()}")


@contextmanager
def running(
    command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[Running]:
    """Run a command; at the end nothing of it is left, children of children neither."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            command,
            env={**os.environ, **(environment or {})},
            stdout=out,
            stderr=subprocess.STDOUT,
            cwd=log.parent,
        )
    family = psutil.Process(process.pid)
    try:
        yield Running(process, log)
    finally:
        children = family.children(recursive=True) if process.poll() is None else []
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(5)
        for child in children:
            if child.is_running():
                child.kill()


@contextmanager
def superlink(folder: Path, tls: TlsFiles, port: int) -> Iterator[Running]:
    """Run a SuperLink as the unit file does; it is ready."""
    command = superlink_command(tls, folder / "superlink.db", port)
    environment = flower_environment(folder / "coordinator")
    with running(command, folder / "superlink.log", environment) as process:
        process.wait_for("Uvicorn running on")
        yield process


@contextmanager
def proxy(folder: Path, tls: TlsFiles, superlink_port: int) -> Iterator[int]:
    """Run our door on a free port, and give the port."""
    command = [
        *(sys.executable, "-m", "server.deploy.proxy"),
        *("--listen", "127.0.0.1:0"),
        *("--upstream", f"https://127.0.0.1:{superlink_port}"),
        *("--cert", str(tls.certificate), "--key", str(tls.key)),
        *("--upstream-ca", str(tls.authority)),
    ]
    surroundings = {
        "PYTHONPATH": str(Path(__file__).parents[3]),
        "HTTPS_PROXY": "http://127.0.0.1:9",  # nobody is there: it must not be asked
        "NO_PROXY": "",
        "no_proxy": "",
    }
    log = folder / f"proxy-{superlink_port}.log"
    with running(command, log, surroundings) as process:
        line = process.wait_for("are passed on to")
        yield int(line.split(" are ")[0].rpartition(":")[2])


def key_pair(folder: Path, name: str) -> ec.EllipticCurvePrivateKey:
    """Make a node's key; write ``NAME.key`` and ``NAME.pub`` as Flower wants them."""
    key = ec.generate_private_key(ec.SECP384R1())
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    write_atomic(folder / f"{name}.key", private, 0o600)
    write_atomic(folder / f"{name}.pub", public)
    return key


def supernode(key: Path, ca: Path, door: int) -> list[str]:
    """List the words that start a node."""
    return [
        str(Path(sys.executable).parent / "flower-supernode"),
        *("--superlink", f"127.0.0.1:{door}"),
        *("--root-certificates", str(ca)),
        *("--auth-supernode-private-key", str(key)),
        *("--port", str(free_port())),
    ]


def flwr(home: Path, *words: str) -> str:
    """Run Flower's command line as the coordinator does, and return what it printed."""
    done = subprocess.run(
        [str(Path(sys.executable).parent / "flwr"), *words],
        env={**os.environ, **flower_environment(home)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def free_port() -> int:
    """Find a port of loopback that nobody uses."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def trusting(ca: Path) -> ssl.SSLContext:
    """Verify servers as a node does."""
    return ssl.create_default_context(cafile=str(ca))


def raw(port: int, ca: Path, *parts: bytes) -> tuple[int, bytes]:
    """Send bytes over TLS as they are; return status and body of the answer."""
    with (
        socket.create_connection(("127.0.0.1", port), PATIENCE) as plain,
        trusting(ca).wrap_socket(plain, server_hostname="127.0.0.1") as encrypted,
    ):
        for part in parts:
            encrypted.sendall(part)
        with HTTPResponse(encrypted) as response:
            response.begin()
            return response.status, response.read()


def request(line: str, *headers: str, length: int | None = 0) -> bytes:
    """Write a request's head, to the letter."""
    lines = [line, "Host: 127.0.0.1", "Content-Type: application/protobuf"]
    size = [] if length is None else [f"Content-Length: {length}"]
    return "\r\n".join([*lines, *headers, *size, "", ""]).encode("latin-1")
