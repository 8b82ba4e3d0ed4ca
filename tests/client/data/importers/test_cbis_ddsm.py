"""CBIS-DDSM: lesions of two types become images, and its known traps are closed."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest

from client.data.importers import Imported, ImporterError
from client.data.importers.cbis_cases import read_cases
from client.data.importers.cbis_ddsm import import_archive
from client.data.importers.files import Source
from client.data.labels import label
from client.data.pseudonyms import Pseudonymiser
from common.plan import Target
from tests.support.through import goes_through

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
CALC_TRAIN, CALC_TEST, MASS_TRAIN, MASS_TEST = (
    f"{kind}_case_description_{part}_set.csv"
    for kind in ("calc", "mass")
    for part in ("train", "test")
)
# patient, density, side, view, lesion, assessment, pathology
ROWS: dict[str, list[str]] = {
    CALC_TRAIN: [
        "P_00001 3 LEFT CC 1 4 BENIGN",
        "P_00001 3 LEFT CC 2 2 BENIGN_WITHOUT_CALLBACK",
        "P_00001 3 LEFT MLO 1 4 BENIGN",
        "P_00002 2 RIGHT CC 1 2 BENIGN_WITHOUT_CALLBACK",
    ],
    CALC_TEST: ["P_00005 1 LEFT CC 1 4 MALIGNANT"],
    MASS_TRAIN: [
        "P_00003 4 LEFT CC 1 3 BENIGN",
        "P_00003 4 LEFT CC 2 5 MALIGNANT",
        "P_00003 4 LEFT MLO 1 3 BENIGN",
    ],
    MASS_TEST: [
        "P_00001 3 LEFT CC 1 5 MALIGNANT",
        "P_00004 0 RIGHT MLO 1 0 BENIGN",
    ],
}
CASES = (
    "Calc-Training_P_00001_LEFT_CC",
    "Calc-Training_P_00001_LEFT_MLO",
    "Calc-Training_P_00002_RIGHT_CC",
    "Mass-Training_P_00003_LEFT_CC",
    "Mass-Training_P_00003_LEFT_MLO",
    "Mass-Test_P_00001_LEFT_CC",
    "Mass-Test_P_00004_RIGHT_MLO",
)
FULL = "07-20-2016-DDSM-NA-30288/1.000000-full mammogram images-24515"
CROPS = "07-20-2016-DDSM-NA-94942/1.000000-ROI mask images-18515"
Write = Callable[..., Path]


def _write_table(path: Path, rows: list[str]) -> None:
    """Write as published: two spellings of density, newlines inside of paths."""
    calc = path.name.startswith("calc")
    names = ["calc type", "calc distribution"] if calc else ["mass shape"]
    header = [
        *("patient_id", "breast density" if calc else "breast_density"),
        *("left or right breast", "image view", "abnormality id", "abnormality type"),
        *names,
        *("assessment", "pathology", "subtlety"),
        *("image file path", "cropped image file path", "ROI mask file path"),
    ]
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(header)
        for row in rows:
            patient, density, side, view, lesion, score, pathology = row.split()
            cells = [patient, density, side, view, lesion, "type", *names]
            crop, mask = ("a/000001.dcm\n", "b") if calc else ("a", "b/000000.dcm\n")
            writer.writerow([*cells, score, pathology, "3", "x/1.dcm", crop, mask])


@pytest.fixture
def write(tmp_path: Path, dicom: ModuleType) -> Write:
    """Write one film; the same case number shows the same pixels under new UIDs."""
    numbers = iter(range(1, 100))

    def film(case: str, path: str = "", seed: int = 0, **elements: Any) -> Path:
        number = next(numbers)
        content = dicom.image(
            dicom.phantom(seed=seed or number),
            **{
                "SOPClassUID": SECONDARY_CAPTURE,
                "SOPInstanceUID": f"1.2.9.{number}",
                "StudyInstanceUID": f"1.2.8.{number}",
                "PatientID": case,
                "StudyDate": f"201607{number:02d}",
                "PresentationIntentType": None,
                "ImageLaterality": None,
                "ViewPosition": None,
                "BitsStored": 16,
                "HighBit": 15,
            }
            | elements,
        )
        place = tmp_path / (path or f"CBIS-DDSM/{case}/{FULL}/1-1.dcm")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
        return place

    return film


@pytest.fixture
def root(tmp_path: Path, write: Write) -> Path:
    """Two types of lesions, both parts, one film stored twice, crops beside."""
    (tmp_path / "csv").mkdir()
    for name, rows in ROWS.items():
        _write_table(tmp_path / "csv" / name, rows)
    for number, case in enumerate(CASES):
        write(case, seed=99 if case.endswith("P_00001_LEFT_CC") else 50 + number)
    for name in ("1-1.dcm", "1-2.dcm"):
        case = "Calc-Training_P_00001_LEFT_CC_1"
        write(case, f"CBIS-DDSM/{case}/{CROPS}/{name}")
    (tmp_path / "LICENSE").write_text("words")
    (tmp_path / "metadata.csv").write_text("Series UID,Subject ID\n")
    return tmp_path


def _import(
    root: Path, pseudonymiser: Pseudonymiser, **options: Any
) -> tuple[Imported, pd.DataFrame]:
    imported = import_archive(Source(root, pseudonymiser), "s", options)
    rows = imported.manifest.merge(imported.linkage, on="row_id")
    case = rows["source_path"].str.replace("^CBIS-DDSM/([^/]+)/.*", r"\1", regex=True)
    return imported, rows.set_index(case).sort_index()


def test_every_file_is_a_row(root: Path, pseudonymiser: Pseudonymiser) -> None:
    imported, rows = _import(root, pseudonymiser)
    assert imported.notes == {
        "files": 11,
        "table_rows_unmatched": 1,
        "files_unmatched": 0,
        "patients_moved_to_train": 1,
    }
    assert len(rows) == 11 and set(rows["dataset"]) == {"cbis_ddsm"}
    assert rows["reason"].dropna().to_dict() == {
        "Calc-Training_P_00001_LEFT_CC_1": "X_ROI",
        "Mass-Test_P_00001_LEFT_CC": "X_DUPLICATE",
        "LICENSE": "X_NOT_IMAGE",
        "metadata.csv": "X_NOT_IMAGE",
    }
    assert (rows["reason"] == "X_ROI").sum() == 2
    films = rows[rows["status"] == "ok"]
    assert set(films["modality_kind"]) == {"SFM"} and set(films["bits_stored"]) == {16}


def test_label_is_that_of_the_worst_lesion(
    root: Path, pseudonymiser: Pseudonymiser
) -> None:
    _, rows = _import(root, pseudonymiser)
    films = rows[rows["status"] == "ok"]
    truth = films[["cancer_pathology", "pathology_class", "birads"]]
    assert {case: tuple(row) for case, *row in truth.itertuples()} == {
        "Calc-Training_P_00001_LEFT_CC": (1, "malignant", 5),
        "Calc-Training_P_00001_LEFT_MLO": (0, "benign", 4),
        "Calc-Training_P_00002_RIGHT_CC": (0, "benign_no_callback", 2),
        "Mass-Training_P_00003_LEFT_CC": (1, "malignant", 5),
        "Mass-Training_P_00003_LEFT_MLO": (0, "benign", 3),
        "Mass-Test_P_00004_RIGHT_MLO": (0, "benign", 0),
    }
    assert set(films["label_level"]) == {"lesion"}
    assert set(films["label_source"]) == {"pathology"}


def test_plan_makes_malignant_images_and_their_breasts_positive(
    root: Path, pseudonymiser: Pseudonymiser, write: Write
) -> None:
    write("Mass-Training_P_00006_LEFT_CC")
    imported, rows = _import(root, pseudonymiser)
    assert imported.notes["files_unmatched"] == 1
    films = rows[rows["status"] == "ok"]
    of_image = label(films, Target(unit="image")).fillna(-1).to_dict()
    of_breast = label(films, Target()).fillna(-1).to_dict()
    assert of_image == {
        "Calc-Training_P_00001_LEFT_CC": 1,
        "Calc-Training_P_00001_LEFT_MLO": 0,
        "Calc-Training_P_00002_RIGHT_CC": 0,
        "Mass-Training_P_00003_LEFT_CC": 1,
        "Mass-Training_P_00003_LEFT_MLO": 0,
        "Mass-Training_P_00006_LEFT_CC": -1,
        "Mass-Test_P_00004_RIGHT_MLO": 0,
    }
    assert of_breast == of_image | {
        "Calc-Training_P_00001_LEFT_MLO": 1,
        "Mass-Training_P_00003_LEFT_MLO": 1,
    }


def test_density_comes_from_either_spelling_and_0_is_unknown(
    root: Path, pseudonymiser: Pseudonymiser
) -> None:
    _, rows = _import(root, pseudonymiser)
    density = rows["density"].fillna("")
    assert density["Calc-Training_P_00002_RIGHT_CC"] == "B"
    assert density["Mass-Training_P_00003_LEFT_CC"] == "D"
    assert density["Mass-Test_P_00004_RIGHT_MLO"] == ""


def test_patient_is_that_of_the_folder_with_one_exam(
    root: Path, pseudonymiser: Pseudonymiser
) -> None:
    _, rows = _import(root, pseudonymiser)
    films = rows[rows["patient_key"].notna()]
    patients = films["patient_key"].to_dict()
    assert patients == {
        case: pseudonymiser.patient("P_" + case.split("_")[2]) for case in CASES
    }
    sides = films.groupby("patient_key")["breast_key"].nunique()
    assert set(sides) == {1} and set(films["exam_order"]) == {0}
    assert rows.loc["Mass-Test_P_00004_RIGHT_MLO", "laterality"] == "R"
    assert rows.loc["Mass-Test_P_00004_RIGHT_MLO", "view"] == "MLO"


def test_patient_in_both_parts_is_moved_to_train(
    root: Path, pseudonymiser: Pseudonymiser
) -> None:
    _, rows = _import(root, pseudonymiser)
    assert rows["split_official"].dropna().to_dict() == {
        case: "test" if "P_00004" in case else "train" for case in CASES
    }


@pytest.mark.parametrize("name", ["A", "Z"])
def test_film_of_both_types_stays_as_calc_wherever_it_lies(
    root: Path, pseudonymiser: Pseudonymiser, name: str
) -> None:
    (root / "CBIS-DDSM/Calc-Training_P_00001_LEFT_CC").rename(root / "CBIS-DDSM" / name)
    _, rows = _import(root, pseudonymiser)  # PatientID still names the case
    assert pd.isna(rows.loc[name, "reason"])
    assert rows.loc["Mass-Test_P_00001_LEFT_CC", "reason"] == "X_DUPLICATE"
    assert rows.loc[name, "cancer_pathology"] == 1
    assert rows.loc["Mass-Test_P_00001_LEFT_CC", "cancer_pathology"] == 1


def test_film_that_is_only_there_as_mass_has_the_lesions_of_both(
    root: Path, pseudonymiser: Pseudonymiser
) -> None:
    for path in (root / "CBIS-DDSM/Calc-Training_P_00001_LEFT_CC").rglob("*.dcm"):
        path.unlink()
    imported, rows = _import(root, pseudonymiser)
    kept = rows.loc["Mass-Test_P_00001_LEFT_CC"]
    assert kept["status"] == "ok" and kept["birads"] == 5
    assert imported.notes["table_rows_unmatched"] == 1


def test_crop_is_known_by_its_header_where_no_folder_tells(
    root: Path, pseudonymiser: Pseudonymiser, write: Write
) -> None:
    write("Mass-Training_P_00003_LEFT_CC_2", "CBIS-DDSM/1.3.6.1/x.dcm")
    _, rows = _import(root, pseudonymiser)
    assert rows.loc["1.3.6.1", "reason"] == "X_ROI"


def test_one_uid_with_other_content_is_a_conflict(
    root: Path, pseudonymiser: Pseudonymiser, write: Write
) -> None:
    for name in "ab":
        write("Mass-Training_P_00009_LEFT_CC", f"{name}.dcm", SOPInstanceUID="1.2.9.0")
    _, rows = _import(root, pseudonymiser)
    assert set(rows.loc[["a.dcm", "b.dcm"], "reason"]) == {"Q_UID_CONFLICT"}


def test_header_with_the_other_side_is_remarked_and_does_not_move_the_label(
    root: Path, pseudonymiser: Pseudonymiser, write: Write
) -> None:
    write("Mass-Training_P_00003_LEFT_CC", ImageLaterality="R")
    _, rows = _import(root, pseudonymiser)
    row = rows.loc["Mass-Training_P_00003_LEFT_CC"]
    assert (row["laterality"], row["reason"], row["birads"]) == ("L", "W_SIDE", 5)


def test_nothing_in_the_manifest_identifies(
    root: Path, pseudonymiser: Pseudonymiser
) -> None:
    imported, _ = _import(root, pseudonymiser)
    text = imported.manifest.to_csv()
    for word in ("P_0000", "Training", "1.2.9.", "1.2.8.", "201607"):
        assert word not in text


def test_a_breast_whose_malignant_view_was_not_copied_is_unknown(
    root: Path, pseudonymiser: Pseudonymiser
) -> None:
    rows = [*ROWS[MASS_TRAIN], "P_00004 0 RIGHT CC 1 5 MALIGNANT"]
    _, before = _import(root, pseudonymiser)
    assert before.loc["Mass-Test_P_00004_RIGHT_MLO", "cancer_pathology"] == 0
    _write_table(root / "csv" / MASS_TRAIN, rows)
    _, after = _import(root, pseudonymiser)
    assert pd.isna(after.loc["Mass-Test_P_00004_RIGHT_MLO", "cancer_pathology"])
    assert after.loc["Calc-Training_P_00001_LEFT_MLO", "cancer_pathology"] == 0


def test_a_missing_table_could_hide_a_malignant_lesion_and_is_named(
    root: Path, pseudonymiser: Pseudonymiser
) -> None:
    (root / "csv" / CALC_TEST).unlink()
    with pytest.raises(ImporterError, match=f"No {CALC_TEST} below"):
        _import(root, pseudonymiser)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("pathology", "result", rf"{MASS_TRAIN} lacks the columns \['pathology'\]"),
        ("breast_density", "acr", f"{MASS_TRAIN} lacks the column breast density"),
        ("MALIGNANT", "JANE DOE", f"{MASS_TRAIN}, column pathology: 1 cells"),
        ("LEFT", "P_00003", f"{MASS_TRAIN}, column left or right breast: 3 cells"),
    ],
)
def test_table_not_as_published_is_refused_without_quoting_cells(
    root: Path, pseudonymiser: Pseudonymiser, old: str, new: str, message: str
) -> None:
    path = root / "csv" / MASS_TRAIN
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(ImporterError, match=message) as caught:
        _import(root, pseudonymiser)
    text = str(caught.value)
    assert "JANE" not in text and "P_00003" not in text and "Traceback" not in text


def test_options_are_checked(root: Path, pseudonymiser: Pseudonymiser) -> None:
    _, rows = _import(root, pseudonymiser, dataset="ddsm")
    assert set(rows["dataset"]) == {"ddsm"}
    with pytest.raises(ImporterError, match="options of importer cbis_ddsm"):
        _import(root, pseudonymiser, film=True)


def test_tables_alone_tell_leaks_and_conflicts(root: Path) -> None:
    cases = read_cases(root / "csv")
    assert cases.leaking_patients == {"P_00001"}
    assert cases.mixed_images == {("P_00001", "L", "CC"), ("P_00003", "L", "CC")}
    assert cases.mixed_breasts == {("P_00001", "L"), ("P_00003", "L")}


def test_the_archive_goes_through_check_and_preparation(
    root: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    goes_through("cbis_ddsm", root, tmp_path_factory.mktemp("site"))
