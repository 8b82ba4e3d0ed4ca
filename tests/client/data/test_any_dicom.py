"""Whatever lies in an archive: no crash, no hang, no flood of words, and it adds up.

``make soak`` runs the same with 2,000 mutated files (environment FUZZ_FILES).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest

from client.data.manifest import read_manifest
from tests.support import dicom_files
from tests.support.dicom_files import LOSSLESS

ROOT = Path(__file__).parents[3]
FILES = int(os.environ.get("FUZZ_FILES", "160"))
Mutation = Callable[[bytearray, np.random.Generator], bytearray]


def _flip_bits(content: bytearray, random: np.random.Generator) -> bytearray:
    for place in random.integers(0, len(content), random.integers(1, 40)):
        content[place] ^= 1 << int(random.integers(8))
    return content


def _flip_header_bits(content: bytearray, random: np.random.Generator) -> bytearray:
    for place in random.integers(128, min(1200, len(content)), 3):
        content[place] ^= 1 << int(random.integers(8))
    return content


def _truncate(content: bytearray, random: np.random.Generator) -> bytearray:
    return content[: int(random.integers(len(content)))]


def _delete(content: bytearray, random: np.random.Generator) -> bytearray:
    start = int(random.integers(128, len(content)))
    del content[start : start + int(random.integers(1, 300))]
    return content


def _wrong_vr(content: bytearray, random: np.random.Generator) -> bytearray:
    for vr in (b"US", b"CS", b"UI", b"DS", b"LO"):
        place = content.find(vr, 132 + int(random.integers(600)))
        if place > 0:
            content[place : place + 2] = random.choice([b"SQ", b"OB", b"FD", b"??"])
    return content


def _lying_length(content: bytearray, random: np.random.Generator) -> bytearray:
    place = content.find(random.choice([b"US", b"UI", b"OW"]), 132)
    if place > 0:
        content[place + 2 : place + 8] = random.bytes(6)
    return content


MUTATIONS: tuple[Mutation, ...] = (
    _flip_bits,
    _flip_header_bits,
    _truncate,
    _delete,
    _wrong_vr,
    _lying_length,
)


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write mutated files, each under a UID of its own, and one whole per encoding.

    One in ten is a volume, and one in ten a slice of a volume stored as CT.
    """
    root = tmp_path_factory.mktemp("fuzz") / "archive"
    root.mkdir()
    random = np.random.default_rng(20261121)
    for number in range(FILES):
        syntax = LOSSLESS[number % len(LOSSLESS)]
        content = bytearray(_image(number, syntax))
        if number >= len(LOSSLESS):
            mutate = MUTATIONS[int(random.integers(len(MUTATIONS)))]
            content = mutate(content, random)
        (root / f"file{number:05d}").write_bytes(content)
    return root


def _image(number: int, syntax: str) -> bytes:
    elements = {
        "SOPInstanceUID": f"1.2.3.{number + 1}",
        "StudyInstanceUID": f"1.2.4.{number // 4 + 1}",
        "PatientID": f"P{number // 4}",
    }
    if number % 10 == 8:
        volume = dicom_files.volume(dicom_files.stack(3, seed=number), **elements)
        return dicom_files.encoded(volume, syntax)
    if number % 10 == 9:
        return dicom_files.slices(dicom_files.stack(1, seed=number), **elements)[0]
    ds = dicom_files.dataset(dicom_files.phantom(seed=number), **elements)
    return dicom_files.encoded(ds, syntax)


def _mammo_data(*words: object) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "client.data_command", *map(str, words)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=max(300, FILES),
    )
    assert "Traceback" not in done.stderr, done.stderr
    assert len(done.stderr) + len(done.stdout) < 8000, "a flood of words"
    return done.returncode, done.stdout


def _go_through(root: Path, out: Path, *, film: bool) -> dict[str, int]:
    options = out.with_suffix(".yaml")
    options.write_text(f"dataset: any\nfilm: {str(film).lower()}\n")
    code, said = _mammo_data("import", "hospital", root, out, "--options", options)
    assert code == 0, said
    code, said = _mammo_data("check", out)
    assert code == 0, said
    document = json.loads((out / "check.json").read_bytes())
    found = sum(path.is_file() for path in root.rglob("*"))
    parts = [document[name] for name in ("cached", "excluded", "quarantined")]
    assert document["found"] == sum(parts) == len(document["images"]) == found
    if document["cached"]:
        code, said = _mammo_data("prepare", out, "--max-failures", 1)
        assert code == 0, said
    manifest = read_manifest(out)
    assert len(manifest) == found
    assert manifest.loc[manifest["status"] != "ok", "reason"].notna().all()
    return {name: int(document[name]) for name in ("found", "cached", "quarantined")}


def test_mutated_files_cost_themselves_only(fuzzed: Path, tmp_path: Path) -> None:
    counts = _go_through(fuzzed, tmp_path / "site", film=False)
    assert counts["found"] == FILES
    assert counts["cached"] >= len(LOSSLESS) and counts["quarantined"] > FILES // 10


@pytest.mark.parametrize("film", [False, True])
def test_every_file_of_pydicom_ends_with_a_code(tmp_path: Path, film: bool) -> None:
    root = Path(pydicom.__file__).parent / "data"
    archive = tmp_path / "archive"
    archive.mkdir()
    (archive / "mammogram").write_bytes(dicom_files.image())
    for path in root.rglob("*"):
        if path.is_file() and path.suffix not in (".py", ".pyc"):
            target = archive / path.relative_to(root)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    assert _go_through(archive, tmp_path / "site", film=film)["cached"] >= 1


@pytest.mark.parametrize(("film", "cached"), [(False, 0), (True, 2)])
def test_every_real_sample_ends_with_a_code(
    real_data: Path, tmp_path: Path, film: bool, cached: int
) -> None:
    counts = _go_through(real_data / "dicom", tmp_path / "site", film=film)
    assert counts["cached"] == cached
