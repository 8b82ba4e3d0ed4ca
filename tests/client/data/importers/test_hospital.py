"""Any folder of DICOM, joined to a table on one declared key."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest

from client.data.importers import IMPORTERS, Imported, ImporterError, Source
from client.data.importers.files import decode_path, encode_path
from client.data.pseudonyms import Pseudonymiser

OPTIONS: dict[str, Any] = {"dataset": "test"}


def _write(root: Path, name: str, content: bytes) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


@pytest.fixture
def root(tmp_path: Path, dicom: ModuleType) -> Path:
    """Two exams of one patient, both breasts, CC; names without any meaning."""
    number = 0
    for exam, date in (("2", "20210101"), ("1", "20220101")):
        for side in "LR":
            number += 1
            content = dicom.image(
                dicom.phantom(seed=number),
                SOPInstanceUID=f"1.2.9.{number}",
                StudyInstanceUID=f"1.2.8.{exam}",
                AccessionNumber=f"A{exam}",
                StudyDate=date,
                ImageLaterality=side,
            )
            _write(tmp_path, f"some folder/{exam}/{side}", content)
    return tmp_path


def _import(
    root: Path, pseudonymiser: Pseudonymiser, **options: Any
) -> tuple[Imported, pd.DataFrame]:
    imported = IMPORTERS["hospital"](
        Source(root, pseudonymiser), "s", OPTIONS | options
    )
    rows = imported.manifest.merge(imported.linkage, on="row_id")
    return imported, rows.set_index("source_path").sort_index()


def _table(root: Path, text: str, join: str, **table: Any) -> dict[str, Any]:
    (root / "labels.csv").write_text(text, encoding="utf-8-sig")
    base = {"file": "labels.csv", "key": "key", "columns": {"cancer_pathology": "y"}}
    return {"join": join, "table": base | table}


def test_every_file_is_a_row_with_its_keys(
    root: Path, pseudonymiser: Pseudonymiser
) -> None:
    imported, rows = _import(root, pseudonymiser)
    assert imported.notes["files"] == len(rows) == 4
    assert list(rows.index) == [
        f"some folder/{n}" for n in ("1/L", "1/R", "2/L", "2/R")
    ]
    assert set(rows["status"]) == {"ok"} and rows["reason"].isna().all()
    assert list(rows["exam_order"]) == [1, 1, 0, 0]
    assert set(rows["patient_key"]) == {pseudonymiser.patient("P1")}
    assert rows["exam_key"].iloc[0] == pseudonymiser.exam("P1", "1.2.8.1")
    assert rows["breast_key"].iloc[1] == pseudonymiser.breast("P1", "1.2.8.1", "R")
    assert rows["row_id"].iloc[2] == pseudonymiser.row("1.2.9.1")
    assert rows["cancer_pathology"].isna().all() and rows["label_source"].isna().all()


def test_malformed_set_is_coded_and_counted(
    root: Path, pseudonymiser: Pseudonymiser, dicom: ModuleType
) -> None:
    removed = {"Rows": None, "Columns": None, "PixelData": None}
    for name, content in {
        "report": dicom.image(Modality="SR", **removed),
        "empty": b"",
        "text.csv": b"a,b\n",
        "packed.gz": b"\x1f\x8b\x08 and so on",
        "nobody": dicom.image(PatientID=None, StudyInstanceUID=None),
        "no side": dicom.image(ImageLaterality=None),
        "no view": dicom.image(ViewPosition=None),
        "raw": dicom.image(PresentationIntentType="FOR PROCESSING"),
        "copy": (root / "some folder/1/L").read_bytes(),
        "other": dicom.image(dicom.phantom(seed=9), SOPInstanceUID="1.2.9.1"),
    }.items():
        _write(root, f"x/{name}", content)
    (root / "x/link to nothing").symlink_to(root / "absent")
    imported, rows = _import(root, pseudonymiser)
    assert imported.notes["files"] == len(rows) == 15
    codes = rows["reason"].dropna().to_dict()
    assert codes == {
        "x/report": "X_NOT_IMAGE",
        "x/empty": "Q_EMPTY",
        "x/text.csv": "Q_NOT_DICOM",
        "x/packed.gz": "Q_CONTAINER",
        "x/nobody": "X_NO_PATIENT",
        "x/no side": "X_NO_SIDE",
        "x/no view": "X_NO_VIEW",
        "x/raw": "X_PROCESSING",
        "x/copy": "X_DUPLICATE",
        "some folder/2/L": "Q_UID_CONFLICT",
        "x/other": "Q_UID_CONFLICT",
        "x/link to nothing": "Q_UNREADABLE",
    }


def test_vindr_shaped_header_is_accepted(
    tmp_path: Path, pseudonymiser: Pseudonymiser, dicom: ModuleType
) -> None:
    ds = dicom.dataset(
        SOPInstanceUID="4d8c5a6e0f3b4c1d9e2a7b6c5d4e3f2a",
        StudyInstanceUID="ffffffffeeeeeeeeddddddddcccccccc",
        **dict.fromkeys(
            (
                "SOPClassUID",
                "ImageType",
                "PatientID",
                "StudyDate",
                "PresentationIntentType",
            )
        ),
    )
    ds.file_meta.MediaStorageSOPClassUID = "1.2.3.4"
    _write(tmp_path, "a.dicom", dicom.to_bytes(ds))
    _, rows = _import(tmp_path, pseudonymiser)
    assert rows["status"].item() == "ok" and rows["intent"].item() == "unknown"
    assert rows["patient_key"].item() == pseudonymiser.patient(
        "study:ffffffffeeeeeeeeddddddddcccccccc"
    )


def test_labels_join_by_accession_and_side(
    root: Path, pseudonymiser: Pseudonymiser
) -> None:
    table = "key,side,y,birads\nA1, LEFT ,1,4B\nA1,R,0,\nA2,B,no,2\nA7,L,1,5\n"
    columns = {"laterality": "side", "cancer_pathology": "y", "birads": "birads"}
    options = _table(root, table, "accession_number", level="breast", columns=columns)
    imported, rows = _import(root, pseudonymiser, **options)
    assert list(rows["cancer_pathology"]) == [1, 0, 0, 0]
    assert list(rows["birads"].fillna(-1)) == [4, -1, 2, 2]
    assert rows["birads_sub"].iloc[0] == "4b"
    assert set(rows["label_level"]) == {"breast"}
    assert imported.notes["table_rows_unmatched"] == 1
    assert imported.notes["files_unmatched"] == 0 and imported.notes["files"] == 4


@pytest.mark.parametrize(
    ("join", "keys"),
    [
        ("sop_instance_uid", ("1.2.9.3", "1.2.9.2")),
        ("relative_path", ("some folder\\1\\L", "./some folder/2/R")),
    ],
)
def test_labels_join_by_image(
    root: Path, pseudonymiser: Pseudonymiser, join: str, keys: tuple[str, str]
) -> None:
    options = _table(root, f"key,y\n{keys[0]},1\n{keys[1]},0\n", join)
    imported, rows = _import(root, pseudonymiser, **options)
    assert list(rows["cancer_pathology"].fillna(-1)) == [1, -1, -1, 0]
    assert imported.notes["files_unmatched"] == 2


def test_patient_label_reaches_all_exams(
    root: Path, pseudonymiser: Pseudonymiser
) -> None:
    options = _table(root, "key,y\nP1,1\n", "patient_id", level="patient")
    _, rows = _import(root, pseudonymiser, **options)
    assert list(rows["cancer_pathology"]) == [1] * 4
    assert set(rows["label_level"]) == {"patient"}


@pytest.mark.parametrize("level", ["exam", "breast"])
def test_key_that_fits_several_exams_is_an_error(
    root: Path, pseudonymiser: Pseudonymiser, level: str
) -> None:
    options = _table(
        root,
        "key,side,y\nP1,L,1\n",
        "patient_id",
        level=level,
        columns={"laterality": "side", "cancer_pathology": "y"},
    )
    with pytest.raises(ImporterError, match="fit several exams") as caught:
        _import(root, pseudonymiser, **options)
    assert "P1" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("key,side,y\nA1,L,1\nA1,L,0\n", r"contradict .* lines \[3\]"),
        ("key,side,y\nA1,,1\n", "name no side"),
        ("key,side,y\nA1,L,JANE DOE\n", r"mapped to cancer_pathology: 1 cells .*\[2\]"),
        ("key,y\nA1,1\n", "lacks the columns"),
    ],
)
def test_unusable_table_is_refused_without_quoting_cells(
    root: Path, pseudonymiser: Pseudonymiser, text: str, message: str
) -> None:
    columns = {"laterality": "side", "cancer_pathology": "y"}
    options = _table(root, text, "accession_number", level="breast", columns=columns)
    with pytest.raises(ImporterError, match=message) as caught:
        _import(root, pseudonymiser, **options)
    assert "JANE" not in str(caught.value) and "A1" not in str(caught.value)


def test_words_of_a_hospital_are_translated(
    root: Path, pseudonymiser: Pseudonymiser
) -> None:
    table = "key;one hot;acr\n1.2.9.1;[1, 0];3\n1.2.9.2;[0, 1];b\n1.2.9.3;?;\n"
    options = _table(
        root,
        table,
        "sop_instance_uid",
        delimiter=";",
        columns={"cancer_pathology": "one hot", "density": "acr"},
        values={"cancer_pathology": {"[1, 0]": 0, "[0, 1]": 1, "?": None}},
    )
    _, rows = _import(root, pseudonymiser, **options)
    assert list(rows["cancer_pathology"].fillna(-1)) == [-1, -1, 0, 1]
    assert list(rows["density"].fillna("")) == ["", "", "C", "B"]


def test_header_keeps_its_side_and_the_contradiction_is_remarked(
    root: Path, pseudonymiser: Pseudonymiser
) -> None:
    columns = {"laterality": "side", "view": "view", "cancer_pathology": "y"}
    table = "key,side,view,y\n1.2.9.1,R,MLO,0\n1.2.9.2,R,CC,0\n"
    options = _table(root, table, "sop_instance_uid", columns=columns)
    _, rows = _import(root, pseudonymiser, **options)
    wrong = rows.loc["some folder/2/L"]
    assert (wrong["laterality"], wrong["view"], wrong["reason"]) == (
        "L",
        "CC",
        "W_SIDE",
    )
    assert pd.isna(rows.loc["some folder/2/R", "reason"])


def test_patients_of_the_table_replace_those_of_the_header(
    root: Path, pseudonymiser: Pseudonymiser
) -> None:
    table = (
        "key,y,who\n1.2.9.1,0,alice\n1.2.9.2,0,alice\n1.2.9.3,0,bea\n1.2.9.4,0,bea\n"
    )
    options = _table(root, table, "sop_instance_uid", patient="who")
    _, rows = _import(root, pseudonymiser, **options)
    assert set(rows["patient_key"]) == {
        pseudonymiser.patient("alice"),
        pseudonymiser.patient("bea"),
    }


@pytest.mark.parametrize(
    "options",
    [
        {"dataset": "Upper Case"},
        {"unknown": 1},
        {"join": "patient_id"},
        {"table": {"file": "t", "key": "k", "columns": {"patient_name": "n"}}},
    ],
)
def test_bad_options_are_named(
    root: Path, pseudonymiser: Pseudonymiser, options: dict[str, Any]
) -> None:
    with pytest.raises(ImporterError, match="options of importer hospital"):
        _import(root, pseudonymiser, **options)


def test_missing_archive_and_table_are_named(
    root: Path, pseudonymiser: Pseudonymiser
) -> None:
    with pytest.raises(ImporterError, match="No archive folder"):
        _import(root / "absent", pseudonymiser)
    options = _table(root, "", "patient_id")
    (root / "labels.csv").unlink()
    with pytest.raises(ImporterError, match="No label table"):
        _import(root, pseudonymiser, **options)


def test_a_link_to_a_folder_is_counted_and_a_loop_is_survived(
    root: Path, pseudonymiser: Pseudonymiser, tmp_path_factory: pytest.TempPathFactory
) -> None:
    (root / "elsewhere").symlink_to(tmp_path_factory.mktemp("disk"))
    (root / "loop").symlink_to(root / "loop")
    _, rows = _import(root, pseudonymiser)
    assert rows.loc[["elsewhere", "loop"], "reason"].tolist() == ["Q_UNREADABLE"] * 2


def test_an_unlabelled_copy_does_not_take_the_label_away(
    root: Path, pseudonymiser: Pseudonymiser
) -> None:
    labelled = root / "some folder" / "2" / "L"
    _write(root, "a copy", labelled.read_bytes())
    options = _table(root, "key,y\nsome folder/2/L,1\n", "relative_path")
    _, rows = _import(root, pseudonymiser, **options)
    assert rows.loc["a copy", "reason"] == "X_DUPLICATE"
    assert rows.loc["some folder/2/L", "cancer_pathology"] == 1


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"delimiter": "\\t"}, "delimiter"),
        ({"values": {"cancer_pathology": {"malignant": 2}}}, "no value of cancer_path"),
        ({"values": {"density": {"fatty": "E"}}}, "no value of density"),
    ],
)
def test_a_column_map_that_cannot_be_is_refused_before_any_file_is_read(
    root: Path, pseudonymiser: Pseudonymiser, change: dict[str, Any], told: str
) -> None:
    with pytest.raises(ImporterError, match=told):
        _import(
            root, pseudonymiser, **_table(root, "key,y\n", "relative_path", **change)
        )


def test_an_empty_archive_is_refused(
    tmp_path_factory: pytest.TempPathFactory, pseudonymiser: Pseudonymiser
) -> None:
    with pytest.raises(ImporterError, match="No image file below"):
        _import(tmp_path_factory.mktemp("empty"), pseudonymiser)


def test_any_file_name_survives_the_linkage() -> None:
    for name in ("plain/name", "per%cent ü", "line\nbreak", "not\udcfftext"):
        text = encode_path(Path(name))
        assert decode_path(text) == Path(name) and text.isascii() and "\n" not in text


def test_a_patient_whom_the_table_names_once_has_that_name_on_every_file(
    root: Path, pseudonymiser: Pseudonymiser
) -> None:
    table = "key,y,who\n1.2.9.1,1,alice\n1.2.9.2,0,\n"  # two files have no row
    options = _table(root, table, "sop_instance_uid", patient="who")
    _, rows = _import(root, pseudonymiser, **options)
    assert set(rows["patient_key"]) == {pseudonymiser.patient("alice")}


def test_two_names_for_one_patient_of_the_headers_are_not_mixed(
    root: Path, pseudonymiser: Pseudonymiser
) -> None:
    table = "key,y,who\n1.2.9.1,1,alice\n1.2.9.2,0,bea\n"
    options = _table(root, table, "sop_instance_uid", patient="who")
    _, rows = _import(root, pseudonymiser, **options)
    assert rows["patient_key"].value_counts().to_dict() == {
        pseudonymiser.patient("alice"): 1,
        pseudonymiser.patient("bea"): 1,
        pseudonymiser.patient("P1"): 2,
    }
