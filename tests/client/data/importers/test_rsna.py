"""RSNA Screening Mammography: two hospitals, stripped headers, truth of the breast."""

from __future__ import annotations

import io
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pydicom import dcmread

from client.data.importers.files import Imported, ImporterError, Source
from client.data.importers.rsna import import_archive
from client.data.labels import label
from client.data.pseudonyms import Pseudonymiser
from common.plan import Target
from tests.support.through import goes_through

TRAIN = """\
site_id,patient_id,image_id,laterality,view,age,cancer,biopsy,invasive,BIRADS,implant,\
density,machine_id,difficult_negative_case
2,10006,462822612,L,CC,61.0,0,0,0,,0,,29,False
2,10006,1459541791,L,MLO,61.0,0,0,0,,0,,29,False
2,10006,1864590858,R,LMO,61.0,0,0,0,,0,,29,False
1,10011,220375232,L,CC,,1,1,1,0.0,1,B,49,False
1,10011,270344397,L,CC,,1,1,1,0.0,1,B,49,False
1,10011,541722628,L,MLO,,1,1,1,0.0,1,B,49,False
1,10011,1031443799,R,AT,,0,0,0,1.0,1,B,49,False
1,27770,562340703,R,CC,89.0,0,1,0,2.0,0,D,190,True
"""
TEST = """\
site_id,patient_id,image_id,laterality,view,age,implant,machine_id,prediction_id
2,10008,736471439,L,MLO,81,0,21,10008_L
1,10009,1591370361,R,CC,50,0,49,10009_R
"""
# What Kaggle's headers lack; the class stands in the file meta information only.
J2K = "1.2.840.10008.1.2.4.90"
QUIRKS: list[tuple[dict[str, Any], str]] = [
    ({}, "1.2.840.10008.1.2.4.70"),
    ({"WindowCenter": [2000, 1800], "WindowWidth": [3000, 2500]}, J2K),
    (
        {"PhotometricInterpretation": "MONOCHROME1", "VOILUTFunction": "SIGMOID"}
        | {"WindowCenter": 2000, "WindowWidth": 2500},
        "1.2.840.10008.1.2.4.70",
    ),
    # Values beyond the bits stored, as in patient 27770.
    ({"BitsStored": 11, "HighBit": 10}, "1.2.840.10008.1.2.1"),
]
STRIPPED = dict.fromkeys(
    (
        "SOPClassUID",
        "Modality",
        "PresentationIntentType",
        "ImageType",
        "ImageLaterality",
        "ViewPosition",
        "PatientAge",
        "StudyDate",
        "Manufacturer",
        "ManufacturerModelName",
    )
)
CANCER = "train_images/10011/220375232.dcm"
BIOPSIED = "train_images/27770/562340703.dcm"
HEALTHY = "train_images/10006/462822612.dcm"
UNSEEN = "test_images/10008/736471439.dcm"


def _write_image(
    root: Path, dicom: ModuleType, path: str, seed: int, **elements: Any
) -> None:
    _, patient, image = path.removesuffix(".dcm").split("/")
    study = f"1.2.840.10009.1.2.3.{patient}"
    pixels, quirks, syntax = dicom.phantom(seed=seed), *QUIRKS[seed % len(QUIRKS)]
    if "PhotometricInterpretation" in quirks:
        pixels = (4095 - pixels).astype(np.uint16)
    whole = dicom.dataset(
        pixels,
        SOPInstanceUID=f"{study}.1.{image}",
        StudyInstanceUID=study,
        PatientID=patient,
        **quirks,
    )
    ds = dcmread(io.BytesIO(dicom.encoded(whole, syntax)))
    for keyword, value in (STRIPPED | elements).items():
        if value is not None:
            setattr(ds, keyword, value)
        elif keyword in ds:
            del ds[keyword]
    buffer = io.BytesIO()
    ds.save_as(buffer)
    content = buffer.getvalue()
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_bytes(content)


def _paths(part: str, table: str) -> list[str]:
    lines = [line.split(",") for line in table.splitlines()[1:]]
    return [f"{part}_images/{line[1]}/{line[2]}.dcm" for line in lines]


@pytest.fixture
def root(tmp_path: Path, dicom: ModuleType) -> Path:
    (tmp_path / "train.csv").write_text(TRAIN)
    (tmp_path / "test.csv").write_text(TEST)
    (tmp_path / "sample_submission.csv").write_text("prediction_id,cancer\n10008_L,0\n")
    for seed, path in enumerate([*_paths("train", TRAIN), *_paths("test", TEST)]):
        _write_image(tmp_path, dicom, path, seed)
    return tmp_path


def _import(
    root: Path, pseudonymiser: Pseudonymiser, **options: Any
) -> tuple[Imported, pd.DataFrame]:
    imported = import_archive(Source(root, pseudonymiser), "s", options)
    rows = imported.manifest.merge(imported.linkage, on="row_id")
    return imported, rows.set_index("source_path").sort_index()


