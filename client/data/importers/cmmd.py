"""Importer ``cmmd``: The Chinese Mammography Database, digital, biopsy confirmed.

Layout as The Cancer Imaging Archive serves it; the table is a download of its own and
may lie anywhere below the archive:

    CMMD_clinicaldata_revision.xlsx
    CMMD/<D1-0001>/<date-...>/<series>/1-1.dcm    or without the patient's folder
    metadata.csv, LICENSE                         not needed, not read

The workbook is the truth: one row for each breast with a biopsy, malignant or benign,
and both breasts of a patient may differ. A copy saved as CSV under the same name is
accepted too, and then read instead. The header tells side, view (only as a code) and
age, and nothing of the manufacturer. A patient has one exam: labels know no more.

The other breast of such a patient has no row and stays unknown, unless
``contralateral_normal`` declares it normal; its label is then of the source
``assumed``, which a plan must accept explicitly. There is no official split. Pixels
are display values of 8 bits: their window is not applied, see
`client.data.intensity`. Licence: CC BY 4.0, doi 10.7937/tcia.eqde-4b16. Options,
usually from a YAML file:

    dataset: cmmd
    contralateral_normal: false
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic.dataclasses import dataclass

from client.data.importers.archive import finish, scan_dicom
from client.data.importers.by_rows import ASSUMED_NORMAL, stated
from client.data.importers.files import Found, Imported, ImporterError, Source
from client.data.importers.published import find_tables
from client.data.importers.tables import STRICT, LabelTable, read_options, read_table
from client.data.importers.workbook import read_workbook
from common.plan import Slug

_WORKBOOK = "CMMD_clinicaldata_revision.xlsx"
_CSV = "CMMD_clinicaldata_revision.csv"
_BREASTS = LabelTable(
    file=_WORKBOOK,
    key="ID1",
    columns={
        "laterality": "LeftRight",
        "cancer_pathology": "classification",
        "pathology_class": "classification",
    },
    values={"cancer_pathology": {"malignant": 1, "benign": 0}},
    level="breast",
    source="pathology",
)
_PATIENT = re.compile(r"D\d-\d{4}")

_Breast = tuple[str, str]  # patient and side


@dataclass(frozen=True, config=STRICT)
class CmmdOptions:
    """Options of the importer.

    Attributes
    ----------
    dataset : name of the data set
    contralateral_normal : take the breast that has no row, beside one that has, for
        normal
    """

    dataset: Slug = "cmmd"
    contralateral_normal: bool = False


def import_archive(source: Source, site: str, options: Mapping[str, Any]) -> Imported:
    """Import the images; every other file is a row that says so, the table excepted.

    Besides the usual counts, ``files_contralateral`` are the images without a row that
    show the other breast of a patient who has one.

    Raises
    ------
    ImporterError
        If the table is missing, cannot be read, or is not as published.
    """
    settings: CmmdOptions = read_options(CmmdOptions, options, "cmmd")
    tables = find_tables(source.root, (_WORKBOOK, _CSV))
    breasts = _read_breasts(source.root, tables)
    copies = [path for paths in tables.values() for path in paths]
    files = scan_dicom(source, skip=copies, wanted=_is_image)
    images = [file for file in files if _is_image(file.path)]
    notes = _take(images, breasts, settings.contralateral_normal)
    return finish(files, site, settings.dataset, source, notes=notes)


def _is_image(path: Path) -> bool:
    return path.suffix == ".dcm"


def _read_breasts(
    root: Path, tables: Mapping[str, Sequence[Path]]
) -> dict[_Breast, dict[str, Any]]:
    wanted = {_BREASTS.key, *_BREASTS.columns.values()}
    if _CSV in tables:
        name, path = _CSV, tables[_CSV][0]
        texts = read_table(path, wanted, _delimiter(path))
    elif _WORKBOOK in tables:
        name = _WORKBOOK
        texts = read_workbook(tables[_WORKBOOK][0], wanted)
    else:
        raise ImporterError(
            f"No table {_WORKBOOK} below {root}. It is a download of its own, beside "
            "the images: put it into this folder."
        )
    breasts: dict[_Breast, dict[str, Any]] = {}
    conflicts = 0
    for row, facts in stated(texts, name, _BREASTS):
        breast = row[_BREASTS.key], facts.get("laterality", "")
        if breast[0]:  # a workbook may go on after its last row
            conflicts += breasts.setdefault(breast, facts) != facts
    if conflicts:
        raise ImporterError(
            f"The table {name}: {conflicts} rows contradict an earlier row on the same "
            "breast. Restore it as it was published."
        )
    return breasts


def _delimiter(path: Path) -> str:
    # Spreadsheet programs write the delimiter of the user's country.
    with path.open("rb") as stream:
        return ";" if b";" in stream.readline() else ","


def _take(
    images: Sequence[Found],
    breasts: Mapping[_Breast, dict[str, Any]],
    contralateral_normal: bool,
) -> dict[str, int]:
    patients = {patient for patient, _ in breasts}
    matched: set[_Breast] = set()
    unmatched = contralateral = 0
    for file in images:
        folder = next(filter(_PATIENT.fullmatch, file.path.parts), "")
        file.patient = file.exam = folder or file.patient
        breast = file.patient, file.facts.get("laterality") or ""
        if breast in breasts:
            matched.add(breast)
            file.facts |= breasts[breast]
            continue
        unmatched += file.verdict is None
        if breast[1] and file.patient in patients:
            contralateral += file.verdict is None
            if contralateral_normal:
                file.facts |= ASSUMED_NORMAL
    return {
        "table_rows_unmatched": len(breasts.keys() - matched),
        "files_unmatched": unmatched,
        "files_contralateral": contralateral,
    }
