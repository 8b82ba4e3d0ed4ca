"""The example of options for a hospital like HCTP imports such a hospital."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest

from client.data.importers import Imported, ImporterError, hospital
from client.data.importers.files import Source
from client.data.labels import label
from client.data.pseudonyms import Pseudonymiser
from client.data.site_data import read_options
from common.plan import Target
from tests.support.through import goes_through

EXAMPLE = Path(__file__).parents[4] / "configs" / "examples" / "hctp.yaml"
HEAD = "BreastID,FilePath,OneHotLabel,ImageLaterality\n"
IMAGES = [
    ("exams/17/one", "Anna", "L", "CC"),
    ("exams/17/two", "Anna", "L", "MLO"),
    ("exams/17/three", "Anna", "R", "CC"),
    ("exams/18/one", "Berta", "R", "CC"),
    ("exams/18/without a row", "Berta", "R", "MLO"),
]


@pytest.fixture
def root(tmp_path: Path, dicom: ModuleType) -> Path:
    """Two patients; names without extension; a report; and the table."""
    for number, (name, patient, side, view) in enumerate(IMAGES):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        content = dicom.image(
            dicom.phantom(seed=number),
            SOPInstanceUID=f"1.2.7.{number + 1}",
            StudyInstanceUID=f"1.2.6.{name.split('/')[1]}",
            PatientID=patient,
            ImageLaterality=side,
            ViewPosition=view,
        )
        path.write_bytes(content)
    removed = {"Rows": None, "Columns": None, "PixelData": None}
    (tmp_path / "exams/18/report").write_bytes(dicom.image(Modality="SR", **removed))
    _write(
        tmp_path,
        'B1,exams/17/one,"[0, 1]",L\n'
        'B1,exams\\17\\two,"[0, 1]",LEFT\n'
        'B2,./exams/17/three,"[1, 0]",R\n'
        'B3,exams/18/one,"[1, 0]",R\n'
        'B4,exams/19/not exported,"[0, 1]",L\n',
    )
    return tmp_path


def _write(root: Path, rows: str) -> None:
    (root / "labels.csv").write_text(HEAD + rows, encoding="utf-8-sig")


def _import(root: Path, pseudonymiser: Pseudonymiser) -> tuple[Imported, pd.DataFrame]:
    options: dict[str, Any] = read_options(EXAMPLE)
    imported = hospital.import_archive(Source(root, pseudonymiser), "s", options)
    rows = imported.manifest.merge(imported.linkage, on="row_id")
    return imported, rows.set_index("source_path")


def test_one_hot_texts_become_facts_of_the_breast(
    root: Path, pseudonymiser: Pseudonymiser
) -> None:
    _, rows = _import(root, pseudonymiser)
    labelled = rows.loc[[name for name, *_ in IMAGES[:4]]]
    assert list(labelled["cancer_pathology"]) == [1, 1, 0, 0]
    assert list(labelled["pathology_class"]) == ["malignant"] * 2 + ["benign"] * 2
    assert set(labelled["label_level"]) == {"breast"}
    assert set(labelled["label_source"]) == {"pathology"}
    assert rows.loc["exams/17/one", "dataset"] == "hctp"


def test_every_file_is_a_row_and_loose_ends_are_counted(
    root: Path, pseudonymiser: Pseudonymiser
) -> None:
    imported, rows = _import(root, pseudonymiser)
    assert imported.notes == {
        "files": 6,
        "table_rows_unmatched": 1,
        "files_unmatched": 1,
    }
    assert len(rows) == 6
    assert rows.loc["exams/18/report", "reason"] == "X_NOT_IMAGE"
    lone = rows.loc["exams/18/without a row"]
    assert lone["status"] == "ok" and pd.isna(lone["cancer_pathology"])


def test_a_breast_without_a_complete_label_is_unknown_to_a_plan(
    root: Path, pseudonymiser: Pseudonymiser
) -> None:
    _, rows = _import(root, pseudonymiser)
    targets = label(rows[rows["status"] == "ok"], Target())
    assert [targets[name] for name, *_ in IMAGES[:3]] == [1, 1, 0]
    assert pd.isna(targets["exams/18/one"])


def test_patients_come_from_the_headers_not_from_the_breasts(
    root: Path, pseudonymiser: Pseudonymiser
) -> None:
    _, rows = _import(root, pseudonymiser)
    assert rows.loc["exams/17/one", "patient_key"] == pseudonymiser.patient("Anna")
    images = rows[rows["status"] == "ok"]
    assert images["patient_key"].nunique() == 2
    assert images["breast_key"].nunique() == 3


def test_a_wrong_side_is_remarked_and_an_unknown_label_refused(
    root: Path, pseudonymiser: Pseudonymiser
) -> None:
    _write(root, 'B1,exams/17/one,"[0, 1]",R\n')
    _, rows = _import(root, pseudonymiser)
    assert rows.loc["exams/17/one", "reason"] == "W_SIDE"
    _write(root, "B1,exams/17/one,Anna Smith,L\n")
    with pytest.raises(ImporterError, match=r"OneHotLabel.*\[2\]") as caught:
        _import(root, pseudonymiser)
    assert "Anna" not in str(caught.value)


def test_nothing_in_the_manifest_names_anybody(
    root: Path, pseudonymiser: Pseudonymiser
) -> None:
    imported, _ = _import(root, pseudonymiser)
    text = imported.manifest.to_csv()
    assert not [word for word in ("Anna", "Berta", "1.2.7.", "exams") if word in text]


def test_the_archive_goes_through_check_and_preparation(
    root: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    site = tmp_path_factory.mktemp("site")
    assert goes_through("hospital", root, site, **read_options(EXAMPLE)) == 5
