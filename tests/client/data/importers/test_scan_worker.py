"""Headers read by worker processes: the same rows, and a death costs one file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import psutil
import pytest

from client.data.importers import Source
from client.data.importers import archive as reading
from client.data.importers.files import as_plain, walk
from client.data.manifest import read_linkage, read_manifest
from client.data.pseudonyms import Pseudonymiser
from client.data.site_data import import_site

SECRET = b"0123456789abcdef"
ODD_NAMES = (b"not \xff text", "ü per%cent".encode(), b"line\nbreak")
Archive = Callable[[int], Path]


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let few files be enough for workers, in several tasks."""
    monkeypatch.setattr(reading, "_FILES_PER_WORKER", 2)
    monkeypatch.setattr(reading, "_FILES_PER_TASK", 3)


@pytest.fixture
def mixed(tmp_path: Path, archive: Archive, dicom: ModuleType) -> Path:
    """Whole and broken images, a volume's slices, text, odd names and links."""
    root = archive(6)
    whole = (root / "image0000").read_bytes()
    for name in ODD_NAMES:
        uid = f"1.2.9.{len(name)}"
        path = root / os.fsdecode(name)
        path.write_bytes(dicom.image(SOPInstanceUID=uid, ManufacturerModelName="Müll"))
    frames = dicom.stack(3)
    for number, content in enumerate(dicom.slices(frames, Laterality="L")):
        (root / f"slice{number}").write_bytes(content)
    for name, content in {
        "a text": b"no image",
        "cut": whole[:300],
        "empty": b"",
        "packed.gz": b"\x1f\x8b\x08 and so on",
        "charset": dicom.image(SpecificCharacterSet="ISO_IR 100").replace(
            b"100", b"999"
        ),
        "no text": dicom.image(
            SpecificCharacterSet="ISO_IR 192", PatientID="Pxx9"
        ).replace(b"Pxx9", b"P\xff\xc39"),
        "raw": dicom.image(PresentationIntentType="FOR PROCESSING"),
        "report": dicom.image(Modality="SR", Rows=None, Columns=None, PixelData=None),
    }.items():
        (root / name).write_bytes(content)
    (root / "link to nothing").symlink_to(root / "absent")
    (root / "link to a folder").symlink_to(tmp_path)
    (root / "link to an image").symlink_to(root / "image0001")
    return root


def _scan(root: Path, workers: int, **options: Any) -> list[dict[str, Any]]:
    source = Source(root, Pseudonymiser(SECRET), workers=workers)
    return list(map(as_plain, reading.scan_dicom(source, **options)))


def _import(root: Path, folder: Path, workers: int = 1) -> pd.DataFrame:
    import_site("hospital", root, folder, "s", secret=SECRET, workers=workers)
    rows = read_manifest(folder).merge(read_linkage(folder), on="row_id")
    return rows.set_index("source_path")


def _bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_number_of_workers_changes_no_byte(
    tmp_path: Path, mixed: Path, monkeypatch: pytest.MonkeyPatch, few: None
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(reading, "_FILES_PER_WORKER", 1000)
        rows = _import(mixed, tmp_path / "here")
        scanned = _scan(mixed, workers=2, film=True)
    assert len(rows) == 23 and rows["model"].nunique() == 2
    assert rows["reason"].nunique() > 6 and rows["slice_order"].notna().sum() == 3
    monkeypatch.setattr(reading, "scan_one", None)  # nothing is read here any more
    for workers in (1, 2):
        folder = tmp_path / f"by {workers}"
        _import(mixed, folder, workers)
        assert _bytes(folder) == _bytes(tmp_path / "here")
    assert _scan(mixed, workers=2, film=True) == scanned


def test_files_keep_their_order_and_progress_counts_all_of_them(
    archive: Archive, few: None
) -> None:
    root, seen = archive(10), []
    source = Source(root, Pseudonymiser(SECRET), lambda *at: seen.append(at), workers=2)
    files = reading.scan_dicom(source, wanted=lambda path: path.name < "image0007")
    assert [file.path for file in files] == list(walk(root))
    assert [file.verdict is None for file in files] == 7 * [True] + 3 * [False]
    assert seen == [(done, 10) for done in range(3, 11)]


@pytest.mark.parametrize(
    ("files", "allowed", "workers"), [(1, 8, None), (3, 8, 1), (5, 8, 2), (9, 3, 3)]
)
def test_every_worker_has_enough_to_do_and_no_secret_is_sent(
    archive: Archive,
    few: None,
    monkeypatch: pytest.MonkeyPatch,
    files: int,
    allowed: int,
    workers: int | None,
) -> None:
    asked: list[int] = []

    def recorded(
        module: str, setup: Any, tasks: Any, workers: int, seconds: float
    ) -> Iterator[Any]:
        asked.append(workers)
        assert set(setup) == {"root", "film"}
        for task in tasks:
            assert set(task) == {"files"}
            assert all(set(file) == {"path"} for file in task["files"])
        return run_tasks(module, setup, tasks, workers, seconds)

    run_tasks = reading.run_tasks
    monkeypatch.setattr(reading, "run_tasks", recorded)
    assert len(_scan(archive(files), allowed)) == files
    assert asked == ([] if workers is None else [workers])


FRAGILE = """
import os, signal, time
from client.data.importers import archive, scan_worker
from client.data.workers import serve

read = archive.read_header

def fragile(content):
    if b"CRASHING" in content:
        os.kill(os.getpid(), signal.SIGSEGV)
    if b"HANGING" in content:
        time.sleep(600)
    return read(content)

archive.read_header = fragile
serve(scan_worker.scan_files)
"""


def test_a_header_that_crashes_or_hangs_the_parser_costs_that_file(
    tmp_path: Path,
    archive: Archive,
    dicom: ModuleType,
    few: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root = archive(4)
    for name in ("CRASHING", "HANGING"):
        content = dicom.image(PatientID=name, SOPInstanceUID=f"1.2.9.{len(name)}")
        (root / f"image0001 {name}").write_bytes(content)
    here = _import(root, tmp_path / "here")
    (tmp_path / "fragile_worker.py").write_text(FRAGILE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(reading, "_WORKER", "fragile_worker")
    monkeypatch.setattr(reading, "_SECONDS_PER_FILE", 12.0)
    apart = _import(root, tmp_path / "apart", workers=2)
    lost = ["image0001 CRASHING", "image0001 HANGING"]
    pd.testing.assert_frame_equal(apart.drop(lost), here.drop(lost))
    told = apart.loc[lost, ["status", "reason", "stage", "exception_type"]]
    assert told.values.tolist() == [
        ["quarantined", "Q_CRASH", "import:read", "WorkerDied"],
        ["quarantined", "Q_TIMEOUT", "import:read", "WorkerDied"],
    ]
    assert apart["patient_key"].isna().sum() == 2


def test_an_interrupted_import_leaves_no_worker(archive: Archive, few: None) -> None:
    def interrupt(done: int, total: int) -> None:
        if done:
            assert workers()
            raise KeyboardInterrupt

    def workers() -> list[psutil.Process]:
        return [
            child
            for child in psutil.Process().children(recursive=True)
            if "client.data.importers.scan_worker" in child.cmdline()
        ]

    source = Source(archive(9), Pseudonymiser(SECRET), interrupt, workers=2)
    with pytest.raises(KeyboardInterrupt) as caught:
        reading.scan_dicom(source)
    # Not only when the error, and with it the frames it was raised in, is forgotten.
    assert caught.tb is not None and not workers()
