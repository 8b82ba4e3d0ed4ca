"""The cache: right pixels, same bytes always, nothing trusted that does not match."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest

from client.data import cache
from client.data.cache import CacheError, open_snapshot, prepare
from client.data.dicom import read_picture
from client.data.manifest import read_linkage, read_manifest, write_manifest
from client.data.preprocessing import preprocess
from client.data.site_data import import_site, site_counts
from client.data.snapshot import cache_folder
from common.lock import FolderBusyError
from common.plan import Preprocessing

Archive = Callable[[int], Path]
SECRET = b"0123456789abcdef"


def _site(tmp_path: Path, archive: Path, name: str = "site") -> Path:
    folder = tmp_path / name
    import_site("hospital", archive, folder, "s", {"dataset": "test"}, secret=SECRET)
    return folder


def _bytes(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


@pytest.fixture(scope="module")
def prepared(
    tmp_path_factory: pytest.TempPathFactory, dicom: ModuleType
) -> tuple[Path, Path]:
    """A site of 70 images, prepared as 32 x 16; and the images' archive."""
    folder = tmp_path_factory.mktemp("prepared")
    root = folder / "archive"
    root.mkdir()
    for number in range(70):
        content = dicom.image(dicom.phantom(seed=number), PatientID=f"P{number}")
        (root / f"image{number}").write_bytes(content)
    site = _site(folder, root)
    prepare(site, root, Preprocessing(rows=32, columns=16))
    return site, root


@pytest.fixture
def site(prepared: tuple[Path, Path], tmp_path: Path) -> Path:
    """A copy of the prepared site that a test may damage."""
    return Path(shutil.copytree(prepared[0], tmp_path / "copy"))


def test_cached_images_are_the_preprocessed_files_in_row_order(
    tmp_path: Path, archive: Archive, small: Preprocessing
) -> None:
    root = archive(70)
    site = _site(tmp_path, root)
    progress: list[tuple[int, int]] = []
    snapshot = prepare(
        site, root, small, progress=lambda done, total: progress.append((done, total))
    )
    assert progress == [(0, 70), (64, 70), (70, 70)]
    assert len(snapshot) == 70 and list(snapshot.rows["row_id"]) == sorted(
        snapshot.rows["row_id"]
    )
    linkage = read_linkage(site).set_index("row_id")
    chosen = np.array([69, 3, 3], dtype=np.int64)
    images = snapshot.read(chosen)
    assert images.dtype == np.uint16 and images.shape == (3, 32, 16)
    for image, position in zip(images, chosen, strict=True):
        path = linkage.loc[snapshot.rows["row_id"][position], "source_path"]
        picture = read_picture((root / path).read_bytes())
        expected, geometry = preprocess(picture.image, small)
        np.testing.assert_array_equal(image, expected)
        entry = snapshot.index.iloc[position]
        assert entry["column1"] == geometry.column1 and entry["decoder"] == "pydicom"
        assert (entry["row_spacing_mm"], entry["column_spacing_mm"]) == (0.07, 0.08)


def test_number_of_workers_changes_no_byte(
    tmp_path: Path, archive: Archive, small: Preprocessing
) -> None:
    root = archive(130)
    one, three = _site(tmp_path, root, "one"), _site(tmp_path, root, "three")
    first = prepare(one, root, small, workers=1)
    second = prepare(three, root, small, workers=3)
    assert first.hash == second.hash
    inside, outside = _bytes(one), _bytes(three)
    assert inside.keys() == outside.keys()
    assert {name for name in inside if inside[name] != outside[name]} == set()


def test_complete_cache_is_opened_without_any_work(
    site: Path, tmp_path: Path, small: Preprocessing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "run_tasks", None)
    again = prepare(site, tmp_path / "archive is gone", small)
    assert again.hash == open_snapshot(site, small).hash


_KILLED = """
import os, signal, sys
from pathlib import Path
from client.data.cache import prepare
from common.lock import FolderBusyError
from common.plan import Preprocessing

def stop(done, total):
    if done >= 64:
        os.kill(os.getpid(), signal.SIGKILL)

site, archive = map(Path, sys.argv[1:])
prepare(site, archive, Preprocessing(rows=32, columns=16), workers=2, progress=stop)
"""


def test_killed_preparation_resumes_to_the_same_bytes(
    tmp_path: Path, archive: Archive, small: Preprocessing
) -> None:
    root = archive(200)
    whole, killed = _site(tmp_path, root, "whole"), _site(tmp_path, root, "killed")
    prepare(whole, root, small)
    run = subprocess.run(
        [sys.executable, "-c", _KILLED, str(killed), str(root)],
        env=os.environ | {"PYTHONPATH": str(Path(cache.__file__).parents[2])},
        check=False,
    )
    assert run.returncode == -9
    with pytest.raises(CacheError, match="Run prepare"):
        open_snapshot(killed, small)
    unfinished = cache_folder(killed, small) / "unfinished"
    assert 1 <= len(list(unfinished.glob("0*.json"))) < 4
    resumed: list[int] = []
    prepare(killed, root, small, progress=lambda done, total: resumed.append(done))
    assert resumed[0] >= 64
    assert _bytes(killed) == _bytes(whole)


