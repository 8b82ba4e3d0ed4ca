"""CSAW-CC: truth by breast and year, and what the years before leave unknown."""

from __future__ import annotations

import csv
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest

from client.data.importers import Imported, ImporterError, csaw_cc
from client.data.importers.files import Source
from client.data.labels import label
from client.data.pseudonyms import Pseudonymiser
from common.plan import Target
from tests.support.through import goes_through

HEADER = (
    "anon_patientid,exam_year,x_age,x_case,x_cancer_laterality,x_type,x_lymphnode_met,"
    "rad_timing,rad_r1,rad_r2,rad_recall,rad_recall_type_right,rad_recall_type_left,"
    "imagelaterality,viewposition,libra_breastarea,libra_densearea,"
    "libra_percentdensity,anon_filename"
)
OUTCOMES = {
    # patient, year -> case, side of the cancer, timing
    ("00002", "2011"): ("1", "Left", "3.0"),
    ("00002", "2013"): ("1", "Left", "2.0"),
    ("00002", "2015"): ("1", "Left", "1.0"),
    ("00004", "2014"): ("0", "", ""),
    ("00007", "2012"): ("1", "NaN", "1.0"),
}
VIEWS = (("Left", "CC"), ("Left", "MLO"), ("Right", "CC"), ("Right", "MLO"))
Row = dict[str, str]


def _name(patient: str, side: str, view: str, number: int) -> str:
    return f"{patient}_20990909_{side[0]}_{view}_{number}.dcm"


def _row(patient: str, year: str, side: str, view: str, name: str) -> Row:
    case, where, timing = OUTCOMES[patient, year]
    return dict.fromkeys(HEADER.split(","), "1") | {
        "anon_patientid": patient,
        "exam_year": year,
        "x_age": "2",
        "x_case": case,
        "x_cancer_laterality": where,
        "rad_timing": timing,
        "rad_recall": "",
        "imagelaterality": side,
        "viewposition": view,
        "anon_filename": name,
    }


@pytest.fixture
def rows() -> list[Row]:
    """Four views of five exams."""
    table = []
    for number, (patient, year) in enumerate(OUTCOMES, start=1):
        for side, view in VIEWS:
            name = _name(patient, side, view, number)
            table.append(_row(patient, year, side, view, name))
    return table


@pytest.fixture
def root(tmp_path: Path, dicom: ModuleType, rows: list[Row]) -> Path:
    """The archive; headers name neither side nor view, and one date for all."""
    _write_table(tmp_path, rows)
    for number, row in enumerate(rows):
        _write_image(tmp_path, dicom, row["anon_filename"], number)
    return tmp_path


