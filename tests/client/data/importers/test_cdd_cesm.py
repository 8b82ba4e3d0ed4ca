"""CDD-CESM: low-energy images with the patients of their names."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import openpyxl
import pandas as pd
import pytest

from client.data.importers import Imported, ImporterError, cdd_cesm
from client.data.importers.files import Source
from client.data.labels import label
from client.data.pseudonyms import Pseudonymiser
from common.plan import Target
from tests.support.through import goes_through

LOW = "Low energy images of CDD-CESM"
SUBTRACTED = "Subtracted images of CDD-CESM"
WORKBOOK = "Radiology-manual-annotations.xlsx"
TABLE = "Radiology-manual-annotations.csv"
CLASS = "Pathology Classification/ Follow up"
IMAGES = {
    # name: class, BI-RADS, density, age
    "P1_L_DM_CC": ("Malignant", "5", "C", "52"),
    "P1_L_DM_MLO": ("Malignant", "4$2", "C", "52"),
    "P1_R_DM_CC": ("Normal", "1", "C", "52"),
    "P2_R_DM_MLO": ("Benign", "3$2", "b", "91"),
    "P10_L_DM_CC": ("", "4", "_", "_"),
}
Row = dict[str, str]


def _row(name: str, facts: tuple[str, str, str, str]) -> Row:
    patient, side, kind, view = name.split("_")
    return {
        "Image_name": name,
        "Patient_ID": patient.removeprefix("P"),
        "Side": side,
        "Type": "DM" if kind == "DM" else "CESM",
        "Age": facts[3],
        "Breast density (ACR)": facts[2],
        "BIRADS": facts[1],
        "Findings": "mass$calcification",
        "View": view,
        "Tags": "",
        "Machine": "1",
        CLASS: facts[0],
    }


@pytest.fixture
def rows() -> list[Row]:
    """One row for each image, low-energy and subtracted; then an empty line."""
    table = [_row(name, facts) for name, facts in IMAGES.items()]
    facts = ("Malignant", "5", "_", "52")
    return [*table, _row("P1_L_CM_CC", facts), dict.fromkeys(table[0], "")]


@pytest.fixture
def root(tmp_path: Path, rows: list[Row]) -> Path:
    """The release as it is published; other sheets stand before and after the table."""
    _write_workbook(tmp_path, {"legend": [{"a": "b"}], "all": rows, "CESM": rows[-2:]})
    for number, name in enumerate([*IMAGES, "P1_L_CM_CC"]):
        folder = tmp_path / (SUBTRACTED if "_CM_" in name else LOW)
        _write_image(folder / f"{name}.jpg", number)
    (tmp_path / LOW / "desktop.ini").write_text("words")
    return tmp_path


def _write_workbook(root: Path, sheets: dict[str, list[Row]]) -> None:
    book = openpyxl.Workbook()
    book.remove(book.worksheets[0])
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        sheet.append(list(rows[0]))
        for row in rows:  # numbers are numbers there, and empty cells are empty
            cells = [int(c) if c.isdigit() else c or None for c in row.values()]
            sheet.append(cells)
    book.save(root / WORKBOOK)


def _write_table(root: Path, rows: list[Row], delimiter: str = ",") -> None:
    with (root / TABLE).open("w", encoding="utf-8-sig", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)


def _write_image(path: Path, number: int) -> None:
    path.parent.mkdir(exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 255, (64, 48, 3), np.uint8)
    assert cv2.imwrite(str(path), pixels)


def _import(
    root: Path, pseudonymiser: Pseudonymiser, **options: Any
) -> tuple[Imported, pd.DataFrame]:
    imported = cdd_cesm.import_archive(Source(root, pseudonymiser), "s", options)
    rows = imported.manifest.merge(imported.linkage, on="row_id")
    rows["name"] = rows["source_path"].str.rpartition("/")[2].str.removesuffix(".jpg")
    return imported, rows.set_index("name").sort_index()


def test_every_file_is_a_row_and_only_low_energy_is_used(
    root: Path, pseudonymiser: Pseudonymiser
) -> None:
    imported, rows = _import(root, pseudonymiser)
    assert imported.notes == {
        "files": 7,
        "table_rows_unmatched": 0,
        "files_unmatched": 0,
    }
    assert len(rows) == 7
    assert rows["reason"].dropna().to_dict() == {
        "P1_L_CM_CC": "X_SUBTRACTED",
        "desktop.ini": "X_NOT_IMAGE",
    }
    images = rows.loc[list(IMAGES)]
    assert set(images["modality_kind"]) == {"CESM_LE"}
    assert set(images["bits_stored"]) == {8} and set(images["reader"]) == {"raster"}
    assert pd.isna(rows.loc["P1_L_CM_CC", "modality_kind"])


def test_patient_side_and_view_come_from_the_name(
    root: Path, pseudonymiser: Pseudonymiser
) -> None:
    _, rows = _import(root, pseudonymiser)
    first = rows.loc[["P1_L_DM_CC", "P1_L_DM_MLO", "P1_R_DM_CC"]]
    assert set(first["patient_key"]) == {pseudonymiser.patient("P1")}
    assert list(first["laterality"]) == ["L", "L", "R"]
    assert list(first["view"]) == ["CC", "MLO", "CC"]
    assert first["exam_key"].nunique() == 1 and first["breast_key"].nunique() == 2
    assert rows.loc["P10_L_DM_CC", "patient_key"] == pseudonymiser.patient("P10")
    assert rows.loc[list(IMAGES), "patient_key"].nunique() == 3


def test_the_class_comes_from_the_table_with_its_source(
    root: Path, pseudonymiser: Pseudonymiser
) -> None:
    _, rows = _import(root, pseudonymiser)
    names = ["cancer_pathology", "pathology_class", "birads", "label_source"]
    for name, expected in {
        "P1_L_DM_CC": [1, "malignant", 5, "pathology"],
        "P1_L_DM_MLO": [1, "malignant", 4, "pathology"],
        "P1_R_DM_CC": [0, "normal", 1, "dataset"],
        "P2_R_DM_MLO": [0, "benign", 3, "dataset"],
    }.items():
        assert list(rows.loc[name, names]) == expected
        assert rows.loc[name, "label_level"] == "breast"
    unknown = rows.loc["P10_L_DM_CC"]
    assert pd.isna(unknown["cancer_pathology"]) and unknown["birads"] == 4
    assert unknown["label_source"] == "radiologist"


def test_density_and_age_are_taken_where_they_are_given(
    root: Path, pseudonymiser: Pseudonymiser
) -> None:
    _, rows = _import(root, pseudonymiser)
    assert list(rows.loc[["P1_L_DM_CC", "P2_R_DM_MLO"], "density"]) == ["C", "B"]
    assert list(rows.loc[["P1_L_DM_CC", "P2_R_DM_MLO"], "age_years"]) == [52, 89]
    assert rows.loc["P10_L_DM_CC", ["density", "age_years"]].isna().all()


def test_a_plan_sees_one_zero_and_unknown(
    root: Path, pseudonymiser: Pseudonymiser
) -> None:
    _, rows = _import(root, pseudonymiser)
    targets = label(rows[rows["status"] == "ok"], Target())
    assert targets.dropna().to_dict() == {
        "P1_L_DM_CC": 1,
        "P1_L_DM_MLO": 1,
        "P1_R_DM_CC": 0,
        "P2_R_DM_MLO": 0,
    }
    assert pd.isna(targets["P10_L_DM_CC"])


def test_stray_spaces_and_extensions_in_names_do_not_matter(
    root: Path, pseudonymiser: Pseudonymiser, rows: list[Row]
) -> None:
    for row, form in zip(rows, ("{} ", " {}.jpg", "{} .jpg", "{}.JPG"), strict=False):
        row["Image_name"] = form.format(row["Image_name"])
    _write_table(root, rows)
    image = root / LOW / "P2_R_DM_MLO.jpg"
    image.rename(root / LOW / "P2_R_DM_MLO .jpg")
    imported, found = _import(root, pseudonymiser)
    assert imported.notes["table_rows_unmatched"] == 0
    assert found.loc["P2_R_DM_MLO ", "cancer_pathology"] == 0


def test_of_several_findings_on_an_image_the_worst_counts(
    root: Path, pseudonymiser: Pseudonymiser, rows: list[Row]
) -> None:
    worse = _row("P2_R_DM_MLO", ("Malignant", "5", "", ""))
    rows[0][CLASS] = "Benign $ Malignant"
    _write_table(root, [worse, *rows])
    _, found = _import(root, pseudonymiser)
    for name in ("P1_L_DM_CC", "P2_R_DM_MLO"):
        assert found.loc[name, "pathology_class"] == "malignant"
        assert found.loc[name, "cancer_pathology"] == 1
    assert found.loc["P2_R_DM_MLO", "birads"] == 5


def test_loose_ends_are_counted(root: Path, pseudonymiser: Pseudonymiser) -> None:
    (root / LOW / "P1_L_DM_CC.jpg").unlink()
    _write_image(root / LOW / "P3_L_DM_CC.jpg", 20)
    _write_image(root / LOW / "figure.png", 21)
    (root / LOW / "P4_L_DM_CC.jpg").write_bytes(b"\xff\xd8 cut off")
    imported, rows = _import(root, pseudonymiser)
    assert imported.notes["table_rows_unmatched"] == 1
    assert imported.notes["files_unmatched"] == 2
    assert rows.loc["P3_L_DM_CC", "status"] == "ok"
    assert rows.loc["figure.png", "reason"] == "X_NO_PATIENT"
    assert rows.loc["P4_L_DM_CC", "reason"] == "Q_CODESTREAM"


def test_a_subset_without_patients_is_sent_to_image_folder(
    tmp_path: Path, pseudonymiser: Pseudonymiser
) -> None:
    _write_image(tmp_path / "IM0001.jpg", 0)
    (tmp_path / "labels.csv").write_text("file,category\nIM0001.jpg,benign\n")
    with pytest.raises(ImporterError, match=r"image_folder with smoke_test") as caught:
        _import(tmp_path, pseudonymiser)
    assert "IM0001" not in str(caught.value)


def test_the_table_may_have_another_name_and_other_columns(
    root: Path, pseudonymiser: Pseudonymiser, rows: list[Row]
) -> None:
    kept = [{"image": row["Image_name"], "truth": row[CLASS]} for row in rows]
    _write_table(root, kept, delimiter=";")
    (root / TABLE).rename(root / "export.txt")
    options = {
        "table": "export.txt",
        "delimiter": ";",
        "image_column": "image",
        "class_column": "truth",
    }
    imported, found = _import(root, pseudonymiser, **options)
    assert imported.notes["files"] == 8
    assert found.loc["P1_L_DM_CC", "cancer_pathology"] == 1
    assert found["birads"].isna().all()


def test_the_workbook_says_the_same_as_its_copy(
    root: Path, pseudonymiser: Pseudonymiser, rows: list[Row]
) -> None:
    published, _ = _import(root, pseudonymiser)
    _write_table(root, rows)
    copy, _ = _import(root, pseudonymiser)
    pd.testing.assert_frame_equal(published.manifest, copy.manifest)
    assert published.notes == copy.notes


def test_a_copy_is_read_instead_of_the_workbook(
    root: Path, pseudonymiser: Pseudonymiser, rows: list[Row]
) -> None:
    (root / WORKBOOK).write_bytes(b"no workbook")
    with pytest.raises(ImporterError, match=r"cannot be read .*save the sheet all as"):
        _import(root, pseudonymiser)
    _write_table(root, rows)
    _, found = _import(root, pseudonymiser)
    assert found.loc["P1_L_DM_CC", "cancer_pathology"] == 1


def test_missing_table_sheet_and_column_are_named(
    root: Path, pseudonymiser: Pseudonymiser, rows: list[Row]
) -> None:
    _write_workbook(root, {"CESM": rows})
    with pytest.raises(ImporterError, match=f"{WORKBOOK} has no sheet all"):
        _import(root, pseudonymiser)
    (root / WORKBOOK).unlink()
    with pytest.raises(ImporterError, match=r"No table .*its sheet all saved as CSV"):
        _import(root, pseudonymiser)
    _write_table(root, [{"Image_name": row["Image_name"]} for row in rows])
    with pytest.raises(ImporterError, match=f"{TABLE} lacks.*{CLASS}"):
        _import(root, pseudonymiser)
    (root / TABLE).write_bytes(b"PK\x03\x04\xff")
    with pytest.raises(ImporterError, match=r"no CSV file in UTF-8"):
        _import(root, pseudonymiser)


def test_an_unknown_class_is_refused_without_quoting_it(
    root: Path, pseudonymiser: Pseudonymiser, rows: list[Row]
) -> None:
    rows[0][CLASS] = "Jane Doe"
    _write_table(root, rows)
    with pytest.raises(ImporterError, match=f"column {CLASS}: 1 cells") as caught:
        _import(root, pseudonymiser)
    assert "Jane" not in str(caught.value)


@pytest.mark.parametrize("options", [{"delimiter": ";;"}, {"allow_8bit": True}])
def test_bad_options_are_named(
    root: Path, pseudonymiser: Pseudonymiser, options: dict[str, Any]
) -> None:
    with pytest.raises(ImporterError, match="importer cdd_cesm"):
        _import(root, pseudonymiser, **options)


def test_nothing_in_the_manifest_names_a_patient_or_a_file(
    root: Path, pseudonymiser: Pseudonymiser
) -> None:
    imported, _ = _import(root, pseudonymiser)
    text = imported.manifest.to_csv()
    assert not [word for word in ("P1", "P2", "_DM_", "jpg") if word in text]


def test_the_archive_goes_through_check_and_preparation(
    root: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    goes_through("cdd_cesm", root, tmp_path_factory.mktemp("site"))
