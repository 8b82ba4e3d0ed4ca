"""What is found out about the machine, and when it is a problem."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from client.preflight import machine

GB = 10**9


@pytest.mark.parametrize(
    ("free", "state"), [(1.1, "problem"), (1.3, "warning"), (2.5, "ok")]
)
def test_disk_has_to_hold_the_plan_and_the_logs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: float, state: str
) -> None:
    asked: list[Path] = []

    def usage(path: Path) -> Any:
        asked.append(path)
        return shutil._ntuple_diskusage(9 * GB, 9 * GB, int(free * GB))

    monkeypatch.setattr(machine.shutil, "disk_usage", usage)
    found = machine.disk(tmp_path / "not" / "there", GB)
    assert found.state == state and f"{free} GB are free" in found.said
    assert asked == [tmp_path]
    assert (str(tmp_path) in found.remedy) == (state != "ok")


@pytest.mark.parametrize(
    ("free", "peak", "state"),
    [
        (4 * GB, 5 * GB, "problem"),
        (6 * GB, 5 * GB, "warning"),
        (9 * GB, 5 * GB, "ok"),
        (9 * GB, 0, "unknown"),
        (None, 5 * GB, "unknown"),
    ],
)
def test_memory_has_to_hold_what_a_step_took(
    free: int | None, peak: int, state: str
) -> None:
    assert machine.memory(free, peak).state == state


@pytest.mark.parametrize(
    ("wanted", "cores", "idle", "state"),
    [
        (None, 4, 3.8, "ok"),
        (None, 4, 2.0, "warning"),
        (2, 4, 2.0, "ok"),
        (8, 4, 4.0, "warning"),
        (4, 4, None, "ok"),
    ],
)
def test_threads_are_compared_with_cores_that_are_idle(
    wanted: int | None, cores: int, idle: float | None, state: str
) -> None:
    assert machine.threads(wanted, cores, idle).state == state


def test_this_machine_has_idle_cores_and_memory_within_bounds() -> None:
    idle, memory = machine.idle_cores(), machine.free_memory()
    assert idle is None or 0.0 <= idle <= len(machine.cores())
    assert memory is None or 10**6 < memory < 10**14


def write_key(path: Path, key: Any) -> None:
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.OpenSSH,
            serialization.NoEncryption(),
        )
    )
    path.chmod(0o600)


def test_a_key_as_init_makes_it_is_well(tmp_path: Path) -> None:
    write_key(tmp_path / "key", ec.generate_private_key(ec.SECP384R1()))
    found = machine.key_file(tmp_path / "key")
    assert (found.state, found.said) == ("ok", "ECDSA on secp384r1, mode 0600")


def test_a_key_that_others_may_read_is_a_problem(tmp_path: Path) -> None:
    write_key(tmp_path / "key", ec.generate_private_key(ec.SECP384R1()))
    (tmp_path / "key").chmod(0o640)
    found = machine.key_file(tmp_path / "key")
    assert found.state == "problem" and "mode 0640" in found.said
    assert found.remedy == f"Type: chmod 600 {tmp_path / 'key'}"


@pytest.mark.parametrize("kind", ["absent", "another", "passphrase", "no key"])
def test_a_key_that_flower_does_not_take_is_a_problem(
    tmp_path: Path, kind: str
) -> None:
    file = tmp_path / "key"
    if kind == "another":
        write_key(file, ed25519.Ed25519PrivateKey.generate())
    elif kind == "passphrase":
        if shutil.which("ssh-keygen") is None:
            pytest.skip("ssh-keygen is not installed")
        words = ["ssh-keygen", "-q", "-t", "ecdsa", "-N", "secret", "-f", str(file)]
        subprocess.run(words, check=True, timeout=60)
    elif kind == "no key":
        file.write_text("no key")
        file.chmod(0o600)
    found = machine.key_file(file)
    assert found.state == "problem" and "init" in found.remedy
    told = {"absent": "there is no", "another": "no ECDSA key"}
    assert told.get(kind, "without passphrase") in found.said