def _write_table(root: Path, rows: list[Row]) -> None:
    with (root / csaw_cc.TABLE).open("w", encoding="utf-8-sig", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _write_image(
    root: Path, dicom: ModuleType, name: str, number: int, **elements: str | None
) -> None:
    folder = root / "images"
    folder.mkdir(exist_ok=True)
    given = {
        "SOPInstanceUID": f"1.2.5.{number + 1}",
        "StudyInstanceUID": f"1.2.4.{number + 1}",
        "PatientID": "anonymous",
        "PatientAge": None,
        "StudyDate": "20990909",
        "ImageLaterality": None,
        "ViewPosition": None,
    }
    content = dicom.image(dicom.phantom(seed=number), **given | elements)
    (folder / name).write_bytes(content)


def _import(
    root: Path, pseudonymiser: Pseudonymiser, **options: bool
) -> tuple[Imported, pd.DataFrame]:
    imported = csaw_cc.import_archive(Source(root, pseudonymiser), "s", options)
    rows = imported.manifest.merge(imported.linkage, on="row_id")
    rows["name"] = rows["source_path"].str.removeprefix("images/")
    return imported, rows.set_index("name").sort_index()


def _breast(rows: pd.DataFrame, patient: str, side: str, number: int) -> pd.Series:
    names = [_name(patient, side, view, number) for view in ("CC", "MLO")]
    pair = rows.loc[names]
    assert pair["breast_key"].nunique() == 1
    assert pair["cancer_pathology"].nunique(dropna=False) == 1
    return pair.iloc[0]


def test_every_file_is_a_row_with_side_view_and_vendor(
    root: Path, pseudonymiser: Pseudonymiser
) -> None:
    (root / "CSAW-CC_Readme.docx").write_bytes(b"words")
    imported, rows = _import(root, pseudonymiser)
    assert len(rows) == imported.notes["files"] == 21
    assert imported.notes["table_rows_unmatched"] == 0
    assert imported.notes["files_unmatched"] == 0
    assert rows.loc["CSAW-CC_Readme.docx", "reason"] == "X_NOT_IMAGE"
    images = rows[rows["status"] == "ok"]
    assert len(images) == 20 and set(images["vendor"]) == {"hologic"}
    for name, row in images.iterrows():
        assert f"_{row['laterality']}_{row['view']}_" in str(name)


def test_exams_are_ordered_by_year_not_by_the_placeholder_date(
    root: Path, pseudonymiser: Pseudonymiser
) -> None:
    _, rows = _import(root, pseudonymiser)
    patient = rows[rows["patient_key"] == pseudonymiser.patient("00002")]
    assert len(patient) == 12 and patient["exam_key"].nunique() == 3
    orders = [_breast(rows, "00002", "Left", n)["exam_order"] for n in (1, 2, 3)]
    assert orders == [0, 1, 2]
    assert rows["patient_key"].nunique() == 3


def test_only_the_breast_and_exam_of_a_screen_detected_cancer_are_positive(
    root: Path, pseudonymiser: Pseudonymiser
) -> None:
    _, rows = _import(root, pseudonymiser)
    positive = _breast(rows, "00002", "Left", 3)
    assert positive["cancer_pathology"] == 1
    assert positive["pathology_class"] == "malignant"
    assert positive["label_level"] == "breast"
    assert positive["label_source"] == "registry"
    for number in (1, 2):  # years before, and a cancer between screenings
        before = _breast(rows, "00002", "Left", number)
        assert pd.isna(before["cancer_pathology"]) and pd.isna(before["label_source"])
    for number in (1, 2, 3):
        other = _breast(rows, "00002", "Right", number)
        assert other["cancer_pathology"] == 0
        assert pd.isna(other["pathology_class"])
    assert _breast(rows, "00004", "Left", 4)["cancer_pathology"] == 0


def test_interval_cancers_count_only_on_request(
    root: Path, pseudonymiser: Pseudonymiser
) -> None:
    _, rows = _import(root, pseudonymiser, include_interval=True)
    cancers = [_breast(rows, "00002", "Left", n)["cancer_pathology"] for n in (1, 2, 3)]
    assert pd.isna(cancers[0]) and cancers[1:] == [1, 1]


def test_cancer_of_an_unrecorded_side_leaves_both_breasts_unknown(
    root: Path, pseudonymiser: Pseudonymiser
) -> None:
    _, rows = _import(root, pseudonymiser)
    for side in ("Left", "Right"):
        assert pd.isna(_breast(rows, "00007", side, 5)["cancer_pathology"])


def test_a_plan_sees_one_zero_and_unknown(
    root: Path, pseudonymiser: Pseudonymiser
) -> None:
    _, rows = _import(root, pseudonymiser)
    targets = label(rows, Target())
    assert targets.value_counts().to_dict() == {0: 10, 1: 2}
    assert targets.isna().sum() == 8


def test_age_groups_and_readers_are_not_taken_as_facts(
    root: Path, pseudonymiser: Pseudonymiser
) -> None:
    _, rows = _import(root, pseudonymiser)
    for name in ("age_years", "density", "birads", "split_official"):
        assert rows[name].isna().all()


def test_an_exam_of_eight_images_keeps_them_all(
    root: Path, pseudonymiser: Pseudonymiser, dicom: ModuleType, rows: list[Row]
) -> None:
    for number, (side, view) in enumerate(VIEWS, start=40):
        name = _name("00004", side, view, 6)
        rows.append(_row("00004", "2014", side, view, name))
        _write_image(root, dicom, name, number)
    _write_table(root, rows)
    _, found = _import(root, pseudonymiser)
    patient = found[found["patient_key"] == pseudonymiser.patient("00004")]
    assert len(patient) == 8 and set(patient["status"]) == {"ok"}
    assert patient["exam_key"].nunique() == 1 and patient["breast_key"].nunique() == 2


def test_loose_ends_are_counted_and_stay_with_their_patient(
    root: Path, pseudonymiser: Pseudonymiser, dicom: ModuleType, rows: list[Row]
) -> None:
    name = _name("00004", "Left", "CC", 9)
    _write_image(root, dicom, name, 50, ImageLaterality="L", ViewPosition="CC")
    (root / "images" / rows[0]["anon_filename"]).unlink()
    imported, found = _import(root, pseudonymiser)
    assert imported.notes["table_rows_unmatched"] == 1
    assert imported.notes["files_unmatched"] == 1
    lone = found.loc[name]
    assert lone["patient_key"] == pseudonymiser.patient("00004")
    assert pd.isna(lone["cancer_pathology"]) and pd.isna(lone["exam_order"])


def test_the_table_gives_the_side_and_a_contradiction_is_remarked(
    root: Path, pseudonymiser: Pseudonymiser, dicom: ModuleType, rows: list[Row]
) -> None:
    name = rows[0]["anon_filename"]
    _write_image(root, dicom, name, 0, ImageLaterality="R", ViewPosition="MLO")
    _, found = _import(root, pseudonymiser)
    row = found.loc[name]
    assert (row["laterality"], row["view"], row["reason"]) == ("L", "CC", "W_SIDE")


def test_the_table_may_lie_in_any_folder(
    root: Path, pseudonymiser: Pseudonymiser
) -> None:
    (root / "docs").mkdir()
    (root / csaw_cc.TABLE).rename(root / "docs" / csaw_cc.TABLE)
    imported, _ = _import(root, pseudonymiser)
    assert imported.notes["files"] == 20


def test_missing_table_and_column_are_named(
    root: Path, pseudonymiser: Pseudonymiser, rows: list[Row]
) -> None:
    short = [{k: v for k, v in row.items() if k != "rad_timing"} for row in rows]
    _write_table(root, short)
    with pytest.raises(ImporterError, match=rf"{csaw_cc.TABLE} lacks.*rad_timing"):
        _import(root, pseudonymiser)
    (root / csaw_cc.TABLE).unlink()
    with pytest.raises(ImporterError, match=f"No table {csaw_cc.TABLE}"):
        _import(root, pseudonymiser)


@pytest.mark.parametrize(
    ("column", "word"), [("rad_timing", "00002"), ("x_cancer_laterality", "00002")]
)
def test_unknown_words_are_refused_without_quoting_them(
    root: Path, pseudonymiser: Pseudonymiser, rows: list[Row], column: str, word: str
) -> None:
    rows[1][column] = word
    _write_table(root, rows)
    with pytest.raises(ImporterError, match=rf"column {column}: 1 cells") as caught:
        _import(root, pseudonymiser)
    assert word not in str(caught.value)


def test_rows_that_contradict_each_other_are_refused(
    root: Path, pseudonymiser: Pseudonymiser, rows: list[Row]
) -> None:
    _write_table(root, [*rows, rows[0]])
    _import(root, pseudonymiser)
    _write_table(root, [*rows, rows[0] | {"exam_year": "2001"}])
    with pytest.raises(ImporterError, match="contradict") as caught:
        _import(root, pseudonymiser)
    assert "00002" not in str(caught.value)


def test_unknown_options_are_named(root: Path, pseudonymiser: Pseudonymiser) -> None:
    with pytest.raises(ImporterError, match="importer csaw_cc"):
        _import(root, pseudonymiser, interval=True)


def test_nothing_in_the_manifest_names_a_patient(
    root: Path, pseudonymiser: Pseudonymiser
) -> None:
    imported, _ = _import(root, pseudonymiser)
    text = imported.manifest.drop(columns=["row_id"]).to_csv(index=False)
    words = ("00002_", "20990909", "1.2.5.", "1.2.4.", "anonymous", ",2013,")
    assert not [word for word in words if word in text]


def test_the_archive_goes_through_check_and_preparation(
    root: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    goes_through("csaw_cc", root, tmp_path_factory.mktemp("site"))
