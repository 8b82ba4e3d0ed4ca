"""``audit phi`` and ``audit verify`` as a person types them."""

from __future__ import annotations

from pathlib import Path

import pytest

from client import phi_audit
from client.phi_audit import Audit
from common.audit import FOLDER, LOG_FILE, open_log
from common.keys import key_fingerprint, make_key, public_text
from tests.support.mammo_client import (
    SETTINGS,
    client,
    command,
    make_hospital,
    write_settings,
)


def _audit_finds(
    monkeypatch: pytest.MonkeyPatch, *found: tuple[str, str]
) -> list[Path]:
    folders = []

    def audit(folder: Path, say: object) -> Audit:
        folders.append(folder)
        return Audit({"name": 3, "UID": 4}, 2, 5, 3, 9, found)

    monkeypatch.setattr(phi_audit, "audit", audit)
    return folders


def test_nothing_found_ends_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = _audit_finds(monkeypatch)
    hospital = make_hospital(tmp_path)
    code, said = client(hospital, "audit", "phi")
    assert code == 0 and "Found nowhere outside the original files" in said
    assert "7 places in 2 files. Searched: 5 files" in said
    assert not folders[0].exists() and not folders[0].is_relative_to(tmp_path)
    assert sorted(path.name for path in hospital.iterdir()) == ["archive", "site"]


def test_a_find_is_named_and_ends_badly(monkeypatch: pytest.MonkeyPatch) -> None:
    _audit_finds(monkeypatch, ("site/check.html", "name"))
    code, said = command("audit", "phi")
    assert code == 1 and "FOUND" in said and "name in site/check.html" in said


COORDINATOR = "coordinator: {address: 'x:1', certificates: ca.crt, key: ../north.key}\n"


def _audited(folder: Path) -> tuple[Path, Path]:
    """Let a site and a coordinator exchange one message; return both logs."""
    write_settings(folder, SETTINGS + COORDINATOR)
    logs = folder / "data" / "federation" / FOLDER, folder / "hub" / FOLDER
    message = {"site": "north", "run": "r", "kind": "train", "round": 1}
    asked, answered = message | {"did": "asked"}, message | {"did": "answered"}
    with (
        open_log(logs[0], make_key(folder / "north.key"), "site", "north") as site,
        open_log(logs[1], make_key(folder / "hub.key"), "coordinator", "hub") as hub,
    ):
        site.append(asked | {"head": hub.append(asked)})
        hub.append(answered | {"head": site.append(answered)})
    return logs[0] / LOG_FILE, logs[1] / LOG_FILE


def test_a_log_that_is_whole_ends_well(tmp_path: Path) -> None:
    _, hub = _audited(tmp_path)
    key = key_fingerprint(public_text(make_key(tmp_path / "north.key")))
    code, said = client(tmp_path, "audit", "verify")
    assert code == 0 and said.endswith("Nothing was changed.")
    assert f"3 lines of north, key {key}" in said
    code, said = client(tmp_path, "audit", "verify", "--peer", hub)
    assert code == 0 and "Compared: 2 messages. Nothing was changed." in said


def test_a_log_that_was_changed_ends_badly(tmp_path: Path) -> None:
    log, hub = _audited(tmp_path)
    content = log.read_bytes()
    log.write_bytes(content.replace(b'"round":1', b'"round":2', 1))
    code, said = client(tmp_path, "audit", "verify")
    assert code == 1 and "FOUND: Line 2 was changed" in said
    log.write_bytes(content[: content[:-1].rindex(b"\n") + 1])
    assert client(tmp_path, "audit", "verify")[0] == 0
    code, said = client(tmp_path, "audit", "verify", "--peer", hub)
    assert code == 1 and "not in the log of north" in said
    log.unlink()
    code, said = client(tmp_path, "audit", "verify")
    assert code == 1 and "There is no audit log" in said


def test_a_key_that_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    _audited(tmp_path)
    (tmp_path / "north.key").write_text("no key")
    code, said = client(tmp_path, "audit", "verify")
    assert code == 2 and "holds no key without passphrase" in said
