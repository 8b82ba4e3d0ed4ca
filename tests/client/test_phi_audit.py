"""The audit finds nothing in our code, and everything in code that leaks."""

from __future__ import annotations

import base64
import hashlib
import logging
import warnings
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from client import phi_audit
from client.data import dicom_header
from client.data.canary import STEMS
from client.data.importers import archive
from client.phi_audit import audit


def test_no_canary_is_found_anywhere(tmp_path: Path) -> None:
    steps: list[str] = []
    result = audit(tmp_path, steps.append)
    assert result.found == ()
    assert set(result.places) == set(STEMS)
    assert result.planted > 80 and result.messages == 4 and result.said >= 7
    site, state = tmp_path / "site", tmp_path / "state"
    for name in ("manifest.parquet", "check.html", "check.json", "summary.json"):
        assert (site / name).is_file()
    assert len(list(site.glob("cache/*/images.u16"))) == 2
    assert len(list((state / "egress").iterdir())) == 2 * result.messages
    assert list(state.rglob("model.safetensors")) and list(state.rglob("*.parquet"))
    assert "Searching" in steps


def test_whatever_leaks_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load, write_check = archive.load, phi_audit.write_check
    take_part = phi_audit.SiteSession.answer
    patient = f"{STEMS['patient']}003".encode()

    def gossiping(root: Path, path: Path) -> Any:
        logging.getLogger("client").debug("reading %s", path)
        warnings.warn(f"bad value {STEMS['name']}", stacklevel=1)
        print(STEMS["study date"])
        return load(root, path)

    def careless(site: Path, *arguments: Any) -> Path:
        page = write_check(site, *arguments)
        digest = hashlib.sha256(patient).hexdigest()
        (site / "note.txt").write_text(f"patient {digest}")
        uid = f"{STEMS['UID']}1000".encode()
        (site / "uid.txt").write_bytes(b"ab" + base64.b64encode(b"x" + uid))
        (site / STEMS["private block"]).mkdir()
        return page

    def talkative(session: Any, request: Any) -> Any:
        reply = take_part(session, request)
        return replace(reply, fields={**reply.fields, "site": patient.decode()})

    monkeypatch.setattr(dicom_header, "quiet", nullcontext)  # pydicom quotes values
    monkeypatch.setattr(archive, "load", gossiping)
    monkeypatch.setattr(phi_audit, "write_check", careless)
    monkeypatch.setattr(phi_audit.SiteSession, "answer", talkative)
    pages = [
        f"{number:04d}-{kind}.{ending}"
        for number, kind in enumerate(("handshake", "train", "close"), start=1)
        for ending in ("json", "txt")
    ]
    assert set(audit(tmp_path).found) == {
        ("log", "file name"),
        ("log", "folder name"),
        ("log", "kept element"),
        ("message 1", "patient"),
        ("message 2", "patient"),
        ("message 3", "patient"),
        ("output of import", "study date"),
        ("site/note.txt", "patient"),
        ("site/uid.txt", "UID"),
        *{(f"state/egress/{page}", "patient") for page in pages},
        (f"site/{STEMS['private block']}", "private block"),
        ("warning", "kept element"),
        ("warning", "name"),
    }
