"""The planted archive: canaries everywhere, and images that training can use."""

from __future__ import annotations

import io
from pathlib import Path

import pydicom
import pytest

from client.data.canary import Canaries
from client.data.planted_exam import OPTIONS, PATIENTS, plant_exams
from client.data.site_data import import_site


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Canaries, int]:
    root = tmp_path_factory.mktemp("planted") / "archive"
    return root, *plant_exams(root)


def test_whole_images_are_taken_and_the_rest_fails_in_many_ways(
    planted: tuple[Path, Canaries, int], tmp_path: Path
) -> None:
    root, _, files = planted
    counts = import_site("hospital", root, tmp_path / "site", "s", OPTIONS).counts
    assert counts["files"] == files and counts["table_rows_unmatched"] == 0
    assert counts["ok"] >= 2 * PATIENTS and counts["quarantined"] >= 5
    codes = {name for name in counts if name.startswith("reason:")}
    assert {"reason:X_NOT_MG", "reason:Q_NOT_DICOM", "reason:X_DUPLICATE"} <= codes


def test_a_whole_image_names_somebody_in_every_way(
    planted: tuple[Path, Canaries, int],
) -> None:
    root, canaries, _ = planted
    path = sorted(root.glob("*/*"))[0]
    kinds = set(canaries.places) - {
        "label table",
        "pixels that are none",
        "file name",
        "folder name",
    }
    assert kinds <= canaries.find(path.read_bytes())
    ds = pydicom.dcmread(io.BytesIO(path.read_bytes()))
    names = [element.keyword for element in ds.iterall() if element.VR == "PN"]
    assert len(names) > 20 and "ReferringPhysicianName" in names
    assert sum(canaries.places.values()) > 1000
