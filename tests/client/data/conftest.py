"""Fixtures: DICOM files and sites made of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from client.data.pseudonyms import Pseudonymiser
from common.plan import Preprocessing
from tests.support import dicom_files


@pytest.fixture(scope="session")
def dicom() -> ModuleType:
    """The builder of test files."""
    return dicom_files


@pytest.fixture
def pseudonymiser() -> Pseudonymiser:
    return Pseudonymiser(b"0123456789abcdef")


@pytest.fixture
def small() -> Preprocessing:
    return Preprocessing(rows=32, columns=16)


@pytest.fixture
def archive(tmp_path: Path) -> Callable[[int], Path]:
    """Write an archive of a number of images, each of its own patient."""

    return lambda images: dicom_files.write_archive(tmp_path / "archive", images)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real samples; the test skips where there is none."""
    default = Path(__file__).resolve().parents[4] / "shared" / "data"
    folder = Path(os.environ.get("MAMMOFED_REAL_DATA", default))
    if not folder.is_dir():
        pytest.skip("no real samples here: set MAMMOFED_REAL_DATA to their folder")
    return folder
