"""INbreast: its table finds the images, and headers say almost nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest

from client.data.importers import Imported, ImporterError
from client.data.importers.files import Source
from client.data.importers.inbreast import import_archive
from client.data.labels import label
from client.data.pseudonyms import Pseudonymiser
from common.plan import Target
from tests.support.through import goes_through

FIRST, SECOND = "6c613a14b80a8591", "d713ef5849f98b6c"
HEADER = "Patient ID;Patient age;Laterality;View;Acquisition date;File Name;ACR;Bi-Rads"
ROWS = [
    "removed;removed;R;CC;201001;20586908;4;5",
    "removed;removed;L;MLO;201001;20586934.0;3;2",
    f"removed;removed;L;CC;201001;2.058696E+07;{' ' * 185};4c",
    "removed;removed;R;MLO;200911;20586986; 1;3",
    "removed;removed;L;FB;200801;22427705;2.0;1.0",
    "removed;removed;L;CC;200801;22427727;2;",
    "removed;removed;L;CC;200801;99999999;2;6",
    ";;;;;;;",
    ";;203;206;;;;410",
    ";;;;;scan 7;;many",
]
FILES = [
    (20586908, FIRST, "R", "CC"),
    (20586934, FIRST, "L", "ML"),
    (20586960, FIRST, "L", "CC"),
    (20586986, FIRST, "R", "ML"),
    (22427705, SECOND, "L", "FB"),
    (22427727, SECOND, "L", "CC"),
]
Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path, dicom: ModuleType) -> Write:
    """Write one mammogram, each in a study of its own."""

    def image(number: int, patient: str, side: str, view: str, **elements: Any) -> str:
        content = dicom.image(
            dicom.phantom(seed=number),
            **{
                "SOPInstanceUID": f"1.2.9.{number}",
                "StudyInstanceUID": f"1.2.8.{number}",
                "PatientID": None,
                "StudyDate": None,
                "ViewPosition": None,
                "ImageLaterality": side,
            }
            | elements,
        )
        name = f"{number}_{patient}_MG_{side}_{view}_ANON.dcm"
        (tmp_path / "INbreast Release 1.0/AllDICOMs" / name).write_bytes(content)
        return name

    return image


@pytest.fixture
def root(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """The release: images, contours, reports, a stray file, table and spreadsheet."""
    release = tmp_path / "INbreast Release 1.0"
    for place in (
        "AllDICOMs/imageviewer.m",
        "AllXML/20586908.xml",
        "AllROI/20586908.roi",
        "PectoralMuscle/Pectoral Muscle XML/20586934_muscle.xml",
        "MedicalReports/20586908.txt",
        "INbreast.xls",
    ):
        (release / place).parent.mkdir(parents=True, exist_ok=True)
        (release / place).write_text("no image")
    _write_table(tmp_path, ROWS)
    write = request.getfixturevalue("write")
    for image in FILES:
        write(*image)
    return tmp_path


def _write_table(root: Path, rows: list[str], header: str = HEADER) -> None:
    path = root / "INbreast Release 1.0/INbreast.csv"
    path.write_text("\n".join([header, *rows, ""]), encoding="utf-8-sig")


def _import(
    root: Path, pseudonymiser: Pseudonymiser, **options: Any
) -> tuple[Imported, pd.DataFrame]:
    imported = import_archive(Source(root, pseudonymiser), "s", options)
    rows = imported.manifest.merge(imported.linkage, on="row_id")
    name = rows["source_path"].str.removeprefix("INbreast Release 1.0/")
    number = name.str.extract(r"AllDICOMs/(\d+)_", expand=False)
    return imported, rows.set_index(number.fillna(name)).sort_index()


def test_every_file_is_a_row(root: Path, pseudonymiser: Pseudonymiser) -> None:
    imported, rows = _import(root, pseudonymiser)
    assert imported.notes == {
        "files": 12,
        "table_rows_unmatched": 2,
        "files_unmatched": 0,
    }
    assert len(rows) == 12 and set(rows["dataset"]) == {"inbreast"}
    films = rows[rows["status"] == "ok"]
    assert list(films.index) == [str(number) for number, *_ in FILES]
    assert films["reason"].isna().all() and set(films["modality_kind"]) == {"FFDM"}
    others = rows[rows["status"] != "ok"]
    assert set(others["reason"]) == {"X_NOT_IMAGE"} and len(others) == 6


def test_assessments_are_facts_of_the_image_and_pathology_stays_unknown(
    root: Path, pseudonymiser: Pseudonymiser
) -> None:
    _, rows = _import(root, pseudonymiser)
    films = rows[rows["status"] == "ok"]
    assert list(films["birads"].fillna(-1)) == [5, 2, 4, 3, 1, -1]
    assert list(films["birads_sub"].fillna("")) == ["", "", "4c", "", "", ""]
    assert list(films["label_level"].fillna("")) == ["image"] * 5 + [""]
    assert list(films["label_source"].fillna("")) == ["radiologist"] * 5 + [""]
    assert films["cancer_pathology"].isna().all()
    assert films["pathology_class"].isna().all()


def test_only_a_plan_on_assessments_gives_labels(
    root: Path, pseudonymiser: Pseudonymiser
) -> None:
    _, rows = _import(root, pseudonymiser)
    films = rows[rows["status"] == "ok"]
    assert label(films, Target()).isna().all()
    target = Target(field="birads", at_least=4, label_sources=("radiologist",))
    # Both views of the left breast count as suspicious, though one is BI-RADS 2.
    assert list(label(films, target).fillna(-1)) == [1, 1, 1, 0, -1, -1]


def test_density_is_the_acr_class_and_blanks_are_unknown(
    root: Path, pseudonymiser: Pseudonymiser
) -> None:
    _, rows = _import(root, pseudonymiser)
    films = rows[rows["status"] == "ok"]
    assert list(films["density"].fillna("")) == ["D", "C", "", "A", "B", "B"]


def test_ml_means_mlo_and_fb_stays(root: Path, pseudonymiser: Pseudonymiser) -> None:
    _write_table(root, [row for row in ROWS if "20586986" not in row])
    imported, rows = _import(root, pseudonymiser)
    films = rows[rows["status"] == "ok"]
    assert list(films["view"]) == ["CC", "MLO", "CC", "MLO", "FB", "CC"]
    assert imported.notes["files_unmatched"] == 1  # still used, without a label
    assert pd.isna(rows.loc["20586986", "birads"])


def test_patient_is_in_the_file_name_and_a_month_is_an_exam(
    root: Path, pseudonymiser: Pseudonymiser
) -> None:
    _, rows = _import(root, pseudonymiser)
    films = rows[rows["status"] == "ok"]
    assert list(films["patient_key"]) == [
        *[pseudonymiser.patient(FIRST)] * 4,
        *[pseudonymiser.patient(SECOND)] * 2,
    ]
    assert list(films["exam_order"]) == [1, 1, 1, 0, 0, 0]
    left = films.loc[["20586934", "20586960"], "breast_key"]
    assert set(left) == {pseudonymiser.breast(FIRST, "201001", "L")}


def test_side_is_that_of_the_header_then_of_the_table(
    root: Path, pseudonymiser: Pseudonymiser, write: Write
) -> None:
    write(*FILES[0], ImageLaterality=None)
    write(*FILES[1], ImageLaterality="R")
    _, rows = _import(root, pseudonymiser)
    sides = rows[["laterality", "reason"]].astype(object)
    assert rows.loc["20586908", "laterality"] == "R"
    assert pd.isna(rows.loc["20586908", "reason"])
    assert tuple(sides.loc["20586934"]) == ("R", "W_SIDE")


def test_file_of_another_name_has_no_patient(
    root: Path, pseudonymiser: Pseudonymiser, dicom: ModuleType
) -> None:
    content = dicom.image(PatientID=None, StudyInstanceUID=None)
    (root / "20586908.dcm").write_bytes(content)
    imported, rows = _import(root, pseudonymiser)
    assert rows.loc["20586908.dcm", "reason"] == "X_NO_PATIENT"
    assert imported.notes["files_unmatched"] == 1


def test_nothing_in_the_manifest_identifies(
    root: Path, pseudonymiser: Pseudonymiser
) -> None:
    imported, _ = _import(root, pseudonymiser)
    text = imported.manifest.to_csv()
    for word in (FIRST, SECOND, "20586908", "201001", "1.2.9.", "1.2.8.", "removed"):
        assert word not in text


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        (ROWS, HEADER.replace("Bi-Rads", "BIRADS"), r"lacks the columns \['Bi-Rads'\]"),
        (ROWS, HEADER.replace(";", ","), "INbreast.csv lacks the columns"),
        ([*ROWS, ROWS[0].replace(";5", ";JANE")], HEADER, "column Bi-Rads: 1 cells"),
        ([*ROWS, ROWS[0].replace(";4;", ";9;")], HEADER, "column ACR: 1 cells"),
        ([*ROWS, ROWS[0].replace(";5", ";1")], HEADER, "contradict each other"),
    ],
)
def test_table_not_as_published_is_refused_without_quoting_cells(
    root: Path,
    pseudonymiser: Pseudonymiser,
    rows: list[str],
    header: str,
    message: str,
) -> None:
    _write_table(root, rows, header)
    with pytest.raises(ImporterError, match=message) as caught:
        _import(root, pseudonymiser)
    text = str(caught.value)
    assert "JANE" not in text and "20586908" not in text and "Traceback" not in text


def test_equal_rows_about_one_image_are_one(
    root: Path, pseudonymiser: Pseudonymiser
) -> None:
    _write_table(root, [*ROWS, ROWS[0]])
    imported, _ = _import(root, pseudonymiser)
    assert imported.notes["table_rows_unmatched"] == 2


def test_absent_table_is_named_with_the_way_out(
    root: Path, pseudonymiser: Pseudonymiser
) -> None:
    (root / "INbreast Release 1.0/INbreast.csv").unlink()
    with pytest.raises(ImporterError, match=r"No table INbreast\.csv .*INbreast\.xls"):
        _import(root, pseudonymiser)


def test_options_are_checked(root: Path, pseudonymiser: Pseudonymiser) -> None:
    _, rows = _import(root, pseudonymiser, dataset="other")
    assert set(rows["dataset"]) == {"other"}
    with pytest.raises(ImporterError, match="options of importer inbreast"):
        _import(root, pseudonymiser, film=True)


def test_the_archive_goes_through_check_and_preparation(
    root: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    goes_through("inbreast", root, tmp_path_factory.mktemp("site"))