def test_every_file_is_a_row_and_the_counts_add_up(
    root: Path, pseudonymiser: Pseudonymiser
) -> None:
    imported, rows = _import(root, pseudonymiser)
    assert imported.notes == {
        "files": 11,
        "table_rows_unmatched": 0,
        "files_unmatched": 0,
    }
    assert len(rows) == 11 and set(rows["dataset"]) == {"rsna"}
    assert rows["reason"].dropna().to_dict() == {"sample_submission.csv": "X_NOT_IMAGE"}
    assert set(rows["intent"].dropna()) == {"presentation"}


def test_cancer_and_biopsies_are_pathology_and_the_rest_is_the_data_sets_word(
    root: Path, pseudonymiser: Pseudonymiser
) -> None:
    _, rows = _import(root, pseudonymiser)
    fields = ["cancer_pathology", "label_source", "label_level"]
    assert list(rows.loc[CANCER, fields]) == [1, "pathology", "breast"]
    assert list(rows.loc[BIOPSIED, fields]) == [0, "pathology", "breast"]
    assert list(rows.loc[HEALTHY, fields]) == [0, "dataset", "breast"]
    assert rows["pathology_class"].isna().all()


def test_facts_come_from_the_table_because_headers_are_stripped(
    root: Path, pseudonymiser: Pseudonymiser
) -> None:
    _, rows = _import(root, pseudonymiser)
    fields = ["laterality", "view", "age_years", "implant", "machine", "density"]
    assert list(rows.loc[BIOPSIED, fields]) == ["R", "CC", 89, 0, "machine-190", "D"]
    assert list(rows.loc[CANCER, ["implant", "machine", "density"]]) == [
        1,
        "machine-49",
        "B",
    ]
    assert rows.loc[HEALTHY, "machine"] == "machine-29"
    assert pd.isna(rows.loc[HEALTHY, "density"])
    assert pd.isna(rows.loc[CANCER, "age_years"])
    assert rows.loc["train_images/10006/1864590858.dcm", "view"] == "LMO"
    assert rows.loc["train_images/10011/1031443799.dcm", "view"] == "AT"


def test_birads_stays_as_given_and_decides_nothing(
    root: Path, pseudonymiser: Pseudonymiser
) -> None:
    _, rows = _import(root, pseudonymiser)
    assert rows.loc[CANCER, "birads"] == 0
    assert rows.loc[BIOPSIED, "birads"] == 2
    assert pd.isna(rows.loc[HEALTHY, "birads"])


def test_test_images_are_unlabelled_and_official_parts_are_kept(
    root: Path, pseudonymiser: Pseudonymiser
) -> None:
    _, rows = _import(root, pseudonymiser)
    parts = rows["split_official"].dropna()
    assert parts.value_counts().to_dict() == {"train": 8, "test": 2}
    unseen = rows.loc[UNSEEN]
    assert unseen["split_official"] == "test" and unseen["age_years"] == 81
    assert unseen[["cancer_pathology", "birads", "label_source"]].isna().all()


def test_default_target_labels_every_training_image_and_no_other(
    root: Path, pseudonymiser: Pseudonymiser
) -> None:
    _, rows = _import(root, pseudonymiser)
    rows = rows[rows["status"] == "ok"]
    labels = label(rows, Target())
    assert labels[rows["split_official"] == "test"].isna().all()
    positive = set(labels.index[(labels == 1).fillna(False)])
    assert positive == {path for path in _paths("train", TRAIN) if "10011" in path} - {
        "train_images/10011/1031443799.dcm"
    }
    assert labels.isna().sum() == 2


def test_breasts_and_patients_are_those_of_the_folders(
    root: Path, pseudonymiser: Pseudonymiser
) -> None:
    _, rows = _import(root, pseudonymiser)
    images = rows[rows["status"] == "ok"]
    assert images["patient_key"].nunique() == 5
    assert images["breast_key"].nunique() == 7
    assert set(images["exam_order"]) == {0}
    assert images.loc[CANCER, "patient_key"] == pseudonymiser.patient("10011")


def test_several_images_of_one_view_all_stay(
    root: Path, pseudonymiser: Pseudonymiser
) -> None:
    _, rows = _import(root, pseudonymiser)
    twins = rows[(rows["laterality"] == "L") & (rows["view"] == "CC")]
    assert twins["breast_key"].value_counts().max() == 2
    assert set(twins["status"]) == {"ok"}


def test_one_download_becomes_two_hospitals(
    root: Path, pseudonymiser: Pseudonymiser
) -> None:
    kept: dict[int, set[str]] = {}
    for site_id, machines in ((1, {"machine-49", "machine-190"}), (2, {"machine-29"})):
        imported, rows = _import(root, pseudonymiser, site_id=site_id)
        assert imported.notes["files"] == len(rows) == 11
        assert imported.notes["table_rows_unmatched"] == 0
        own = rows[rows["status"] == "ok"]
        others = rows[rows["reason"] == "X_OTHER_SITE"]
        assert len(own) + len(others) == 10
        assert set(own[own["split_official"] == "train"]["machine"]) == machines
        # A hospital holds no facts, and no pseudonym, of another one's patients.
        facts = ["patient_key", "cancer_pathology", "laterality", "machine"]
        assert others[facts].isna().all(axis=None)
        kept[site_id] = set(own.index)
    assert not kept[1] & kept[2]
    assert len(kept[1] | kept[2]) == 10


