"""Several files with one SOP instance UID: one image, or nobody knows which."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest

from client.data.importers import Source, hospital
from client.data.pseudonyms import Pseudonymiser

EXPLICIT, J2K = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.90"
TABLE = {"file": "labels.csv", "key": "key", "columns": {"cancer_pathology": "y"}}


def _write(
    root: Path,
    dicom: ModuleType,
    name: str,
    *,
    seed: int = 1,
    syntax: str = EXPLICIT,
    **elements: Any,
) -> None:
    given = {"SOPInstanceUID": "1.2.9.1"} | elements
    ds = dicom.dataset(dicom.phantom(seed=seed), **given)
    (root / name).write_bytes(dicom.encoded(ds, syntax))


def _import(
    root: Path, pseudonymiser: Pseudonymiser, labels: str = "", join: str = ""
) -> pd.DataFrame:
    options: dict[str, Any] = {"dataset": "test"}
    if labels:
        (root / "labels.csv").write_text(labels)
        options |= {"join": join, "table": TABLE}
    imported = hospital.import_archive(Source(root, pseudonymiser), "s", options)
    rows = imported.manifest.merge(imported.linkage, on="row_id")
    return rows.set_index("source_path").sort_index()


@pytest.mark.parametrize("syntax", [EXPLICIT, J2K])
def test_an_image_exported_again_with_a_corrected_header_is_kept_once(
    tmp_path: Path, pseudonymiser: Pseudonymiser, dicom: ModuleType, syntax: str
) -> None:
    _write(tmp_path, dicom, "a", syntax=syntax, ViewPosition=None, PatientAge=None)
    _write(tmp_path, dicom, "b", syntax=syntax)
    _write(tmp_path, dicom, "c", syntax=syntax, PatientAge=None)
    labels = "key,y\n1.2.9.1,1\n"
    rows = _import(tmp_path, pseudonymiser, labels, "sop_instance_uid")
    assert list(rows["reason"].fillna("")) == ["X_DUPLICATE", "", "X_DUPLICATE"]
    kept = rows[rows["status"] == "ok"]
    assert list(kept["cancer_pathology"]) == [1] and list(kept["view"]) == ["CC"]


def test_of_such_images_the_labelled_one_is_kept(
    tmp_path: Path, pseudonymiser: Pseudonymiser, dicom: ModuleType
) -> None:
    _write(tmp_path, dicom, "a")
    _write(tmp_path, dicom, "b", PatientAge=None)
    rows = _import(tmp_path, pseudonymiser, "key,y\nb,1\n", "relative_path")
    assert rows.loc["a", "reason"] == "X_DUPLICATE"
    assert list(rows.loc["b", ["status", "cancer_pathology"]]) == ["ok", 1]


def test_labels_that_contradict_each_other_are_a_conflict_of_labels(
    tmp_path: Path, pseudonymiser: Pseudonymiser, dicom: ModuleType
) -> None:
    _write(tmp_path, dicom, "a")
    _write(tmp_path, dicom, "b", PatientAge=None)
    rows = _import(tmp_path, pseudonymiser, "key,y\na,0\nb,1\n", "relative_path")
    assert list(rows["reason"]) == ["X_CONFLICT"] * 2


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 2},
        {"syntax": J2K},
        {"BitsStored": 13, "HighBit": 12},
        {"PhotometricInterpretation": "MONOCHROME1"},
        {"PixelRepresentation": 1},
        {"Rows": 48, "Columns": 64},
        {"PixelData": None},
        {"ImageLaterality": "R"},  # nobody knows which header is the corrected one
        {"PatientID": "P2"},
    ],
)
def test_one_uid_with_other_pixels_side_or_patient_is_a_conflict(
    tmp_path: Path,
    pseudonymiser: Pseudonymiser,
    dicom: ModuleType,
    change: dict[str, Any],
) -> None:
    _write(tmp_path, dicom, "a")
    _write(tmp_path, dicom, "b", **change)
    _write(tmp_path, dicom, "c", PatientAge=None)
    _write(tmp_path, dicom, "d", SOPInstanceUID="1.2.9.2")
    rows = _import(tmp_path, pseudonymiser)
    assert list(rows["reason"].fillna("")) == ["Q_UID_CONFLICT"] * 3 + [""]


def test_pixels_are_read_for_such_files_only(
    tmp_path: Path,
    pseudonymiser: Pseudonymiser,
    dicom: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from client.data.importers import archive

    read: list[bool] = []
    original = archive.read_dataset

    def counted(content: bytes, *, pixels: bool) -> Any:
        read.append(pixels)
        return original(content, pixels=pixels)

    monkeypatch.setattr(archive, "read_dataset", counted)
    _write(tmp_path, dicom, "a")
    _write(tmp_path, dicom, "a copy")
    _write(tmp_path, dicom, "b", SOPInstanceUID="1.2.9.2")
    _import(tmp_path, pseudonymiser)
    assert not read
    _write(tmp_path, dicom, "c", PatientAge=None, SOPInstanceUID="1.2.9.2")
    _import(tmp_path, pseudonymiser)
    assert read == [True, True]
