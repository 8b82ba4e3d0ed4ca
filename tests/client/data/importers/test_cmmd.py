"""CMMD: biopsies of single breasts in a workbook, 8-bit display values."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pydicom.dataset import Dataset

from client.data.dicom import read_picture
from client.data.importers.cmmd import import_archive
from client.data.importers.files import Imported, ImporterError, Source
from client.data.labels import label
from client.data.pseudonyms import Pseudonymiser
from common.plan import Target
from tests.support.through import goes_through

XLSX = "CMMD_clinicaldata_revision.xlsx"
CSV = "CMMD_clinicaldata_revision.csv"
HEAD = ["ID1", "LeftRight", "Age", "number", "abnormality", "classification", "subtype"]
LINES: list[list[Any]] = [
    ["D1-0001", "R", 44, 2, "calcification", "Benign", None],
    ["D2-0005", "L", 61, 2, "both", "Malignant", "Luminal A"],
    ["D2-0005", "R", 61, 2, "mass", "Benign", None],
    ["D1-0009", "L", 50, 2, "mass", "Malignant", "HER2-enriched"],
]
# Patient, side, view. D1-0001 has an unlabelled breast, D1-0003 is in no table, and of
# D1-0009 nothing was downloaded.
IMAGES = [
    ("D1-0001", "L", "CC"),
    ("D1-0001", "L", "MLO"),
    ("D1-0001", "R", "CC"),
    ("D1-0001", "R", "MLO"),
    ("D2-0005", "L", "CC"),
    ("D2-0005", "R", "CC"),
    ("D1-0003", "L", "MLO"),
]
CODES = {"CC": "399162004", "MLO": "399368009"}


def _path(number: int) -> str:
    folders = "07-18-2010-NA-NA-79377/1.000000-NA-70244"
    return f"CMMD/{IMAGES[number][0]}/{folders}/1-{number}.dcm"


def _display(dicom: ModuleType, seed: int) -> np.ndarray:
    return (dicom.phantom(seed=seed) >> 4).astype(np.uint8)


def _image(dicom: ModuleType, number: int, **elements: Any) -> bytes:
    patient, side, view = IMAGES[number]
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator = CODES[view], "SCT"
    code.CodeMeaning = "a view"
    pixels = _display(dicom, number)
    usual: dict[str, Any] = {
        "SOPInstanceUID": f"1.3.6.1.4.1.14519.{number}",
        "StudyInstanceUID": f"1.3.6.1.4.1.14519.9.{number}",
        "StudyDate": "20100718",
        "PatientID": patient,
        "PatientAge": "046Y",
        "ImageType": ["DERIVED", "PRIMARY"],
        "Manufacturer": "",
        "ManufacturerModelName": None,
        "ImageLaterality": side,
        "ViewPosition": None,
        "ViewCodeSequence": [code],
        "BitsAllocated": 8,
        "BitsStored": 8,
        "HighBit": 7,
        "PixelData": pixels.tobytes(),
        "WindowCenter": 128,
        "WindowWidth": 256,
        "VOILUTFunction": "SIGMOID",
    }
    content: bytes = dicom.image(pixels, **(usual | elements))
    return content


def _csv(lines: list[list[Any]], delimiter: str = ",") -> str:
    texts = [["" if cell is None else str(cell) for cell in line] for line in lines]
    return "".join(delimiter.join(line) + "\n" for line in texts)


def _write(root: Path, name: str, content: bytes) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


@pytest.fixture
def root(tmp_path: Path, dicom: ModuleType) -> Path:
    (tmp_path / CSV).write_text(_csv([HEAD, *LINES]))
    (tmp_path / "metadata.csv").write_text("Series UID,Collection\n")
    (tmp_path / "LICENSE").write_text("CC BY 4.0\n")
    for number in range(len(IMAGES)):
        _write(tmp_path, _path(number), _image(dicom, number))
    return tmp_path


@pytest.fixture
def workbook(root: Path) -> Path:
    """The table as it is published; its last rows are empty."""
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    for line in [HEAD, *LINES, [None], ["", None, ""]]:
        book.active.append(line)
    book.save(root / XLSX)
    (root / CSV).unlink()
    return root / XLSX


def _import(
    root: Path, pseudonymiser: Pseudonymiser, **options: Any
) -> tuple[Imported, pd.DataFrame]:
    imported = import_archive(Source(root, pseudonymiser), "s", options)
    rows = imported.manifest.merge(imported.linkage, on="row_id")
    return imported, rows.set_index("source_path")


def test_every_file_is_a_row_and_the_counts_add_up(
    root: Path, pseudonymiser: Pseudonymiser
) -> None:
    imported, rows = _import(root, pseudonymiser)
    assert imported.notes == {
        "files": 9,
        "table_rows_unmatched": 1,
        "files_unmatched": 3,
        "files_contralateral": 2,
    }
    assert len(rows) == 9 and set(rows["dataset"]) == {"cmmd"}
    assert rows["reason"].dropna().to_dict() == {
        "metadata.csv": "X_NOT_IMAGE",
        "LICENSE": "X_NOT_IMAGE",
    }


def test_classification_is_pathology_of_the_breast(
    root: Path, pseudonymiser: Pseudonymiser
) -> None:
    _, rows = _import(root, pseudonymiser)
    fields = ["cancer_pathology", "pathology_class", "label_level", "label_source"]
    benign = [0, "benign", "breast", "pathology"]
    assert list(rows.loc[_path(2), fields]) == benign
    assert list(rows.loc[_path(3), fields]) == benign
    assert rows["birads"].isna().all() and rows["split_official"].isna().all()


def test_breasts_of_one_patient_may_be_of_both_classes(
    root: Path, pseudonymiser: Pseudonymiser
) -> None:
    _, rows = _import(root, pseudonymiser)
    both = rows.loc[[_path(4), _path(5)]]
    assert list(both["cancer_pathology"]) == [1, 0]
    assert list(both["pathology_class"]) == ["malignant", "benign"]
    assert both["patient_key"].nunique() == 1 and both["breast_key"].nunique() == 2


def test_the_other_breast_stays_unknown(
    root: Path, pseudonymiser: Pseudonymiser
) -> None:
    _, rows = _import(root, pseudonymiser)
    fields = ["cancer_pathology", "pathology_class", "label_level", "label_source"]
    other = rows.loc[[_path(0), _path(1), _path(6)]]
    assert set(other["status"]) == {"ok"}
    assert other[fields].isna().all(axis=None)


def test_the_other_breast_is_assumed_normal_only_by_option(
    root: Path, pseudonymiser: Pseudonymiser
) -> None:
    _, rows = _import(root, pseudonymiser, contralateral_normal=True)
    fields = ["cancer_pathology", "pathology_class", "label_level", "label_source"]
    assert list(rows.loc[_path(0), fields]) == [0, "normal", "breast", "assumed"]
    assert list(rows.loc[_path(2), fields]) == [0, "benign", "breast", "pathology"]
    # Nothing is assumed of a patient whom the table does not know.
    assert rows.loc[_path(6), fields].isna().all()


def test_default_target_takes_biopsies_and_no_assumption(
    root: Path, pseudonymiser: Pseudonymiser
) -> None:
    paths = [_path(number) for number in range(len(IMAGES))]
    for assumed in (False, True):
        _, rows = _import(root, pseudonymiser, contralateral_normal=assumed)
        labels = label(rows.loc[paths], Target())
        assert list(labels.fillna(-1)) == [-1, -1, 0, 0, 1, 0, -1]
    explicit = Target(label_sources=("pathology", "assumed"))
    labels = label(rows.loc[paths], explicit)
    assert list(labels.fillna(-1)) == [0, 0, 0, 0, 1, 0, -1]


def test_header_tells_side_view_and_age_and_nothing_of_the_manufacturer(
    root: Path, pseudonymiser: Pseudonymiser
) -> None:
    _, rows = _import(root, pseudonymiser)
    for number, (_, side, view) in enumerate(IMAGES):
        assert list(rows.loc[_path(number), ["laterality", "view"]]) == [side, view]
    images = rows[rows["status"] == "ok"]
    assert set(images["age_years"]) == {46}
    assert images[["vendor", "model", "machine"]].isna().all(axis=None)


def test_window_of_display_values_is_not_applied(
    root: Path, pseudonymiser: Pseudonymiser, dicom: ModuleType
) -> None:
    _, rows = _import(root, pseudonymiser)
    images = rows[rows["status"] == "ok"]
    assert set(images["voi_applied"]) == {"range"} and set(images["bits_stored"]) == {8}
    picture = read_picture((root / _path(0)).read_bytes())
    assert picture.voi == "range" and picture.remarks == ()
    np.testing.assert_allclose(picture.image, _display(dicom, 0) / 255, atol=1e-6)


def test_a_file_of_16_bits_is_taken_too(
    root: Path, pseudonymiser: Pseudonymiser, dicom: ModuleType
) -> None:
    wide = (_display(dicom, 4).astype("<u2") << 8).tobytes()
    bits = {"BitsAllocated": 16, "BitsStored": 16, "HighBit": 15, "PixelData": wide}
    _write(root, _path(4), _image(dicom, 4, **bits))
    _, rows = _import(root, pseudonymiser)
    assert list(rows.loc[_path(4), ["status", "bits_stored"]]) == ["ok", 16]


def test_labels_know_no_exams_so_a_patient_has_one(
    root: Path, pseudonymiser: Pseudonymiser
) -> None:
    _, rows = _import(root, pseudonymiser)
    first = rows.loc[[_path(number) for number in range(4)]]
    assert set(first["patient_key"]) == {pseudonymiser.patient("D1-0001")}
    assert first["exam_key"].nunique() == 1 and set(first["exam_order"]) == {0}
    assert first["breast_key"].nunique() == 2


def test_without_a_folder_for_the_patient_the_header_names_him(
    root: Path, pseudonymiser: Pseudonymiser
) -> None:
    (root / "CMMD/1.3.6.1.4.1.14519.9").mkdir()
    other = "CMMD/1.3.6.1.4.1.14519.9/1-1.dcm"
    (root / _path(4)).rename(root / other)
    _, rows = _import(root, pseudonymiser)
    assert rows.loc[other, "cancer_pathology"] == 1
    assert rows.loc[other, "patient_key"] == rows.loc[_path(5), "patient_key"]


def test_unreadable_image_stays_with_its_patient_and_is_not_counted_as_unmatched(
    root: Path, pseudonymiser: Pseudonymiser
) -> None:
    (root / _path(0)).write_bytes(b"")
    imported, rows = _import(root, pseudonymiser)
    assert rows.loc[_path(0), "reason"] == "Q_EMPTY"
    assert rows.loc[_path(0), "patient_key"] == rows.loc[_path(1), "patient_key"]
    assert imported.notes["files_unmatched"] == 2
    assert imported.notes["files_contralateral"] == 1


def test_the_workbook_says_the_same_as_its_copy(
    root: Path, pseudonymiser: Pseudonymiser, request: pytest.FixtureRequest
) -> None:
    copy, _ = _import(root, pseudonymiser)
    request.getfixturevalue("workbook")
    published, _ = _import(root, pseudonymiser)
    pd.testing.assert_frame_equal(published.manifest, copy.manifest)
    assert published.notes == copy.notes


def test_a_copy_is_read_instead_of_the_workbook_and_wherever_it_lies(
    root: Path, pseudonymiser: Pseudonymiser
) -> None:
    (root / XLSX).write_bytes(b"no workbook")
    (root / "manifest-1616439774456").mkdir()
    (root / CSV).rename(root / "manifest-1616439774456" / CSV)
    imported, rows = _import(root, pseudonymiser)
    assert imported.notes["files"] == 9
    assert rows.loc[_path(4), "cancer_pathology"] == 1


def test_a_copy_may_have_a_byte_order_mark_and_semicolons(
    root: Path, pseudonymiser: Pseudonymiser
) -> None:
    (root / CSV).write_text(_csv([HEAD, *LINES], ";"), encoding="utf-8-sig")
    _, rows = _import(root, pseudonymiser)
    assert rows.loc[_path(4), "cancer_pathology"] == 1


def test_a_missing_table_is_named(root: Path, pseudonymiser: Pseudonymiser) -> None:
    (root / CSV).unlink()
    with pytest.raises(ImporterError, match=f"No table {XLSX} below"):
        _import(root, pseudonymiser)
    with pytest.raises(ImporterError, match="No archive folder"):
        _import(root / "absent", pseudonymiser)


def test_without_the_package_for_workbooks_the_remedy_is_named(
    root: Path, pseudonymiser: Pseudonymiser, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / CSV).rename(root / XLSX)
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(ImporterError, match=f"{XLSX} .* package openpyxl. Install it"):
        _import(root, pseudonymiser)


def test_a_missing_column_is_named(root: Path, pseudonymiser: Pseudonymiser) -> None:
    head = ["x" if name == "classification" else name for name in HEAD]
    (root / CSV).write_text(_csv([head, *LINES]))
    message = rf"{CSV} lacks the columns \['classification'\]"
    with pytest.raises(ImporterError, match=message):
        _import(root, pseudonymiser)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["D1-0007", "JANE DOE", 1, 1, "", "Benign", ""], r"laterality: 1 cells .*\[6"),
        (["D1-0007", "L", 1, 1, "", "JANE", ""], r"cancer_pathology: 1 cells .*\[6"),
        (["D1-0001", "R", 1, 1, "", "Malignant", ""], "1 rows contradict an earlier"),
    ],
)
def test_unusable_rows_are_refused_without_quoting_cells(
    root: Path, pseudonymiser: Pseudonymiser, line: list[Any], message: str
) -> None:
    (root / CSV).write_text(_csv([HEAD, *LINES, line]))
    with pytest.raises(ImporterError, match=message) as caught:
        _import(root, pseudonymiser)
    told = str(caught.value)
    assert CSV in told and "Traceback" not in told
    assert "JANE" not in told and "D1-000" not in told


def test_bad_options_are_named(root: Path, pseudonymiser: Pseudonymiser) -> None:
    with pytest.raises(ImporterError, match="options of importer cmmd"):
        _import(root, pseudonymiser, normal=True)


def test_nothing_identifying_is_in_the_manifest(
    root: Path, pseudonymiser: Pseudonymiser
) -> None:
    imported, _ = _import(root, pseudonymiser)
    text = " ".join(map(str, imported.manifest.to_numpy().ravel()))
    for identifier in ("D1-0", "D2-0", "1.3.6.1", "79377", "20100718", ".dcm"):
        assert identifier not in text


def test_the_archive_goes_through_check_and_preparation(
    root: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    goes_through("cmmd", root, tmp_path_factory.mktemp("site"))
