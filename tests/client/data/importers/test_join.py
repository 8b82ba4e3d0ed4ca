"""What a hospital's own table adds to its files, whatever the importer."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import pytest

from client.data.importers import IMPORTERS, Source
from client.data.pseudonyms import Pseudonymiser
from simulations.division import divide
from simulations.settings import Division

SERIAL = "sn-0471-11"
TABLE = {
    "file": "labels.csv",
    "key": "file",
    "columns": {"machine": "station", "cancer_pathology": "y"},
    "values": {"machine": {"Room 2": "room-2"}},
}
OPTIONS: dict[str, dict[str, Any]] = {
    "hospital": {"join": "relative_path"},
    "image_folder": {"smoke_test": True, "bits_stored": 12},
}


@pytest.fixture
def root(tmp_path: Path, dicom: ModuleType) -> Path:
    """Three images, each as a DICOM file and as a raster, of two machines."""
    lines = ["file,station,y"]
    for number, station in enumerate((SERIAL, SERIAL.upper(), "Room 2")):
        pixels = dicom.phantom(seed=number)
        content = dicom.image(
            pixels, SOPInstanceUID=f"1.2.9.{number}", PatientID=f"P{number}"
        )
        (tmp_path / f"{number}").write_bytes(content)
        assert cv2.imwrite(str(tmp_path / f"{number}.png"), pixels)
        lines += [f"{number},{station},0", f"{number}.png,{station},0"]
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    return tmp_path


@pytest.mark.parametrize("importer", sorted(OPTIONS))
def test_a_machine_of_the_table_is_told_apart_and_not_named(
    root: Path, pseudonymiser: Pseudonymiser, importer: str
) -> None:
    options = {"dataset": "test", "table": TABLE} | OPTIONS[importer]
    imported = IMPORTERS[importer](Source(root, pseudonymiser), "s", options)
    images = imported.manifest[imported.manifest["status"] == "ok"]
    serial = f"machine-{pseudonymiser.label('machine', SERIAL)}"
    other = f"machine-{pseudonymiser.label('machine', 'room-2')}"
    assert images["machine"].value_counts().to_dict() == {serial: 2, other: 1}
    text = imported.manifest.to_csv() + imported.linkage.to_csv()
    assert SERIAL not in text.lower() and "room" not in text.lower()
    rule = Division("machine", {"a": (serial,), "b": (other,)}, minimum=1)
    groups = divide(images, rule, ("a", "b"), seed=0)
    assert {site: len(group) for site, group in groups.items()} == {"a": 2, "b": 1}


def test_machines_of_another_site_have_other_pseudonyms(
    root: Path, pseudonymiser: Pseudonymiser
) -> None:
    options = {"dataset": "test", "table": TABLE} | OPTIONS["hospital"]
    machines = [
        set(
            IMPORTERS["hospital"](Source(root, one), "s", options)
            .manifest["machine"]
            .dropna()
        )
        for one in (pseudonymiser, Pseudonymiser(b"another secret of 16"))
    ]
    assert len(machines[0]) == len(machines[1]) == 2
    assert not machines[0] & machines[1]
