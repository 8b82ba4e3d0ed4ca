"""One folder becomes several hospitals: by patient, repeatably, originals untouched."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from rich.console import Console

from common.plan import PlanError
from common.progress import View
from simulations.partition import divide_folder
from simulations.settings import DataSettings

VIEW = View(Console(quiet=True))
TABLE = {"file": "labels.csv", "key": "file", "patient": "woman"}


def make_folder(folder: Path, women: int = 9) -> Path:
    folder.mkdir()
    rows = []
    for number in range(women * 2):
        name = f"image{number}.png"
        pixels = np.full((8, 6), number * 10, np.uint8)
        cv2.imwrite(str(folder / name), pixels)
        rows.append({"file": name, "woman": f"w{number // 2}", "label": "benign"})
    with (folder / "labels.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder


def settings(root: Path, prepared: Path, **changes: Any) -> DataSettings:
    values: dict[str, Any] = {
        "kind": "folders",
        "root": str(root),
        "prepared": str(prepared),
        "sites": ("one", "two", "three"),
        "importer": {"dataset": "test", "table": TABLE},
        "luts": {"two": {"kind": "gamma", "gamma": 2.0}},
    }
    return DataSettings(**(values | changes))


def women_of(archive: Path) -> set[str]:
    with (archive / "labels.csv").open() as stream:
        return {row["woman"] for row in csv.DictReader(stream)}


def test_a_patient_is_at_one_hospital_and_none_is_lost(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "real")
    archives = divide_folder(settings(root, tmp_path / "prepared"), VIEW)
    groups = [women_of(archive) for archive in archives.values()]
    assert [len(group) for group in groups] == [3, 3, 3]
    assert set.union(*groups) == {f"w{number}" for number in range(9)}


def test_the_lut_of_a_hospital_changes_its_copies_in_16_bit(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "real")
    archives = divide_folder(settings(root, tmp_path / "prepared"), VIEW)
    for site, gamma in (("one", 1.0), ("two", 2.0)):
        for copy in archives[site].glob("*.png"):
            number = int(copy.stem.removeprefix("image").partition("-")[0])
            stored = cv2.imread(str(copy), cv2.IMREAD_UNCHANGED)
            expected = (number * 10 / 255) ** gamma * 65535
            assert stored.dtype == np.uint16
            assert abs(float(stored[0, 0]) - expected) <= 1.0


def test_dividing_again_gives_the_same_and_writes_nothing(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "real")
    how = settings(root, tmp_path / "prepared")
    first = divide_folder(how, VIEW)
    stamps = {p: p.stat().st_mtime_ns for a in first.values() for p in a.iterdir()}
    assert divide_folder(how, VIEW) == first
    assert {p: p.stat().st_mtime_ns for p in stamps} == stamps
    other = divide_folder(settings(root, tmp_path / "prepared", seed=1), VIEW)
    assert women_of(other["one"]) != women_of(first["one"])


def test_a_damaged_image_is_copied_for_the_importer_to_count(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "real")
    (root / "image0.png").write_bytes(b"no image")
    archives = divide_folder(settings(root, tmp_path / "prepared"), VIEW)
    copies = [c for a in archives.values() for c in a.glob("image0-*.png")]
    assert [copy.read_bytes() for copy in copies] == [b"no image"]


def test_a_missing_table_or_column_is_named(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="No label table"):
        divide_folder(settings(tmp_path, tmp_path), VIEW)
    root = make_folder(tmp_path / "real")
    table = {"file": "labels.csv", "key": "file", "patient": "person"}
    how = settings(root, tmp_path, importer={"dataset": "test", "table": table})
    with pytest.raises(PlanError, match="person"):
        divide_folder(how, VIEW)
