"""Fixtures: DICOM files and sites made of them."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from client.data.pseudonyms import Pseudonymiser
from common.plan import Preprocessing


def _load(name: str) -> ModuleType:
    path = Path(__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def dicom() -> ModuleType:
    """The builder of test files, see dicom_files.py."""
    return _load("dicom_files")


@pytest.fixture
def pseudonymiser() -> Pseudonymiser:
    return Pseudonymiser(b"0123456789abcdef")


@pytest.fixture
def small() -> Preprocessing:
    return Preprocessing(rows=32, columns=16)


@pytest.fixture
def archive(tmp_path: Path, dicom: ModuleType) -> Callable[[int], Path]:
    """Write an archive of a number of images, each of its own patient."""

    def write(images: int) -> Path:
        root = tmp_path / "archive"
        root.mkdir()
        for number in range(images):
            content = dicom.image(
                dicom.phantom(seed=number),
                SOPInstanceUID=f"1.2.3.4.{number + 1}",
                StudyInstanceUID=f"1.2.3.5.{number + 1}",
                PatientID=f"P{number}",
                ImageLaterality="LR"[number % 2],
            )
            (root / f"image{number:04d}").write_bytes(content)
        return root

    return write


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real samples; the test skips where there is none."""
    default = Path(__file__).resolve().parents[4] / "shared" / "data"
    folder = Path(os.environ.get("MAMMOFED_REAL_DATA", default))
    if not folder.is_dir():
        pytest.skip("no real samples here: set MAMMOFED_REAL_DATA to their folder")
    return folder
