"""``audit phi`` as a person types it; what it does, `client.phi_audit` is asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from client import phi_audit
from client.phi_audit import Audit
from tests.support.mammo_client import client, command, make_hospital


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
