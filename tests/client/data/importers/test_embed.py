"""EMBED: findings reach the breast they are about, and no other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from client.data.importers import Imported, ImporterError, embed
from client.data.importers.embed_tables import MODIFIER, read_exams, read_images
from client.data.importers.files import Source
from client.data.labels import label
from client.data.pseudonyms import Pseudonymiser
from common.plan import Target
from tests.support.embed_archive import EXAM, PATIENT, Embed
from tests.support.through import goes_through


@pytest.fixture
def archive(tmp_path: Path) -> Embed:
    """One exam: a left cancer, the right breast negative."""
    made = Embed(tmp_path)
    made.image("L")
    made.image("R")
    made.finding("L", "S", "0.0", "L")
    made.finding("R", "N")
    return made


def _import(
    archive: Embed,
    pseudonymiser: Pseudonymiser,
    tail: str = "_reduced",
    **options: Any,
) -> tuple[Imported, pd.DataFrame]:
    archive.write(tail)
    imported = embed.import_archive(Source(archive.root, pseudonymiser), "s", options)
    rows = imported.manifest.merge(imported.linkage, on="row_id")
    rows["name"] = rows["source_path"].str.rpartition("/")[2]
    return imported, rows.set_index("name").sort_index()


NAMES = ("cancer_pathology", "pathology_class", "birads", "label_level", "label_source")
NOTHING = (None,) * 5


def _facts(row: pd.Series) -> tuple[Any, ...]:
    return tuple(None if pd.isna(row[name]) else row[name] for name in NAMES)


def test_every_file_is_a_row_and_the_legend_is_not_read(
    archive: Embed, pseudonymiser: Pseudonymiser
) -> None:
    (archive.root / "README.md").write_text("words")
    (archive.root / "tables").mkdir()
    legend = archive.root / "tables" / "AWS_Open_Data_Clinical_Legend.csv"
    legend.write_bytes(b"\xef\xbb\xbfcode,na\xefve\n")
    imported, rows = _import(archive, pseudonymiser)
    assert imported.notes == {
        "files": 4,
        "table_rows_unmatched": 0,
        "exams_unmatched": 0,
        "files_unmatched": 0,
        "files_contralateral": 0,
    }
    assert list(rows["status"].value_counts()[["ok", "excluded"]]) == [2, 2]
    assert set(rows["reason"].dropna()) == {"X_NOT_IMAGE"}
    images = rows[rows["status"] == "ok"]
    assert set(images["patient_key"]) == {pseudonymiser.patient(PATIENT)}
    assert set(images["exam_key"]) == {pseudonymiser.exam(PATIENT, EXAM)}
    assert set(images["modality_kind"]) == {"FFDM"}


@pytest.mark.parametrize(
    ("findings", "left", "right"),
    [
        (
            [("L", "S", "0.0", "L"), ("R", "N")],
            (1, "malignant", 4, "breast", "pathology"),
            (None, None, 1, "breast", "radiologist"),
        ),
        (  # the smallest severity counts
            [("L", "S", "4.0"), ("L", "S", "1.0"), ("L", "S", "6")],
            (1, "malignant", 4, "breast", "pathology"),
            NOTHING,
        ),
        (  # the other breast has no row, and nobody says it is negative
            [("R", "S", "2")],
            NOTHING,
            (0, "high_risk", 4, "breast", "pathology"),
        ),
        ([("L", "S", "3")], (0, None, 4, "breast", "pathology"), NOTHING),
        ([("L", "S", "4")], (0, "benign", 4, "breast", "pathology"), NOTHING),
        ([("L", "S", "5")], (0, "normal", 4, "breast", "pathology"), NOTHING),
        ([("L", "M", "6")], (None, None, 5, "breast", "radiologist"), NOTHING),
        (
            [("B", "S", "4")],
            (0, "benign", 4, "breast", "pathology"),
            (0, "benign", 4, "breast", "pathology"),
        ),
        (
            [("", "N")],
            (None, None, 1, "exam", "radiologist"),
            (None, None, 1, "exam", "radiologist"),
        ),
        (
            [("", "K", "1"), ("L", "S", "4")],
            (1, "malignant", 6, "exam", "pathology"),
            (1, "malignant", 6, "exam", "pathology"),
        ),
        (  # the specimen knows its side
            [("", "S", "0", "R")],
            (None, None, 4, "exam", "radiologist"),
            (1, "malignant", 4, "breast", "pathology"),
        ),
        (  # finding and specimen contradict each other
            [("L", "S", "0", "R")],
            (None, None, 4, "breast", "radiologist"),
            NOTHING,
        ),
        ([("L", "X")], NOTHING, NOTHING),
        (
            [("L", "P"), ("L", "A"), ("R", "B"), ("R", "N")],
            (None, None, 0, "breast", "radiologist"),
            (None, None, 2, "breast", "radiologist"),
        ),
    ],
)
def test_findings_reach_the_breast_they_are_about(
    archive: Embed,
    pseudonymiser: Pseudonymiser,
    findings: list[tuple[str, ...]],
    left: tuple[Any, ...],
    right: tuple[Any, ...],
) -> None:
    archive.findings.clear()
    for finding in findings:
        archive.finding(*finding)
    _, rows = _import(archive, pseudonymiser)
    assert _facts(rows[rows["laterality"] == "L"].iloc[0]) == left
    assert _facts(rows[rows["laterality"] == "R"].iloc[0]) == right


ASSUMED = (0, "normal", None, "breast", "assumed")


@pytest.mark.parametrize(
    ("findings", "right"),
    [
        ([("L", "S", "0", "L")], ASSUMED),
        ([("L", "S"), ("L", "X")], ASSUMED),
        ([("L", "S", "0"), ("R", "N")], (None, None, 1, "breast", "radiologist")),
        ([("B", "N")], (None, None, 1, "breast", "radiologist")),
        ([("L", "S"), ("", "N")], (None, None, 1, "exam", "radiologist")),
        ([("", "X"), ("L", "S")], NOTHING),  # it may be about either breast
        ([("L", "S", "0", "R")], NOTHING),  # finding and specimen contradict each other
        ([("R", "X")], NOTHING),  # a finding that says nothing is one all the same
    ],
)
def test_the_other_breast_is_assumed_normal_only_by_option(
    archive: Embed,
    pseudonymiser: Pseudonymiser,
    findings: list[tuple[str, ...]],
    right: tuple[Any, ...],
) -> None:
    archive.findings.clear()
    for finding in findings:
        archive.finding(*finding)
    by_default, rows = _import(archive, pseudonymiser)
    other = _facts(rows[rows["laterality"] == "R"].iloc[0])
    assert other == (NOTHING if right == ASSUMED else right)
    imported, rows = _import(archive, pseudonymiser, contralateral_normal=True)
    assert _facts(rows[rows["laterality"] == "R"].iloc[0]) == right
    assert imported.notes == by_default.notes
    one_sided = right == ASSUMED or findings == [("R", "X")]
    assert imported.notes["files_contralateral"] == one_sided


def test_a_plan_must_accept_what_is_assumed(
    archive: Embed, pseudonymiser: Pseudonymiser
) -> None:
    archive.findings.clear()
    archive.finding("L", "S", "0", "L")
    _, rows = _import(archive, pseudonymiser, contralateral_normal=True)
    rows = rows[rows["status"] == "ok"].sort_values("laterality")
    assert list(label(rows, Target()).fillna(-1)) == [1, -1]
    explicit = Target(label_sources=("pathology", "assumed"))
    assert list(label(rows, explicit).fillna(-1)) == [1, 0]


def test_a_plan_sees_one_zero_and_unknown(
    archive: Embed, pseudonymiser: Pseudonymiser
) -> None:
    expected = {}
    for exam, finding, targets in (
        ("1", ("L", "S", "0"), (1, None)),
        ("2", ("R", "S", "4"), (None, 0)),
        ("3", ("", "S", "0"), (None, None)),
        ("4", ("", "S", "5"), (0, 0)),
        ("5", ("", "N"), (None, None)),
    ):
        archive.finding(*finding, exam=exam)
        for side, target in zip("LR", targets, strict=True):
            expected[archive.image(side, exam=exam)] = target
    _, rows = _import(archive, pseudonymiser)
    found = label(rows, Target())
    for name, target in expected.items():
        assert (None if pd.isna(found[name]) else found[name]) == target


def test_an_assessment_of_the_exam_does_not_become_that_of_the_biopsied_breast(
    archive: Embed, pseudonymiser: Pseudonymiser
) -> None:
    archive.findings.clear()
    archive.finding("", "S")
    archive.finding("L", "N", "4")
    _, rows = _import(archive, pseudonymiser)
    biopsied = rows[rows["laterality"] == "L"].iloc[0]
    assert biopsied["cancer_pathology"] == 0
    assert biopsied["label_level"] == "breast"
    assert pd.isna(biopsied["birads"])
    other = rows[rows["laterality"] == "R"].iloc[0]
    assert (other["birads"], other["label_level"]) == (4, "exam")


def test_files_are_found_whatever_folders_lie_between(
    archive: Embed, pseudonymiser: Pseudonymiser
) -> None:
    for row in archive.images:
        front, _, name = row["anon_dicom_path"].rpartition("/")
        row["anon_dicom_path"] = f" {front}/1.2.840.1/{name}"
    imported, _ = _import(archive, pseudonymiser)
    assert imported.notes["table_rows_unmatched"] == 0
    assert imported.notes["files_unmatched"] == 0


def test_kinds_are_told_apart_and_screens_excluded(
    archive: Embed, pseudonymiser: Pseudonymiser
) -> None:
    kinds = {
        archive.image("L", FinalImageType=word): (word, kind, reason)
        for word, kind, reason in (
            ("2D", "FFDM", None),
            ("C-view", "SYNTH2D", None),
            ("cview", "SYNTH2D", None),
            ("3D", "DBT", None),
            ("ROI_SSC", "FFDM", "X_SECONDARY_CAPTURE"),
            ("ROI_SS", "FFDM", "X_SECONDARY_CAPTURE"),
            ("other", "FFDM", None),
        )
    }
    _, rows = _import(archive, pseudonymiser)
    for name, (word, kind, reason) in kinds.items():
        row = rows.loc[name]
        found = None if pd.isna(row["reason"]) else row["reason"]
        assert (row["modality_kind"], found) == (kind, reason), word


def test_special_views_are_excluded_and_unmarked_ones_kept(
    archive: Embed, pseudonymiser: Pseudonymiser
) -> None:
    for row in archive.images:
        row[MODIFIER] = ""
    spot = archive.image("L", spot_mag="1.0", **{MODIFIER: "Spot Compression"})
    mag = archive.image("L", spot_mag="1.0", **{MODIFIER: "Magnification"})
    plain = archive.image("L", spot_mag="NaN", **{MODIFIER: ""})
    zero = archive.image("L", spot_mag="0", **{MODIFIER: ""})
    _, rows = _import(archive, pseudonymiser, tail="")
    assert rows.loc[spot, "reason"] == "X_SPOT"
    assert rows.loc[mag, "reason"] == "X_MAG"
    assert list(rows.loc[[plain, zero], "status"]) == ["ok", "ok"]
    for row in archive.images:
        del row[MODIFIER]
    _, rows = _import(archive, pseudonymiser)  # the reduced table comes first
    assert list(rows.loc[[spot, mag], "reason"]) == ["X_SPOT", "X_SPOT"]


def test_rows_are_deduplicated_by_file(
    archive: Embed, pseudonymiser: Pseudonymiser
) -> None:
    archive.images.append(dict(archive.images[0]))
    imported, rows = _import(archive, pseudonymiser)
    assert imported.notes["table_rows_unmatched"] == 0
    assert set(rows["status"]) == {"ok"}
    archive.images.append(archive.images[0] | {"ImageLateralityFinal": "R"})
    archive.images.append(dict(archive.images[0]))
    _, rows = _import(archive, pseudonymiser)
    assert sorted(rows["reason"].fillna("")) == ["", "X_CONFLICT"]


@pytest.mark.parametrize(
    ("code", "density"), [("1", "A"), ("4.0", "D"), ("5", None), ("", None)]
)
def test_density_is_that_of_the_exam_and_unknown_for_men(
    archive: Embed, pseudonymiser: Pseudonymiser, code: str, density: str | None
) -> None:
    archive.findings.clear()
    archive.finding("L", tissueden=code)
    _, rows = _import(archive, pseudonymiser)
    assert [None if pd.isna(one) else one for one in rows["density"]] == [density] * 2


def test_exams_are_ordered_by_the_dates_of_the_table(
    archive: Embed, pseudonymiser: Pseudonymiser
) -> None:
    archive.finding("L", exam="1", study_date_anon="2015-01-01 00:00:00")
    archive.finding("L", exam="2", study_date_anon="2011-12-31")
    names = [archive.image("L", exam="1"), archive.image("L", exam="2")]
    _, rows = _import(archive, pseudonymiser)
    assert list(rows.loc[names, "exam_order"]) == [2, 0]
    archive.findings[-1]["study_date_anon"] = "12/31/2011"
    _, rows = _import(archive, pseudonymiser)
    assert rows["exam_order"].isna().all()


def test_the_table_fills_side_and_view_and_contradictions_are_remarked(
    archive: Embed, pseudonymiser: Pseudonymiser
) -> None:
    bare = {"ImageLaterality": None, "ViewPosition": None}
    filled = archive.image("L", "MLO", elements=bare)
    contrary = archive.image("R", elements={"ImageLaterality": "L"})
    unknown = archive.image("", elements=bare)
    _, rows = _import(archive, pseudonymiser)
    assert tuple(rows.loc[filled, ["laterality", "view"]]) == ("L", "MLO")
    assert tuple(rows.loc[contrary, ["laterality", "reason"]]) == ("R", "W_SIDE")
    assert rows.loc[contrary, "birads"] == 1
    assert rows.loc[unknown, "reason"] == "X_NO_SIDE"


def test_loose_ends_are_counted_and_stay_with_their_patient(
    archive: Embed, pseudonymiser: Pseudonymiser
) -> None:
    name = archive.image("L", exam="77")  # a file without a row
    row = archive.images.pop()
    archive.images.append(row | {"anon_dicom_path": ""})  # rows without a file
    lost = row["anon_dicom_path"].replace(name, "lost.dcm")
    archive.images.append(row | {"anon_dicom_path": lost})
    unlabelled = archive.image("L", exam="78")  # an exam without findings
    archive.finding("L", exam="79")  # findings without images
    imported, rows = _import(archive, pseudonymiser)
    assert imported.notes == {
        "files": 4,
        "table_rows_unmatched": 2,
        "exams_unmatched": 1,
        "files_unmatched": 2,
        "files_contralateral": 0,
    }
    assert set(rows["patient_key"]) == {pseudonymiser.patient(PATIENT)}
    assert _facts(rows.loc[name]) == _facts(rows.loc[unlabelled]) == NOTHING


@pytest.mark.parametrize(
    ("kind", "column"), [("clinical", "path_severity"), ("metadata", "spot_mag")]
)
def test_missing_table_and_column_are_named(
    archive: Embed, pseudonymiser: Pseudonymiser, kind: str, column: str
) -> None:
    for row in archive.findings if kind == "clinical" else archive.images:
        del row[column]
    table = f"EMBED_OpenData_{kind}_reduced.csv"
    with pytest.raises(ImporterError, match=rf"{table} lacks.*{column}"):
        _import(archive, pseudonymiser)
    (archive.root / "tables" / table).unlink()
    with pytest.raises(ImporterError, match=f"No table {table}"):
        embed.import_archive(Source(archive.root, pseudonymiser), "s", {})


@pytest.mark.parametrize("column", ["side", "path_severity"])
def test_unknown_words_are_refused_without_quoting_them(
    archive: Embed, pseudonymiser: Pseudonymiser, column: str
) -> None:
    archive.findings[0][column] = PATIENT
    with pytest.raises(ImporterError, match=rf"column {column}: 1 cells") as caught:
        _import(archive, pseudonymiser)
    assert PATIENT not in str(caught.value)


def test_a_table_that_is_no_text_is_refused(
    archive: Embed, pseudonymiser: Pseudonymiser
) -> None:
    archive.write()
    table = archive.root / "tables" / "EMBED_OpenData_clinical_reduced.csv"
    table.write_bytes(b"acc_anon,na\xefve\n")
    with pytest.raises(ImporterError, match="no table in UTF-8"):
        embed.import_archive(Source(archive.root, pseudonymiser), "s", {})


def test_race_and_identifiers_go_nowhere(
    archive: Embed, pseudonymiser: Pseudonymiser
) -> None:
    imported, _ = _import(archive, pseudonymiser)
    text = imported.manifest.to_csv()
    words = (PATIENT, EXAM, "1.2.826", "1.2.3.", "header", "2013-", "Hispanic")
    assert not [word for word in words if word in text]
    kept = repr((read_exams(archive.root), read_images(archive.root)))
    assert "African" not in kept and "Hispanic" not in kept


def test_the_archive_goes_through_check_and_preparation(
    archive: Embed, tmp_path_factory: pytest.TempPathFactory
) -> None:
    archive.write()
    goes_through("embed", archive.root, tmp_path_factory.mktemp("site"))