def test_an_image_of_an_unknown_hospital_is_in_neither(
    root: Path, pseudonymiser: Pseudonymiser, dicom: ModuleType
) -> None:
    stray = "train_images/10006/999.dcm"
    _write_image(root, dicom, stray, 99, ImageLaterality="L", ViewPosition="CC")
    for site_id in (1, 2):
        _, rows = _import(root, pseudonymiser, site_id=site_id)
        assert rows.loc[stray, "reason"] == "X_OTHER_SITE"
    imported, rows = _import(root, pseudonymiser)
    assert rows.loc[stray, "status"] == "ok"
    assert imported.notes["files_unmatched"] == 1
    assert pd.isna(rows.loc[stray, "cancer_pathology"])


def test_the_tables_side_wins_over_a_contradicting_header(
    root: Path, pseudonymiser: Pseudonymiser, dicom: ModuleType
) -> None:
    _write_image(root, dicom, HEALTHY, 7, ImageLaterality="R")
    _, rows = _import(root, pseudonymiser)
    assert list(rows.loc[HEALTHY, ["laterality", "reason"]]) == ["L", "W_SIDE"]


def test_missing_and_surplus_files_are_counted(
    root: Path, pseudonymiser: Pseudonymiser, dicom: ModuleType
) -> None:
    (root / HEALTHY).unlink()
    (root / CANCER).write_bytes(b"")
    stray = "train_images/10006/999.dcm"
    _write_image(root, dicom, stray, 99)
    imported, rows = _import(root, pseudonymiser)
    assert imported.notes["table_rows_unmatched"] == 1
    assert imported.notes["files_unmatched"] == 1
    assert rows.loc[stray, "reason"] == "X_NO_SIDE"
    assert rows.loc[CANCER, "reason"] == "Q_EMPTY"
    assert rows.loc[CANCER, "patient_key"] == pseudonymiser.patient("10011")


@pytest.mark.parametrize(("part", "images"), [("train", 8), ("test", 2)])
def test_one_part_alone_can_be_imported(
    root: Path, pseudonymiser: Pseudonymiser, part: str, images: int
) -> None:
    other = "test" if part == "train" else "train"
    (root / f"{other}.csv").unlink()
    for path in (root / f"{other}_images").rglob("*.dcm"):
        path.unlink()
    for folder in [*(root / f"{other}_images").iterdir(), root / f"{other}_images"]:
        folder.rmdir()
    _, rows = _import(root, pseudonymiser)
    assert (rows["status"] == "ok").sum() == images


@pytest.mark.parametrize("table", ["train.csv", "test.csv"])
def test_images_without_their_table_are_an_error(
    root: Path, pseudonymiser: Pseudonymiser, table: str
) -> None:
    (root / table).unlink()
    with pytest.raises(ImporterError, match=f"No table .*{table}"):
        _import(root, pseudonymiser)


def test_a_folder_without_any_table_is_an_error(
    tmp_path: Path, pseudonymiser: Pseudonymiser
) -> None:
    with pytest.raises(ImporterError, match=r"No table .*train\.csv"):
        _import(tmp_path, pseudonymiser)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (",cancer,", ",was_cancer,", r"train.csv lacks the columns \['cancer'\]"),
        (",biopsy,", ",x,", r"train.csv lacks the columns \['biopsy'\]"),
        ("site_id,", "x,", r"train.csv lacks the columns \['site_id'\]"),
        ("L,CC,,1,", "JANE DOE,CC,,1,", r"train.csv .* laterality: 2 cells .*\[5, 6\]"),
        ("462822612", "1459541791", "names 1 images more than once"),
    ],
)
def test_unusable_table_is_refused_without_quoting_cells(
    root: Path, pseudonymiser: Pseudonymiser, old: str, new: str, message: str
) -> None:
    assert old in TRAIN
    (root / "train.csv").write_text(TRAIN.replace(old, new))
    with pytest.raises(ImporterError, match=message) as caught:
        _import(root, pseudonymiser)
    told = str(caught.value)
    assert "train.csv" in told and "Traceback" not in told
    assert "JANE" not in told and "1459541791" not in told


@pytest.mark.parametrize("options", [{"site_id": 3}, {"dataset": "X"}, {"join": "x"}])
def test_bad_options_are_named(
    root: Path, pseudonymiser: Pseudonymiser, options: dict[str, Any]
) -> None:
    with pytest.raises(ImporterError, match="options of importer rsna"):
        _import(root, pseudonymiser, **options)


def test_nothing_identifying_is_in_the_manifest(
    root: Path, pseudonymiser: Pseudonymiser
) -> None:
    imported, _ = _import(root, pseudonymiser)
    text = " ".join(map(str, imported.manifest.to_numpy().ravel()))
    for identifier in ("10006", "10011", "27770", "462822612", "1.2.840", ".dcm"):
        assert identifier not in text


def test_the_archive_goes_through_check_and_preparation(
    root: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    goes_through("rsna", root, tmp_path_factory.mktemp("site"))
