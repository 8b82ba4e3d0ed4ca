"""A check finds what is wrong with an archive, says what to do, and adds up."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest

from client.data.cache import CacheError
from client.data.check import Check, check_site
from client.data.check_page import summary_document, write_check
from client.data.check_rules import problems_of
from client.data.codes import REASONS, REMEDIES
from client.data.manifest import empty_row, manifest_frame
from client.data.site_data import import_site, prepare_site
from client.data.split import assign_split
from common.plan import Preprocessing, Split
from tests.support.exports import Export


@pytest.fixture
def export(tmp_path: Path, dicom: ModuleType) -> Export:
    return Export(tmp_path / "archive", dicom)


def _exam(export: Export, patient: str, **changes: object) -> None:
    for side in "LR":
        for view in ("CC", "MLO"):
            export.add(patient, side, view, **changes)


def _count(check: Check, code: str) -> int:
    return sum(problem.count for problem in check.problems if problem.code == code)


def test_a_tidy_archive_has_only_a_small_class(export: Export, tmp_path: Path) -> None:
    _exam(export, "1")
    _exam(export, "2", cancer="1")
    check = export.check(tmp_path / "site")
    assert [problem.code for problem in check.problems] == ["small_class"]
    assert _count(check, "small_class") == 1


def test_every_file_is_cached_excluded_or_quarantined(
    export: Export, tmp_path: Path
) -> None:
    _exam(export, "1")
    export.add("1", PresentationIntentType="FOR PROCESSING")
    export.add("1")
    whole = (export.root / "file006").read_bytes()
    (export.root / "file006").write_bytes(whole[:-900])
    (export.root / "notes.txt").write_text("CANARY")
    check = export.check(tmp_path / "site")
    assert check.counts == {"found": 7, "cached": 4, "excluded": 1, "quarantined": 2}
    assert _count(check, "X_PROCESSING") == 1 and _count(check, "Q_NOT_DICOM") == 1
    assert _count(check, "raw_alone") == 0


def test_a_side_that_the_pixels_contradict_is_found(
    export: Export, tmp_path: Path
) -> None:
    _exam(export, "1")
    export.add("2", "R", mirrored=False)
    export.add("2", "L", mirrored=True)
    assert _count(export.check(tmp_path / "site"), "side_against_pixels") == 2


def test_one_image_of_two_patients_is_an_error(export: Export, tmp_path: Path) -> None:
    export.add("1", seed=99)
    export.add("2", seed=99)
    export.add("3", seed=98)
    export.add("3", seed=98, view="MLO")
    check = export.check(tmp_path / "site")
    assert _count(check, "same_pixels_of_two_patients") == 2
    assert _count(check, "same_pixels") == 4
    assert check.problems[0].severity == "error"


def test_a_copy_with_another_border_is_the_same_image(
    export: Export, tmp_path: Path
) -> None:
    export.add("1", seed=99)
    export.add("2", seed=99, border=(9, 40, 23))
    export.add("3", seed=98, border=(9, 40, 23))
    check = export.check(tmp_path / "site")
    assert check.snapshot is not None
    assert check.snapshot.index["image_sha256"].nunique() == 3
    assert _count(check, "same_pixels_of_two_patients") == 2
    assert _count(check, "same_pixels") == 2


def test_a_patient_in_two_official_splits_is_told_to_train(
    export: Export, tmp_path: Path
) -> None:
    _exam(export, "1", split="train")
    _exam(export, "2", split="train")
    export.add("2", split="test")
    check = export.check(tmp_path / "site")
    assert _count(check, "patient_in_two_splits") == 5
    (problem,) = (p for p in check.problems if p.code == "patient_in_two_splits")
    assert problem.severity == "warning"
    assert "all of them train or validate" in problem.remedy
    parts = assign_split(
        check.images["patient_key"],
        Split(official=True),
        check.images["split_official"],
    )
    assert "test" not in set(parts)


def test_missing_views_labels_vendors_and_implants_are_counted(
    export: Export, tmp_path: Path
) -> None:
    export.add("1", cancer="", Manufacturer="Nobody Ltd")
    export.add("2", BreastImplantPresent="YES")
    export.add("2", view="MLO")
    check = export.check(tmp_path / "site")
    counts = {problem.code: problem.count for problem in check.problems}
    assert counts["missing_view"] == 1 and counts["no_label"] == 1
    assert counts["unknown_vendor"] == 1 and counts["implant"] == 1


def test_files_hold_the_same_numbers_and_no_identifier(
    export: Export, tmp_path: Path
) -> None:
    for number in range(12):
        export.add(str(number))
    export.add("13", "R", mirrored=False)
    folder = tmp_path / "site"
    check = export.check(folder)
    page = write_check(folder, check, "ours")
    document = json.loads((folder / "check.json").read_bytes())
    assert {name: document[name] for name in check.counts} == check.counts
    assert len(document["images"]) == 13
    assert sum("side_against_pixels" in i["codes"] for i in document["images"].values())
    text = page.read_text()
    assert "13 files found: 13 usable images of 13 patients" in text
    assert text.count("data:image/png") >= 3 and "http:" not in text
    for path in (page, folder / "check.json"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert "CANARY" not in path.read_text() and "1.2.3." not in path.read_text()


def test_a_shared_summary_withholds_small_cells(export: Export, tmp_path: Path) -> None:
    for number in range(11):
        export.add(str(number))
    export.add("11", "R", Manufacturer="Siemens")
    summary = summary_document(export.check(tmp_path / "site"))
    assert summary["found"] == 10 and summary["quarantined"] == 0
    assert summary["by_field"]["vendor"] == {"hologic": 10, "siemens": None}
    assert "images" not in summary
    numbers = [v for cells in summary["by_field"].values() for v in cells.values()]
    assert all(count is None or count % 10 == 0 for count in numbers)


def test_many_images_of_few_patients_are_withheld_too(
    export: Export, tmp_path: Path
) -> None:
    for number in range(3):
        _exam(export, str(number), cancer="1")
    for number in range(10):
        export.add(f"healthy-{number}")
    summary = summary_document(export.check(tmp_path / "site"))
    assert summary["by_field"]["cancer_pathology"] == {"1": None, "0": 10}


def test_a_second_check_adds_up_after_other_preparations(
    export: Export, tmp_path: Path
) -> None:
    _exam(export, "1")
    folder = tmp_path / "site"
    export.check(folder)
    path = export.root / "file001"
    content = path.read_bytes()
    path.write_bytes(b"changed for a while")
    prepare_site(folder, export.root, Preprocessing(rows=32, columns=16))
    path.write_bytes(content)
    counts = check_site(folder, export.root).counts
    assert counts == {"found": 4, "cached": 4, "excluded": 0, "quarantined": 0}


def test_a_wrong_archive_folder_spoils_nothing(export: Export, tmp_path: Path) -> None:
    _exam(export, "1")
    folder = tmp_path / "site"
    import_site("hospital", export.root, folder, "ours", {"dataset": "ours"})
    with pytest.raises(CacheError, match="No archive folder"):
        check_site(folder, tmp_path / "typo")
    assert check_site(folder, export.root).counts["cached"] == 4


def test_a_raw_image_counts_once_and_is_missed_only_alone(
    export: Export, tmp_path: Path
) -> None:
    export.add("1")
    export.add("1", PresentationIntentType="FOR PROCESSING")
    export.add("1", view="MLO", PresentationIntentType="FOR PROCESSING")
    check = export.check(tmp_path / "site")
    assert check.counts["cached"] == 1
    assert _count(check, "X_PROCESSING") == 2 and _count(check, "raw_alone") == 1


def test_an_archive_without_a_usable_image_still_gets_its_page(
    export: Export, tmp_path: Path
) -> None:
    export.add("1", PresentationIntentType="FOR PROCESSING")
    (export.root / "broken").write_bytes(b"")
    check = export.check(tmp_path / "site")
    assert check.counts == {"found": 2, "cached": 0, "excluded": 1, "quarantined": 1}
    page = write_check(tmp_path / "site", check, "ours").read_text()
    assert "0 usable images" in page and "X_PROCESSING" in page
    assert check.problems[0].code == "no_image"
    assert "Nothing stands in the way" not in page


def test_every_remedy_belongs_to_a_code() -> None:
    assert set(REMEDIES) <= set(REASONS)


def test_another_kind_does_not_stand_in_for_a_missing_view(
    export: Export, dicom: ModuleType, tmp_path: Path
) -> None:
    export.add("1", view="CC")
    export.add("1", view="MLO", **_volume(dicom))
    export.add("2", view="CC")
    export.add("2", view="MLO", SeriesDescription="C-View")
    export.add("3", view="CC", **_volume(dicom))
    _exam(export, "4")
    check = export.check(tmp_path / "site")
    assert _count(check, "missing_view") == 5


def test_nothing_is_asked_of_volumes_beside_a_whole_set_of_full_field_images(
    export: Export, dicom: ModuleType, tmp_path: Path
) -> None:
    _exam(export, "1")
    export.add("1", view="CC", **_volume(dicom))
    export.add("1", view="MLO", SeriesDescription="C-View")
    check = export.check(tmp_path / "site")
    assert check.counts["cached"] == 6
    assert _count(check, "missing_view") == 0


def test_a_breast_without_full_field_images_beside_one_that_has_them_is_found(
    export: Export, tmp_path: Path
) -> None:
    for view in ("CC", "MLO"):
        export.add("1", "L", view)
        export.add("1", "R", view, SeriesDescription="C-View")
    assert _count(export.check(tmp_path / "site"), "missing_view") == 2


def test_what_plans_leave_out_by_default_is_noted(
    export: Export, dicom: ModuleType, tmp_path: Path
) -> None:
    _exam(export, "1")
    export.add("1", **_volume(dicom))
    export.add("1", SeriesDescription="C-View")
    check = export.check(tmp_path / "site")
    (problem,) = (one for one in check.problems if one.code == "left_out")
    assert (problem.severity, problem.count) == ("note", 2)
    assert "preprocessing.modalities" in problem.remedy


@pytest.mark.parametrize(
    ("vendors", "unexpected"),
    [
        ({"hologic": 995, "ge": 4, "other": 1}, 4),
        ({"hologic": 500, "ge": 500, "fuji": 3, "siemens": 2}, 5),
        ({"hologic": 2000, "ge": 10}, 0),  # few, but enough to train on
        ({"hologic": 99, "ge": 1}, 0),  # a small site
        ({"hologic": 995, "other": 4}, 0),
    ],
)
def test_a_vendor_of_very_few_patients_is_unexpected(
    vendors: dict[str, int], unexpected: int
) -> None:
    found = [one for one in problems_of(_images(vendors)) if "expected" in one.code]
    assert sum(problem.count for problem in found) == unexpected
    assert {problem.code for problem in found} <= {"unexpected_vendor"}


def _images(vendors: dict[str, int]) -> pd.DataFrame:
    """Of each vendor a number of patients with one image."""
    names = [vendor for vendor, patients in vendors.items() for _ in range(patients)]
    keys = ("row_id", "patient_key", "exam_key", "breast_key")
    same = {"dataset": "test", "site": "test", "laterality": "L", "view": "CC"}
    same |= {"modality_kind": "FFDM", "status": "ok"}
    rows = manifest_frame(
        [
            empty_row() | same | dict.fromkeys(keys, f"{n:032x}") | {"vendor": vendor}
            for n, vendor in enumerate(names)
        ]
    )
    return rows.assign(
        image_sha256=rows["row_id"],
        trimmed_sha256=rows["row_id"],
        flipped=False,
        mark=False,
    )


def _volume(dicom: ModuleType) -> dict[str, object]:
    return {
        "SOPClassUID": dicom.TOMOSYNTHESIS,
        "NumberOfFrames": 3,
        "PixelData": dicom.stack(3).astype("<u2").tobytes(),
    }
