"""Importer ``csaw_cc``: CSAW-CC, the case-control part of a Swedish screening cohort.

Layout; table and images may lie in any folders:

    CSAW-CC_breast_cancer_screening_data.csv           one row per image
    <anon_patientid>_20990909_<L|R>_<CC|MLO>_<n>.dcm   all by Hologic

Truth is that of the cancer registry, by breast. Every ``x_`` and ``rad_`` column is an
outcome; what the readers said (``rad_r1``, ``rad_recall``, ...) is not used. A breast
is positive in the exam that found its cancer. Other images of that breast are unknown,
as most precede the cancer by years; all else is negative.

On request, no redistribution; doi 10.5878/45vm-t798. Options, usually from a YAML file:

    dataset: csaw_cc
    include_interval: false   # true: cancers between two screenings count as well
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic.dataclasses import dataclass as options_dataclass

from client.data.dicom_rules import view_of
from client.data.importers.archive import finish, scan_dicom
from client.data.importers.files import Found, Imported, ImporterError, Source
from client.data.importers.published import find_table, translate
from client.data.importers.tables import STRICT, read_options, read_table
from common.plan import Slug

TABLE = "CSAW-CC_breast_cancer_screening_data.csv"
_COLUMNS = (
    "anon_patientid",
    "exam_year",
    "x_case",
    "x_cancer_laterality",
    "rad_timing",
    "imagelaterality",
    "viewposition",
    "anon_filename",
)
_UNKNOWN = {"": None, "NAN": None}
_SIDES = _UNKNOWN | {"LEFT": "L", "RIGHT": "R"}
_NUMBERS = {f"{number}{tail}": number for number in range(4) for tail in ("", ".0")}
_SCREEN_DETECTED, _INTERVAL = 1, 2  # of rad_timing; 3 is an exam long before


@options_dataclass(frozen=True, config=STRICT)
class CsawCcOptions:
    """Options of the importer.

    Attributes
    ----------
    dataset : name of the data set
    include_interval : a cancer found 60 to 729 days after an exam makes the breast
        positive in that exam; otherwise it is unknown there
    """

    dataset: Slug = "csaw_cc"
    include_interval: bool = False


@dataclass(frozen=True)
class _Row:
    patient: str
    year: str
    side: str | None
    view: str | None
    cancer: int | None


def import_archive(source: Source, site: str, options: Mapping[str, Any]) -> Imported:
    """Import CSAW-CC, whole or in part; every file becomes a row.

    Raises
    ------
    ImporterError
        If an option or the table cannot be used.
    """
    settings: CsawCcOptions = read_options(CsawCcOptions, options, "csaw_cc")
    copies = find_table(source.root, TABLE)
    rows = _read(copies[0], settings.include_interval)
    files = scan_dicom(source, skip=copies, wanted=_is_image)
    matched: set[str] = set()
    files_unmatched = 0
    for file in filter(lambda file: _is_image(file.path), files):
        row = rows.get(file.path.name)
        if row is None:
            _take_name(file)
            files_unmatched += file.verdict is None
        else:
            _take_row(file, row)
            matched.add(file.path.name)
    notes = {
        "table_rows_unmatched": len(rows) - len(matched),
        "files_unmatched": files_unmatched,
    }
    return finish(files, site, settings.dataset, source, notes=notes)


def _is_image(path: Path) -> bool:
    return path.suffix.lower() == ".dcm"


def _read(path: Path, include_interval: bool) -> dict[str, _Row]:
    """Return file name -> row, with its truth."""
    table = read_table(path, _COLUMNS)
    translated = zip(
        table,
        translate(table, path.name, "imagelaterality", _SIDES),
        translate(table, path.name, "x_cancer_laterality", _SIDES),
        translate(table, path.name, "rad_timing", _UNKNOWN | _NUMBERS),
        translate(table, path.name, "x_case", _NUMBERS),
        strict=True,
    )
    positive = {_SCREEN_DETECTED} | ({_INTERVAL} if include_interval else set())
    rows: dict[str, _Row] = {}
    for row, side, where, timing, case in translated:
        entry = _Row(
            patient=row["anon_patientid"],
            year=row["exam_year"].removesuffix(".0"),
            side=side,
            view=view_of(row["viewposition"]),
            cancer=_cancer(side, where, timing in positive, bool(case)),
        )
        if rows.setdefault(row["anon_filename"], entry) != entry:
            raise ImporterError(
                f"The table {path.name} holds rows that contradict each other about "
                "one image. Restore the table as it was published."
            )
    return rows


def _cancer(
    side: str | None, where: str | None, found_here: bool, case: bool
) -> int | None:
    if where is None:  # no cancer, or one whose breast nobody recorded
        return None if case else 0
    if side != where:
        return None if side is None else 0
    return 1 if found_here else None


def _take_name(file: Found) -> None:
    # Without a row the file still belongs to the patient of its name. Headers hold one
    # placeholder as the date of all exams.
    file.patient = file.path.name.partition("_")[0]
    file.exam_date = ""


def _take_row(file: Found, row: _Row) -> None:
    file.patient, file.exam, file.exam_date = row.patient, row.year, row.year
    if row.side:
        if file.facts.get("laterality") not in (None, row.side):
            file.remarks.add("W_SIDE")
        file.facts["laterality"] = row.side
    if row.view:
        file.facts["view"] = row.view
    if not file.facts.get("vendor"):
        file.facts["vendor"] = "hologic"
    if row.cancer is not None:
        file.facts |= {
            "cancer_pathology": row.cancer,
            "pathology_class": "malignant" if row.cancer else None,
            "label_level": "breast",
            "label_source": "registry",
        }
