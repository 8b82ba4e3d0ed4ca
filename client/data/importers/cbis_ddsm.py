"""Importer ``cbis_ddsm``: Curated Breast Imaging Subset of DDSM, digitised film.

Layout as The Cancer Imaging Archive serves it; tables and folders may lie anywhere:

    {calc,mass}_case_description_{train,test}_set.csv
    CBIS-DDSM/Mass-Training_P_00001_LEFT_CC/.../1-1.dcm      full mammogram
    CBIS-DDSM/Mass-Training_P_00001_LEFT_CC_1/.../1-1.dcm    crop or mask of lesion 1

The tables are the truth, one row per lesion with its pathology. The file names they
give match no current download, so a row finds its image by patient, side and view.
Where no folder of the path has such a name, PatientID has it.

An image's label is that of its worst lesion; there are no normal images. A view that
is stored as Calc and as Mass is one film under two UIDs: the Calc image stays, and the
lesions of both are its truth. Each folder is a study of its own, but a patient has one
exam. Licence: CC BY 3.0. Options, usually from a YAML file:

    dataset: cbis_ddsm
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic.dataclasses import dataclass

from client.data.codes import Rejected
from client.data.importers.archive import finish, scan_dicom
from client.data.importers.cbis_cases import (
    SIDES,
    Cases,
    Image,
    Lesion,
    read_cases,
)
from client.data.importers.files import Found, Imported, Source
from client.data.importers.tables import STRICT, read_options
from common.plan import Slug

_CASE = re.compile(
    r"(?P<kind>Calc|Mass)-(Training|Test)_(?P<patient>P_\d+)"
    r"_(?P<side>LEFT|RIGHT)_(?P<view>CC|MLO)(?P<lesion>_\d+)?"
)
_MILD_TO_WORST = ("benign_no_callback", "benign", "malignant")


@dataclass(frozen=True, config=STRICT)
class CbisDdsmOptions:
    """Options of the importer: only the name of the data set."""

    dataset: Slug = "cbis_ddsm"


def import_archive(source: Source, site: str, options: Mapping[str, Any]) -> Imported:
    """Import full mammograms; crops and masks become rows that say so.

    Patients in both official parts are moved to train, and counted.

    Raises
    ------
    ImporterError
        If one of the four tables is not there, or not as it was published.
    """
    settings: CbisDdsmOptions = read_options(CbisDdsmOptions, options, "cbis_ddsm")
    cases = read_cases(source.root)
    files = scan_dicom(source, film=True, skip=cases.paths, wanted=_is_mammogram)
    images = _place(files)
    elsewhere = {  # a breast is not benign because its malignant view was not copied
        (lesion.patient, lesion.side)
        for lesion in cases.lesions
        if lesion.pathology_class == "malignant" and lesion.image not in images
    }
    for image, same in images.items():
        facts = _facts(cases, image)
        if image[:2] in elsewhere and facts.get("cancer_pathology") == 0:
            facts |= dict.fromkeys(("cancer_pathology", "pathology_class", "birads"))
        for file in same:
            file.facts |= facts
        _judge_repeats(same)
    unmatched = [file for file in files if "label_level" not in file.facts]
    notes = {
        "table_rows_unmatched": sum(one.image not in images for one in cases.lesions),
        "files_unmatched": sum(file.verdict is None for file in unmatched),
        "patients_moved_to_train": len(cases.leaking_patients),
    }
    return finish(files, site, settings.dataset, source, notes=notes)


def _case_of(path: Path) -> re.Match[str] | None:
    return next(filter(None, map(_CASE.fullmatch, path.parts)), None)


def _is_dicom(path: Path) -> bool:
    return path.suffix.lower() == ".dcm"


def _is_mammogram(path: Path) -> bool:
    case = _case_of(path)
    return _is_dicom(path) and not (case and case["lesion"])


def _place(files: list[Found]) -> dict[Image, list[Found]]:
    """Tell crops from mammograms, and group these by image, Calc before Mass."""
    placed: dict[str, list[tuple[Image, Found]]] = {"Calc": [], "Mass": []}
    for file in files:
        case = _case_of(file.path) or _CASE.fullmatch(file.patient)
        if case is None or not _is_dicom(file.path):
            continue
        if case["lesion"]:
            file.verdict = Rejected("X_ROI", "classify")
            continue
        side = SIDES[case["side"]]
        # The case is what its folder says: a label never follows a header to the
        # other side.
        if file.facts.get("laterality") not in (None, side):
            file.remarks.add("W_SIDE")
        file.facts |= {"laterality": side, "view": case["view"]}
        file.patient = file.exam = case["patient"]
        file.exam_date = ""
        placed[case["kind"]].append(((file.patient, side, case["view"]), file))
    images: dict[Image, list[Found]] = {}
    for image, file in placed["Calc"] + placed["Mass"]:
        images.setdefault(image, []).append(file)
    return images


def _facts(cases: Cases, image: Image) -> dict[str, Any]:
    parts = cases.parts.get(image[0])
    split = {"split_official": "train" if "train" in parts else "test"} if parts else {}
    return split | (_truth(cases.images[image]) if image in cases.images else {})


def _truth(lesions: list[Lesion]) -> dict[str, Any]:
    classes = {lesion.pathology_class for lesion in lesions}
    worst = max(classes, key=_MILD_TO_WORST.index)
    scores = [lesion.birads for lesion in lesions if lesion.birads is not None]
    return {
        "cancer_pathology": int(worst == "malignant"),
        "pathology_class": worst,
        "birads": max(scores, default=None),
        "density": next((one.density for one in lesions if one.density), None),
        "label_level": "lesion",
        "label_source": "pathology",
    }


def _judge_repeats(same: list[Found]) -> None:
    usable = [file for file in same if file.verdict is None]
    for file in usable[1:]:  # one UID twice is for `finish` to judge
        if not file.uid or file.uid != usable[0].uid:
            file.verdict = Rejected("X_DUPLICATE", "classify")
