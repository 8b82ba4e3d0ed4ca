"""VinDr-Mammo: BI-RADS of the breast, no pathology, hex UIDs, no patients."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest

from client.data.importers.files import Imported, ImporterError, Source
from client.data.importers.vindr import import_archive
from client.data.labels import label
from client.data.pseudonyms import Pseudonymiser
from common.plan import Target
from tests.support.through import goes_through


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


STUDIES = [_md5(f"study {number}") for number in range(2)]
HEAD = (
    "study_id,series_id,image_id,laterality,view_position,height,width,"
    "breast_birads,breast_density,split"
)
# Study, series, side, view, BI-RADS, density, part. The first study has two series and
# differs in density between the breasts; of the second, one view is mislabelled.
IMAGES = [
    (0, 0, "L", "CC", 5, "C", "training"),
    (0, 0, "L", "MLO", 5, "C", "training"),
    (0, 1, "R", "CC", 2, "B", "training"),
    (0, 1, "R", "MLO", 2, "B", "training"),
    (1, 2, "L", "CC", 4, "D", "test"),
    (1, 2, "L", "CC", 4, "D", "test"),
    (1, 2, "R", "CC", 1, "D", "test"),
    (1, 2, "R", "MLO", 1, "D", "test"),
]
GONE = ("SOPClassUID", "ImageType", "PatientID", "StudyDate", "PresentationIntentType")
STRIPPED = dict.fromkeys((*GONE, "ImageLaterality", "ViewPosition", "PatientAge"))


def _path(number: int) -> str:
    return f"images/{STUDIES[IMAGES[number][0]]}/{_md5(f'image {number}')}.dicom"


def _table() -> str:
    lines = [HEAD]
    for number, (study, series, side, view, birads, density, part) in enumerate(IMAGES):
        ids = f"{STUDIES[study]},{_md5(f'series {series}')},{_md5(f'image {number}')}"
        read = f"BI-RADS {birads},DENSITY {density}"
        lines.append(f"{ids},{side},{view},3518,2800,{read},{part}")
    return "\n".join(lines) + "\n"


def _write_image(
    root: Path, dicom: ModuleType, path: str, seed: int, **elements: Any
) -> None:
    _, study, name = path.split("/")
    ds = dicom.dataset(
        dicom.phantom(seed=seed),
        SOPInstanceUID=name.removesuffix(".dicom"),
        StudyInstanceUID=study,
        Manufacturer="SIEMENS",
        **(STRIPPED | elements),
    )
    ds.file_meta.MediaStorageSOPClassUID = "1.2.3.4"
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_bytes(dicom.to_bytes(ds))


@pytest.fixture
def root(tmp_path: Path, dicom: ModuleType) -> Path:
    (tmp_path / "breast-level_annotations.csv").write_text(_table())
    (tmp_path / "finding_annotations.csv").write_text("no table at all")
    (tmp_path / "metadata.csv").write_bytes(b"Patient's Age,\xff\xfe\n")
    (tmp_path / "SHA256SUMS.txt").write_text("0000 images/x\n")
    (tmp_path / "LICENSE.txt").write_text("Restricted Health Data\n")
    for number in range(len(IMAGES)):
        _write_image(tmp_path, dicom, _path(number), number)
    return tmp_path


def _import(
    root: Path, pseudonymiser: Pseudonymiser, **options: Any
) -> tuple[Imported, pd.DataFrame]:
    imported = import_archive(Source(root, pseudonymiser), "s", options)
    rows = imported.manifest.merge(imported.linkage, on="row_id")
    return imported, rows.set_index("source_path")


def test_every_file_is_a_row_and_tables_are_none(
    root: Path, pseudonymiser: Pseudonymiser
) -> None:
    imported, rows = _import(root, pseudonymiser)
    assert imported.notes == {
        "files": 9,
        "table_rows_unmatched": 0,
        "files_unmatched": 0,
    }
    assert len(rows) == 9 and set(rows["dataset"]) == {"vindr"}
    assert rows["reason"].dropna().to_dict() == {"LICENSE.txt": "X_NOT_IMAGE"}


def test_headers_without_class_type_patient_and_date_are_accepted(
    root: Path, pseudonymiser: Pseudonymiser
) -> None:
    _, rows = _import(root, pseudonymiser)
    images = rows[rows["status"] == "ok"]
    assert len(images) == len(IMAGES)
    assert set(images["intent"]) == {"unknown"}
    assert set(images["vendor"]) == {"siemens"}
    assert images.loc[_path(0), "row_id"] == pseudonymiser.row(_md5("image 0"))


def test_facts_are_those_of_the_table_of_breasts(
    root: Path, pseudonymiser: Pseudonymiser
) -> None:
    _, rows = _import(root, pseudonymiser)
    fields = ["laterality", "view", "birads", "density", "split_official"]
    for number, (_, _, side, view, birads, density, part) in enumerate(IMAGES):
        official = part.removesuffix("ing")
        found = list(rows.loc[_path(number), fields])
        assert found == [side, view, birads, density, official]
    images = rows[rows["status"] == "ok"]
    assert set(images["label_level"]) == {"breast"}
    assert set(images["label_source"]) == {"radiologist"}


def test_there_is_no_pathology_so_the_default_target_is_unknown_everywhere(
    root: Path, pseudonymiser: Pseudonymiser
) -> None:
    _, rows = _import(root, pseudonymiser)
    images = rows[rows["status"] == "ok"]
    assert images[["cancer_pathology", "pathology_class"]].isna().all(axis=None)
    assert label(images, Target()).isna().all()


@pytest.mark.parametrize(("at_least", "positive"), [(5, 2), (4, 4)])
def test_birads_can_be_chosen_as_target(
    root: Path, pseudonymiser: Pseudonymiser, at_least: int, positive: int
) -> None:
    _, rows = _import(root, pseudonymiser)
    target = Target(
        field="birads", at_least=at_least, label_sources=("pathology", "radiologist")
    )
    labels = label(rows[rows["status"] == "ok"], target)
    assert labels.value_counts().to_dict() == {1: positive, 0: 8 - positive}


def test_an_exam_stands_for_its_patient_whatever_its_series(
    root: Path, pseudonymiser: Pseudonymiser
) -> None:
    _, rows = _import(root, pseudonymiser)
    first = rows.loc[[_path(number) for number in range(4)]]
    assert set(first["patient_key"]) == {pseudonymiser.patient(f"study:{STUDIES[0]}")}
    assert first["exam_key"].nunique() == 1 and set(first["exam_order"]) == {0}
    assert first["breast_key"].nunique() == 2
    assert rows["patient_key"].nunique() == 2


def test_the_tables_side_wins_over_a_contradicting_header(
    root: Path, pseudonymiser: Pseudonymiser, dicom: ModuleType
) -> None:
    contradicting = {"ImageLaterality": "R", "ViewPosition": "MLO"}
    _write_image(root, dicom, _path(0), 20, **contradicting)
    _write_image(root, dicom, _path(1), 21, ImageLaterality="L")
    _, rows = _import(root, pseudonymiser)
    wrong = rows.loc[_path(0)]
    assert list(wrong[["laterality", "view", "reason"]]) == ["L", "CC", "W_SIDE"]
    assert pd.isna(rows.loc[_path(1), "reason"])


def test_tables_that_are_not_needed_may_be_absent(
    root: Path, pseudonymiser: Pseudonymiser
) -> None:
    for name in ("finding_annotations.csv", "metadata.csv", "SHA256SUMS.txt"):
        (root / name).unlink()
    imported, _ = _import(root, pseudonymiser)
    assert imported.notes["files"] == 9


def test_missing_and_surplus_files_are_counted(
    root: Path, pseudonymiser: Pseudonymiser, dicom: ModuleType
) -> None:
    (root / _path(7)).unlink()
    (root / _path(6)).write_bytes(b"")
    stray = f"images/{STUDIES[0]}/{_md5('stray')}.dicom"
    _write_image(root, dicom, stray, 30)
    (root / f"images/{STUDIES[0]}/preview.png").write_bytes(b"\x89PNG")
    imported, rows = _import(root, pseudonymiser)
    assert imported.notes["table_rows_unmatched"] == 1
    assert imported.notes["files_unmatched"] == 1
    assert imported.notes["files"] == len(rows) == 10
    assert rows.loc[stray, "reason"] == "X_NO_SIDE"
    assert rows.loc[_path(6), "reason"] == "Q_EMPTY"
    assert rows.loc[_path(6), "patient_key"] == rows.loc[_path(5), "patient_key"]
    assert rows.loc[f"images/{STUDIES[0]}/preview.png", "reason"] == "X_NOT_IMAGE"


def test_a_missing_table_is_named(root: Path, pseudonymiser: Pseudonymiser) -> None:
    (root / "breast-level_annotations.csv").unlink()
    with pytest.raises(ImporterError, match=r"No table .*breast-level_anno"):
        _import(root, pseudonymiser)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("breast_birads", "birads", r"lacks the columns \['breast_birads'\]"),
        ("study_id", "study", r"lacks the columns \['study_id'\]"),
        ("BI-RADS 5", "JANE DOE", r"mapped to birads: 2 cells .*\[2, 3\]"),
        (_md5("image 1"), _md5("image 0"), "names 1 images more than once"),
    ],
)
def test_unusable_table_is_refused_without_quoting_cells(
    root: Path, pseudonymiser: Pseudonymiser, old: str, new: str, message: str
) -> None:
    table = _table()
    assert old in table
    (root / "breast-level_annotations.csv").write_text(table.replace(old, new))
    with pytest.raises(ImporterError, match=message) as caught:
        _import(root, pseudonymiser)
    told = str(caught.value)
    assert "breast-level_annotations.csv" in told and "Traceback" not in told
    assert "JANE" not in told and STUDIES[0] not in told


def test_unknown_options_are_named(root: Path, pseudonymiser: Pseudonymiser) -> None:
    with pytest.raises(ImporterError, match="options of importer vindr"):
        _import(root, pseudonymiser, cancer="BI-RADS 5")


def test_nothing_identifying_is_in_the_manifest(
    root: Path, pseudonymiser: Pseudonymiser
) -> None:
    imported, _ = _import(root, pseudonymiser)
    text = " ".join(map(str, imported.manifest.to_numpy().ravel()))
    series = [_md5(f"series {number}") for number in range(3)]
    images = [_md5(f"image {number}") for number in range(len(IMAGES))]
    for identifier in [*STUDIES, *series, *images]:
        assert identifier not in text


def test_the_archive_goes_through_check_and_preparation(
    root: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    goes_through("vindr", root, tmp_path_factory.mktemp("site"))
