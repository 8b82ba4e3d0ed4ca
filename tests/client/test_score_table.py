"""Rows that a hospital reads: breasts, exams, and its own names for them."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from client.data.site_data import import_site, prepare_site
from client.prediction import PredictionError
from client.score_table import (
    COLUMNS,
    NOTE,
    identify,
    require_free,
    table_of,
    write_table,
)
from common.plan import Preprocessing
from tests.support import dicom_files

SMALL = Preprocessing(rows=32, columns=16)


def _scores(*rows: tuple[str, str, str, float]) -> pd.DataFrame:
    """Make score rows of one exam: side, view, volume or nothing, score."""
    frame = pd.DataFrame(rows, columns=["laterality", "view", "volume_key", "score"])
    return frame.assign(
        row_id=[str(number) for number in range(len(rows))],
        volume_key=frame["volume_key"].replace("", None).astype("string"),
        patient_key="patient",
        exam_key="exam",
        breast_key=frame["laterality"],
        target=pd.array([pd.NA] * len(rows), "Int8"),
    )


NAMES = pd.DataFrame({"patient": ["P1"], "exam": ["A1"], "study": ["1.2"]}, ["exam"])


def test_a_breast_is_the_mean_of_its_rows_and_an_exam_the_higher_breast() -> None:
    """Three slices of one volume weigh as three, as in an evaluation."""
    left = [0.1, 0.2, 0.3, 0.9]
    rows = [("L", "CC", "volume", score) for score in left[:3]]
    table = table_of(
        _scores(*rows, ("L", "MLO", "", left[3]), ("R", "MLO", "", 0.35)),
        NAMES,
        0.375,
        "hash",
    )
    assert list(table.columns) == list(COLUMNS)
    assert list(table["level"]) == ["breast", "breast", "exam"]
    assert list(table["score"]) == pytest.approx([sum(left) / 4, 0.35, sum(left) / 4])
    assert list(table["above_threshold"]) == [True, False, True]
    assert list(table["images"]) == [2, 1, 3]
    assert list(table["views"]) == ["CC MLO", "MLO", "CC MLO"]
    assert list(table["laterality"]) == ["L", "R", "L R"]
    assert set(table["patient"]) == {"P1"} and set(table["note"]) == {NOTE}


def test_a_score_at_the_threshold_is_above_as_in_the_metrics() -> None:
    table = table_of(_scores(("L", "CC", "", 0.5)), NAMES, 0.5, "hash")
    assert list(table["above_threshold"]) == [True, True]
    table = table_of(_scores(("L", "CC", "", 0.5)), NAMES, None, "hash")
    assert table["above_threshold"].isna().all() and table["threshold"].isna().all()


def test_every_digit_and_every_odd_identifier_survives(tmp_path: Path) -> None:
    score = math.nextafter(1 / 3, 1)
    odd = '007, "Ö"\nÅ'
    table = table_of(
        _scores(("L", "CC", "", score)), NAMES.assign(patient=odd), None, "hash"
    )
    write_table(tmp_path / "out.csv", table)
    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 2 and float(rows[0]["score"]) == score
    assert rows[0]["patient"] == odd
    assert rows[0]["above_threshold"] == rows[0]["threshold"] == ""


def _prepared(folder: Path, **elements: Any) -> pd.DataFrame:
    root, site = folder / "new", folder / "site"
    root.mkdir()
    (root / "image").write_bytes(dicom_files.image(**elements))
    import_site("hospital", root, site, "north")
    rows = prepare_site(site, root, SMALL).rows
    return identify(rows.assign(score=0.5), site, root, lambda done, total: None)


@pytest.mark.parametrize(
    ("elements", "expected"),
    [
        ({"AccessionNumber": "A7"}, ("P1", "A7", "1.2.3.100")),
        ({}, ("P1", "1.2.3.100", "1.2.3.100")),
        ({"PatientID": ""}, ("", "1.2.3.100", "1.2.3.100")),
        ({"StudyInstanceUID": None, "AccessionNumber": "A7"}, ("P1", "A7", "")),
    ],
)
def test_exams_have_the_names_of_the_header(
    tmp_path: Path, elements: dict[str, str | None], expected: tuple[str, ...]
) -> None:
    names = _prepared(tmp_path, **elements)
    assert [tuple(row) for row in names.itertuples(index=False)] == [expected]
    assert list(names.columns) == ["patient", "exam", "study"]


def test_a_place_for_the_table_is_looked_at_first(tmp_path: Path) -> None:
    root, there = tmp_path / "new", tmp_path / "there.csv"
    root.mkdir()
    there.touch()
    require_free(tmp_path / "out.csv", root, replace=False)
    require_free(there, root, replace=True)
    (tmp_path / "link").symlink_to(root)
    for out, replace, told in (
        (there, False, "is there already"),
        (tmp_path, True, "is there already"),
        (root / "out.csv", True, "would lie among"),
        (tmp_path / "link" / "out.csv", True, "would lie among"),
        (tmp_path / "nowhere" / "out.csv", False, "no folder that can be written"),
    ):
        with pytest.raises(PredictionError, match=told):
            require_free(out, root, replace=replace)
