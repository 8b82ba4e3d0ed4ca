"""Files of one tomosynthesis volume find each other, in the order of its slices."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest

from client.data.manifest import read_linkage, read_manifest
from client.data.site_data import import_site


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "archive"
    folder.mkdir()
    return folder


def _write(root: Path, name: str, files: list[bytes]) -> None:
    for number, content in enumerate(files):
        (root / f"{name}{number}").write_bytes(content)


def _import(root: Path) -> pd.DataFrame:
    site = root.parent / "site"
    import_site("hospital", root, site, "s", {"dataset": "test"})
    rows = read_manifest(site).merge(read_linkage(site), on="row_id")
    return rows.set_index("source_path").sort_index()


def _orders(rows: pd.DataFrame) -> list[Any]:
    return [None if pd.isna(order) else order for order in rows["slice_order"]]


def test_slices_are_ranked_by_their_number(root: Path, dicom: ModuleType) -> None:
    files = dicom.slices(dicom.stack(4))
    _write(root, "file", [files[2], files[0], files[3], files[1]])
    rows = _import(root)
    assert set(rows["modality_kind"]) == {"DBT"} and rows["reason"].isna().all()
    assert _orders(rows) == [2, 0, 3, 1] and rows["volume_key"].nunique() == 1


def test_slices_without_a_number_are_ranked_by_height(
    root: Path, dicom: ModuleType
) -> None:
    heights = (3.5, -1.0, 20.0)
    frames = dicom.stack(3)
    files = [
        dicom.slices(
            frames[number : number + 1],
            InstanceNumber="",
            ImagePositionPatient=[0, 0, height],
        )[0]
        for number, height in enumerate(heights)
    ]
    _write(root, "file", files)
    rows = _import(root)
    assert _orders(rows) == [1, 0, 2] and rows["reason"].isna().all()


@pytest.mark.parametrize(
    "other",
    [
        {"PatientID": "P2"},
        {"SeriesInstanceUID": "1.2.3.301"},
        {"ImageLaterality": "R"},
        {"ViewPosition": "MLO"},
    ],
    ids=lambda other: next(iter(other)),
)
def test_slices_of_another_patient_series_side_or_view_are_another_volume(
    root: Path, dicom: ModuleType, other: dict[str, str]
) -> None:
    _write(root, "one", dicom.slices(dicom.stack(2)))
    _write(root, "other", dicom.slices(dicom.stack(2, seed=1), **other))
    rows = _import(root)
    assert list(rows.groupby("volume_key").size()) == [2, 2]
    assert _orders(rows) == [0, 1, 0, 1]


def test_objects_of_several_frames_are_volumes_of_their_own(
    root: Path, dicom: ModuleType
) -> None:
    files = [dicom.volume(dicom.stack(3, seed=seed)) for seed in (0, 1)]
    for ds in files:
        ds.SeriesInstanceUID = "1.2.3.300"
    _write(root, "volume", [dicom.to_bytes(ds) for ds in files])
    (root / "mammogram").write_bytes(dicom.image(SeriesInstanceUID="1.2.3.300"))
    rows = _import(root)
    assert _orders(rows) == [None, None, None]
    assert rows["volume_key"].nunique() == 2 and pd.isna(
        rows.loc["mammogram", "volume_key"]
    )
    assert list(rows["frames"]) == [1, 3, 3]


def test_missing_slices_are_remarked(root: Path, dicom: ModuleType) -> None:
    files = dicom.slices(dicom.stack(5))
    files[2] = files[2][:300]
    _write(root, "file", files)
    rows = _import(root)
    assert list(rows["status"]) == ["ok", "ok", "quarantined", "ok", "ok"]
    assert set(rows.loc[rows["status"] == "ok", "reason"]) == {"W_SLICES"}
    assert _orders(rows) == [0, 1, None, 2, 3]


def test_copies_of_a_slice_belong_to_no_volume(root: Path, dicom: ModuleType) -> None:
    files = dicom.slices(dicom.stack(3))
    _write(root, "file", [*files, files[1]])
    rows = _import(root)
    assert list(rows["reason"].fillna("")) == ["", "", "", "X_DUPLICATE"]
    assert _orders(rows) == [0, 1, 2, None] and pd.isna(rows["volume_key"].iloc[3])


def test_slices_that_contradict_each_other_belong_to_no_volume(
    root: Path, dicom: ModuleType
) -> None:
    files = dicom.slices(dicom.stack(3))
    same = {"SOPInstanceUID": "1.2.9", "InstanceNumber": 4}
    for seed in (8, 9):
        files += dicom.slices(dicom.stack(1, seed=seed), **same)
    _write(root, "file", files)
    rows = _import(root)
    assert (rows["reason"] == "Q_UID_CONFLICT").sum() == 2
    assert _orders(rows) == [0, 1, 2, None, None]
