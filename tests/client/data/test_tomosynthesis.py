"""Tomosynthesis in the cache: as slab or slices, from one object or from many files."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from client.data import cache
from client.data.cache import prepare
from client.data.check import check_site
from client.data.dicom import read_picture
from client.data.manifest import read_manifest
from client.data.preprocessing import preprocess
from client.data.site_data import import_site, site_counts
from client.data.snapshot import NothingToPrepareError, Snapshot, open_snapshot
from common.plan import Preprocessing

SMALL = {"rows": 32, "columns": 16}
SLAB = Preprocessing(modalities=("DBT",), **SMALL)
SLICES = Preprocessing(modalities=("DBT",), tomosynthesis="slices", slices=3, **SMALL)
SECRET = b"0123456789abcdef"
J2K = "1.2.840.10008.1.2.4.90"


def _site(folder: Path, files: dict[str, bytes]) -> tuple[Path, Path]:
    """Write an archive and import it; returns the site's folder and the archive's."""
    root = folder / "archive"
    root.mkdir(parents=True)
    for name, content in files.items():
        (root / name).write_bytes(content)
    site = folder / "site"
    import_site("hospital", root, site, "s", {"dataset": "test"}, secret=SECRET)
    return site, root


def _as_files(dicom: ModuleType, frames: np.ndarray, name: str = "slice") -> dict:
    files = enumerate(dicom.slices(frames))
    return {f"{name}{number}": content for number, content in files}


def _all(snapshot: Snapshot) -> np.ndarray:
    return snapshot.read(np.arange(len(snapshot)))


def _cached(dicom: ModuleType, frame: np.ndarray, plan: Preprocessing) -> np.ndarray:
    return preprocess(read_picture(dicom.image(frame)).image, plan)[0]


def test_a_slab_is_the_maximum_of_all_slices(tmp_path: Path, dicom: ModuleType) -> None:
    frames = dicom.stack(7)
    site, root = _site(tmp_path, {"v": dicom.to_bytes(dicom.volume(frames))})
    snapshot = prepare(site, root, SLAB)
    expected = _cached(dicom, frames.max(axis=0), SLAB)
    np.testing.assert_array_equal(_all(snapshot), expected[None])
    assert list(snapshot.index["frame"]) == [0]


def test_slices_are_evenly_spaced_and_share_their_row(
    tmp_path: Path, dicom: ModuleType
) -> None:
    frames = dicom.stack(7)
    site, root = _site(tmp_path, {"v": dicom.to_bytes(dicom.volume(frames))})
    snapshot = prepare(site, root, SLICES)
    assert list(snapshot.index["frame"]) == [1, 3, 5]
    expected = np.stack([_cached(dicom, frames[at], SLICES) for at in (1, 3, 5)])
    np.testing.assert_array_equal(_all(snapshot), expected)
    assert snapshot.rows["row_id"].nunique() == 1 and len(snapshot.rows) == 3
    assert snapshot.rows["breast_key"].nunique() == 1
    assert site_counts(site) == {"ok": 1, "excluded": 0, "quarantined": 0}
    assert open_snapshot(site, SLICES).hash == snapshot.hash


@pytest.mark.parametrize("plan", [SLAB, SLICES], ids=lambda plan: plan.tomosynthesis)
def test_slices_in_files_of_their_own_give_the_same_images(
    tmp_path: Path, dicom: ModuleType, plan: Preprocessing
) -> None:
    frames = dicom.stack(7)
    one = _site(tmp_path / "one", {"v": dicom.to_bytes(dicom.volume(frames))})
    many = _site(tmp_path / "many", _as_files(dicom, frames))
    first, second = prepare(*one, plan), prepare(*many, plan)
    order = np.argsort(second.rows["slice_order"].to_numpy(dtype=int))
    np.testing.assert_array_equal(_all(first), _all(second)[order])
    assert set(second.rows["breast_key"]) == set(first.rows["breast_key"])
    assert site_counts(many[0])["ok"] == 7


def test_the_default_plan_leaves_tomosynthesis_alone(
    tmp_path: Path, dicom: ModuleType
) -> None:
    files = _as_files(dicom, dicom.stack(3))
    files["volume"] = dicom.to_bytes(dicom.volume(dicom.stack(4, seed=1)))
    site, root = _site(tmp_path / "without", files)
    with pytest.raises(NothingToPrepareError, match="4 DBT"):
        prepare(site, root, Preprocessing(**SMALL))
    site, root = _site(tmp_path / "with", files | {"mammogram": dicom.image()})
    snapshot = prepare(site, root, Preprocessing(**SMALL))
    assert list(snapshot.rows["modality_kind"]) == ["FFDM"]
    assert site_counts(site)["ok"] == 5


def test_number_of_workers_changes_no_byte(tmp_path: Path, dicom: ModuleType) -> None:
    files = {}
    for seed in range(30):
        uid = f"1.2.3.4.{seed + 1}"
        ds = dicom.volume(dicom.stack(4, seed=seed), SOPInstanceUID=uid)
        files[f"v{seed:02d}"] = dicom.to_bytes(ds)
    one, two = _site(tmp_path / "one", files), _site(tmp_path / "two", files)
    first, second = prepare(*one, SLICES), prepare(*two, SLICES, workers=2)
    assert len(first) == 90 and first.facts["slots"] > first.facts["chunk_size"]
    assert first.hash == second.hash
    np.testing.assert_array_equal(_all(first), _all(second))


def test_every_slice_counts_as_cached_or_quarantined(
    tmp_path: Path, dicom: ModuleType
) -> None:
    files = _as_files(dicom, dicom.stack(4)) | {"mammogram": dicom.image()}
    site, root = _site(tmp_path / "whole", files)
    check = check_site(site, root)
    expected = {"found": 5, "cached": 5, "excluded": 0, "quarantined": 0}
    assert check.counts == expected and len(check.images) == 2
    files["slice2"] = files["slice2"][:-1000]
    site, root = _site(tmp_path / "broken", files)
    check = check_site(site, root)
    expected = {"found": 5, "cached": 1, "excluded": 0, "quarantined": 4}
    assert check.counts == expected and len(check.images) == 1
    assert site_counts(site)["reason:Q_TRUNCATED"] == 4


def test_a_broken_frame_costs_its_slice_and_is_remarked(
    tmp_path: Path, dicom: ModuleType
) -> None:
    content = bytearray(dicom.encoded(dicom.volume(dicom.stack(7)), J2K))
    at = -1
    for _ in range(4):  # frame 3, the second of three slices
        at = content.index(b"\xff\x4f\xff\x51", at + 1)
    content[at + 4 : at + 60] = bytes(56)
    site, root = _site(tmp_path, {"volume": bytes(content)})
    snapshot = prepare(site, root, SLICES)
    assert list(snapshot.index["frame"]) == [1, 5]
    assert list(read_manifest(site)["reason"]) == ["W_SLICES"]
    with pytest.raises(NothingToPrepareError, match="1 Q_CODESTREAM"):
        prepare(site, root, SLAB)
    assert list(read_manifest(site)["status"]) == ["quarantined"]
    assert len(open_snapshot(site, SLICES)) == 2


def test_slices_of_different_size_are_no_volume(
    tmp_path: Path, dicom: ModuleType
) -> None:
    files = _as_files(dicom, dicom.stack(2))
    files["other"] = dicom.slices(dicom.stack(1, 80, 48), InstanceNumber=3)[0]
    site, root = _site(tmp_path, files)
    with pytest.raises(NothingToPrepareError, match="1 Q_FRAMES"):
        prepare(site, root, SLAB)
    assert site_counts(site)["reason:Q_FRAMES"] == 3


def test_crash_in_one_slice_costs_its_volume_only(
    tmp_path: Path, dicom: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = """
import os, signal
from client.data import prepare_worker as real
from client.data.workers import serve

read = real._read

def crashing(file, *others):
    if file["path"].endswith("slice1"):
        os.kill(os.getpid(), signal.SIGSEGV)
    return read(file, *others)

real._read = crashing
serve(real.prepare_block)
"""
    (tmp_path / "crashing_slice.py").write_text(worker)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(cache, "_WORKER", "crashing_slice")
    files = _as_files(dicom, dicom.stack(3))
    files["volume"] = dicom.to_bytes(dicom.volume(dicom.stack(3, seed=1)))
    site, root = _site(tmp_path, files)
    assert len(prepare(site, root, SLAB)) == 1
    counts = site_counts(site)
    assert (counts["ok"], counts["reason:Q_CRASH"]) == (1, 3)