def test_interruptions_while_finishing_resume_to_the_same_bytes(
    tmp_path: Path,
    archive: Archive,
    small: Preprocessing,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root = archive(5)
    (root / "image0001").write_bytes((root / "image0001").read_bytes()[:-1000])
    whole, broken = _site(tmp_path, root, "whole"), _site(tmp_path, root, "broken")
    prepare(whole, root, small)
    for step in ("_fill", "_update_manifest", "_index", "_link"):
        real = getattr(cache, step)

        def interrupted(*arguments: Any, real: Any = real) -> None:
            real(*arguments)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(cache, step, interrupted)
            prepare(broken, root, small)
    prepare(broken, root, small)
    assert _bytes(broken) == _bytes(whole)


def test_finished_chunk_whose_bytes_changed_is_made_again(
    tmp_path: Path,
    archive: Archive,
    small: Preprocessing,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root = archive(5)
    site = _site(tmp_path, root)
    with monkeypatch.context() as patch, pytest.raises(TypeError):
        patch.setattr(cache, "_finish", None)
        prepare(site, root, small)
    images = cache_folder(site, small) / "unfinished" / "images.u16"
    content = images.read_bytes()
    images.write_bytes(bytes(100) + content[100:])
    snapshot = prepare(site, root, small)
    assert (snapshot.folder / "images.u16").read_bytes() == content


def test_broken_files_are_quarantined_and_counts_add_up(
    tmp_path: Path, archive: Archive, small: Preprocessing, dicom: ModuleType
) -> None:
    root = archive(4)
    (root / "image0001").write_bytes((root / "image0001").read_bytes()[:-1000])
    (root / "image0002").write_bytes(b"")
    (root / "huge").write_bytes(dicom.image(Rows=60000, Columns=60000))
    site = _site(tmp_path, root)
    changed = root / "image0003"
    changed.write_bytes(changed.read_bytes() + b"\0\0")
    snapshot = prepare(site, root, small)
    assert len(snapshot) == 1
    assert site_counts(site) == {
        "ok": 1,
        "excluded": 0,
        "quarantined": 4,
        "reason:Q_CHANGED": 1,
        "reason:Q_EMPTY": 1,
        "reason:Q_TOO_LARGE": 1,
        "reason:Q_TRUNCATED": 1,
    }
    stages = dict(
        zip(read_manifest(site)["reason"], read_linkage(site)["stage"], strict=True)
    )
    assert stages["Q_TRUNCATED"] == "prepare:decode"
    assert stages["Q_EMPTY"] == "import:read"


def test_crash_of_a_decoder_costs_one_file(
    tmp_path: Path,
    archive: Archive,
    small: Preprocessing,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    worker = """
import os, signal
from client.data import prepare_worker as real
from client.data.workers import serve

read = real._read

def crashing(file, *others):
    if file["path"].endswith("image0001"):
        os.kill(os.getpid(), signal.SIGSEGV)
    return read(file, *others)

real._read = crashing
serve(real.prepare_block)
"""
    (tmp_path / "crashing_worker.py").write_text(worker)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(cache, "_WORKER", "crashing_worker")
    root = archive(4)
    site = _site(tmp_path, root)
    assert len(prepare(site, root, small)) == 3
    assert site_counts(site)["reason:Q_CRASH"] == 1


def test_two_sizes_come_from_one_decoding_and_are_those_made_alone(
    tmp_path: Path,
    archive: Archive,
    small: Preprocessing,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reads = tmp_path / "reads"
    worker = f"""
from pathlib import Path
from client.data import prepare_worker as real
from client.data.workers import serve
read = real._read

def counting(*arguments):
    with Path({str(reads)!r}).open("a") as stream:
        stream.write(".")
    return read(*arguments)

real._read = counting
serve(real.prepare_block)
"""
    (tmp_path / "counting_worker.py").write_text(worker)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(cache, "_WORKER", "counting_worker")
    root = archive(70)
    (root / "image0003").write_bytes((root / "image0003").read_bytes()[:-900])
    large = Preprocessing(rows=1500, columns=700)  # 4 to a chunk, of the small ones 64
    together, alone = _site(tmp_path, root, "together"), _site(tmp_path, root, "alone")
    prepare(together, root, small, also=[large], workers=2)
    assert len(reads.read_text()) == 70
    for size in (small, large):
        one, other = open_snapshot(together, size), prepare(alone, root, size)
        assert one.hash == other.hash and len(one) == len(other) == 69
    assert len(reads.read_text()) == 3 * 70
    assert prepare(together, root, large, also=[small]).hash == other.hash


def test_what_needs_another_decoding_is_refused(
    tmp_path: Path, archive: Archive, small: Preprocessing
) -> None:
    root = archive(2)
    site = _site(tmp_path, root)
    with pytest.raises(CacheError, match="one decoding"):
        prepare(site, root, small, also=[replace(small, voi="none")])


def test_another_preprocessing_has_its_own_cache_and_keeps_the_first(
    tmp_path: Path, archive: Archive, small: Preprocessing
) -> None:
    root = archive(4)
    (root / "image0001").write_bytes((root / "image0001").read_bytes()[:-1000])
    site = _site(tmp_path, root)
    first = prepare(site, root, small)
    second = prepare(site, root, Preprocessing(rows=32, columns=16, crop="none"))
    assert first.hash != second.hash and len(second) == 3
    assert open_snapshot(site, small).hash == first.hash
    assert second.facts["slots"] == first.facts["slots"] == 4


def test_damaged_chunk_is_found_at_its_first_read(
    site: Path, small: Preprocessing
) -> None:
    snapshot = open_snapshot(site, small)
    with (snapshot.folder / "images.u16").open("r+b") as stream:
        stream.seek(65 * 32 * 16 * 2)
        stream.write(b"\x5a\x5a")
    snapshot.read(np.arange(64))
    with pytest.raises(CacheError, match=r"Chunk 1 .*run prepare again"):
        snapshot.read(np.array([69]))


def test_index_that_does_not_match_is_refused(site: Path, small: Preprocessing) -> None:
    path = cache_folder(site, small) / "index.parquet"
    index = pd.read_parquet(path)
    index.assign(slot=index["slot"][::-1].to_numpy()).to_parquet(path, index=False)
    with pytest.raises(CacheError, match="does not match"):
        open_snapshot(site, small)
    path.write_bytes(b"no parquet")
    with pytest.raises(CacheError, match="does not match"):
        open_snapshot(site, small)


def test_shortened_or_foreign_snapshot_is_refused(
    site: Path, small: Preprocessing
) -> None:
    folder = cache_folder(site, small)
    facts = json.loads((folder / "snapshot.json").read_bytes())
    os.truncate(folder / "images.u16", 100)
    with pytest.raises(CacheError, match="bytes"):
        open_snapshot(site, small)
    (folder / "snapshot.json").write_text(json.dumps(facts | {"schema": 99}))
    with pytest.raises(CacheError, match="schema"):
        open_snapshot(site, small)


def test_manifest_of_another_import_is_refused(
    site: Path, small: Preprocessing
) -> None:
    manifest, linkage = read_manifest(site)[1:], read_linkage(site)[1:]
    write_manifest(site, manifest, linkage)
    with pytest.raises(CacheError, match="imported again"):
        open_snapshot(site, small)


def test_absent_cache_says_what_to_do(
    tmp_path: Path, archive: Archive, small: Preprocessing
) -> None:
    site = _site(tmp_path, archive(1))
    with pytest.raises(CacheError, match="Run prepare"):
        open_snapshot(site, small)


def test_kind_that_the_plan_does_not_want_is_named(
    tmp_path: Path, archive: Archive
) -> None:
    root = archive(2)
    site = _site(tmp_path, root)
    with pytest.raises(CacheError, match="2 FFDM"):
        prepare(site, root, Preprocessing(modalities=("SFM",)))


def test_second_preparation_at_the_same_time_is_refused(
    tmp_path: Path, archive: Archive, small: Preprocessing
) -> None:
    root = archive(2)
    site = _site(tmp_path, root)

    def again(done: int, total: int) -> None:
        with pytest.raises(FolderBusyError, match="Another process"):
            prepare(site, root, small)

    assert len(prepare(site, root, small, progress=again)) == 2


def test_snapshot_can_be_sent_to_another_process(
    site: Path, small: Preprocessing
) -> None:
    snapshot = open_snapshot(site, small)
    images = snapshot.read(np.arange(2))
    copy = pickle.loads(pickle.dumps(snapshot))  # noqa: S301 - our own object
    np.testing.assert_array_equal(copy.read(np.arange(2)), images)


def test_a_manifest_that_a_kill_left_behind_the_linkage_loses_no_image(
    site: Path, prepared: tuple[Path, Path]
) -> None:
    manifest, linkage = read_manifest(site), read_linkage(site)
    first = manifest["row_id"] == manifest["row_id"].iloc[0]
    behind = manifest.assign(
        status=manifest["status"].mask(first, "quarantined"),
        reason=manifest["reason"].mask(first, "Q_TIMEOUT"),
    )
    write_manifest(site, behind, linkage)
    snapshot = prepare(site, prepared[1], Preprocessing(rows=48, columns=24))
    assert len(snapshot) == len(manifest)
    assert set(read_manifest(site)["status"]) == {"ok"}
