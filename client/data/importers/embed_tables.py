"""Read the tables of EMBED: what each file is, and what each exam tells of a breast."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from client.data.importers.files import ImporterError, unopened
from client.data.importers.published import translate
from client.data.importers.tables import AS_PUBLISHED

MODIFIER = "0_ViewCodeSequence_0_ViewModifierCodeSequence_CodeMeaning"
CONTRADICTED = "contradicted"

_METADATA = (
    *("empi_anon", "acc_anon", "anon_dicom_path"),
    *("FinalImageType", "ImageLateralityFinal", "ViewPosition", "spot_mag"),
)
_CLINICAL = (
    *("acc_anon", "study_date_anon", "tissueden"),
    *("asses", "side", "path_severity"),
)
_SPECIMEN_SIDE = "bside"
_SEVERITIES: dict[str, tuple[int | None, str | None]] = {
    "0": (1, "malignant"),  # invasive
    "1": (1, "malignant"),  # in situ
    "2": (0, "high_risk"),
    "3": (0, None),  # borderline has no class of ours
    "4": (0, "benign"),
    "5": (0, "normal"),
    "6": (None, None),  # a cancer, but not of the breast
}
_FALLING = "KMSAPBN"  # assessments; A asks for more, so it outweighs P
_BIRADS = {"A": 0, "N": 1, "B": 2, "P": 3, "S": 4, "M": 5, "K": 6}
_DENSITIES = {"1": "A", "2": "B", "3": "C", "4": "D"}  # 5 is a male breast

Row = dict[str, str]
Place = tuple[str, str, str]


def tables_of(root: Path) -> list[Path]:
    """List the tables there are."""
    return sorted((root / "tables").glob("EMBED_OpenData_*.csv"))


def place_of(path: str) -> Place | None:
    """Locate a file by cohort, patient and name, on our disk as on the server's.

    Folders in front are the server's own; those between are exam, or study and series.

    Returns
    -------
    cohort, patient and file name, or None for a file outside the cohorts
    """
    parts = PurePosixPath(path.replace("\\", "/")).parts
    at = next((i for i, part in enumerate(parts) if part.startswith("cohort_")), None)
    if at is None or len(parts) < at + 3:
        return None
    return parts[at], parts[at + 1], parts[-1]


def read_images(root: Path) -> tuple[dict[Place, Row], int]:
    """Read what each file is; repeated rows count once.

    Returns
    -------
    place -> row, which holds `CONTRADICTED` if another row on the file differs; and the
    number of rows that name no file of the archive

    Raises
    ------
    ImporterError
        If the table is missing, unreadable, or lacks a column.
    """
    images: dict[Place, Row] = {}
    nameless = 0
    for row in _read(root, "metadata", _METADATA, MODIFIER):
        place = place_of(row.pop("anon_dicom_path"))
        if place is None:
            nameless += 1
        elif images.setdefault(place, row) != row:
            images[place] = row | {CONTRADICTED: "yes"}
    return images, nameless


def read_exams(root: Path) -> dict[str, dict[str, Any]]:
    """Read the findings of all exams.

    Returns
    -------
    exam -> ``date``, ``density``, the manifest's facts of breast ``L`` and ``R``, and
    ``contralateral``: which of them has no finding beside one that has, or empty

    Raises
    ------
    ImporterError
        If the table is missing, unreadable, lacks a column, or holds an unknown word
        as side or severity.
    """
    rows = _read(root, "clinical", _CLINICAL, _SPECIMEN_SIDE)
    sides, severities = dict.fromkeys(("", *"LRB")), dict.fromkeys(("", *_SEVERITIES))
    translate(rows, "EMBED_OpenData_clinical", "side", sides)
    translate(rows, "EMBED_OpenData_clinical", "path_severity", severities)
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row["acc_anon"], []).append(row)
    return {exam: _exam(group) for exam, group in groups.items() if exam}


def _read(root: Path, kind: str, needed: tuple[str, ...], optional: str) -> list[Row]:
    """Read some columns as stripped texts; all others, as race, are dropped at once.

    The reduced table is taken first: the full one has far more columns.
    """
    names = [f"EMBED_OpenData_{kind}{tail}.csv" for tail in ("_reduced", "")]
    path = next((p for p in (root / "tables" / n for n in names) if p.is_file()), None)
    if path is None:
        raise ImporterError(
            f"No table {names[0]} or {names[1]} in {root / 'tables'}. It belongs to "
            "the archive: complete the download."
        )
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            lines = csv.reader(stream)
            header = [name.strip() for name in next(lines, [])]
            if missing := sorted(set(needed) - set(header)):
                raise ImporterError(
                    f"The table {path.name} lacks the columns {missing}; it has "
                    f"{len(header)} columns. {AS_PUBLISHED}"
                )
            kept = [name for name in (*needed, optional) if name in header]
            return [
                _row(dict(zip(header[: len(cells)], cells, strict=True)), kept)
                for cells in (line[: len(header)] for line in lines)
                if cells
            ]
    except OSError as error:
        raise unopened(path, error) from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise ImporterError(
            f"The table {path.name} is no table in UTF-8 ({type(error).__name__}). "
            "Restore the table as it was published."
        ) from None


def _row(cells: Mapping[str, str], kept: list[str]) -> Row:
    return {name: _plain(cells.get(name, "")) for name in kept}


def _plain(text: str) -> str:
    # Codes are padded with spaces; columns with gaps hold 1.0 for 1, and maybe NaN.
    text = text.strip()
    return "" if text.lower() == "nan" else text.removesuffix(".0")


def _exam(rows: list[Row]) -> dict[str, Any]:
    iso = re.match(r"\d{4}-\d\d-\d\d", rows[0]["study_date_anon"])  # sorts as a text
    density = next((row["tissueden"] for row in rows if row["tissueden"]), "")
    return {
        "date": iso[0] if iso else "",
        "density": _DENSITIES.get(density),
        "contralateral": _contralateral(rows),
        "L": _breast(rows, "L"),
        "R": _breast(rows, "R"),
    }


def _contralateral(rows: list[Row]) -> str:
    """Name the breast that nothing is about, beside one with findings; else nothing.

    A finding without a side may be about either breast, and so may a specimen.
    """
    sides = {row["side"].upper() for row in rows}
    specimens = {row.get(_SPECIMEN_SIDE, "").upper() for row in rows}
    if len(sides) > 1 or not specimens <= {*sides, ""}:
        return ""
    return {"L": "R", "R": "L"}.get(sides.pop(), "")


def _breast(rows: list[Row], side: str) -> dict[str, Any]:
    """Take the most severe assessment and the most severe specimen.

    Where two are equally severe the level ``breast`` sorts before ``exam``.
    """
    facts: dict[str, Any] = {}
    assessed = [
        (_FALLING.index(row["asses"]), level)
        for row in rows
        if row["asses"] in _BIRADS and (level := _assessed_level(row, side))
    ]
    if assessed:
        rank, level = min(assessed)
        facts["birads"] = _BIRADS[_FALLING[rank]]
        facts |= {"label_level": level, "label_source": "radiologist"}
    specimens = [
        (row["path_severity"], level)
        for row in rows
        if row["path_severity"] and (level := _specimen_level(row, side))
    ]
    if specimens:
        severity, level = min(specimens)
        facts["cancer_pathology"], facts["pathology_class"] = _SEVERITIES[severity]
        if facts["cancer_pathology"] is not None:
            if facts.get("label_level", level) != level:
                del facts["birads"]  # of the exam: a row holds one level for both
            facts |= {"label_level": level, "label_source": "pathology"}
    return facts


def _level(finding: str, side: str) -> str:
    """Tell what a finding says of a breast: ``breast``, ``exam``, or nothing."""
    if finding.upper() in (side, "B"):
        return "breast"
    return "" if finding else "exam"


def _assessed_level(row: Row, side: str) -> str:
    level = _level(row["side"], side)
    # A finding without a side is where its specimen was taken.
    biopsied = row.get(_SPECIMEN_SIDE, "").upper() == side
    return "breast" if level and biopsied else level


def _specimen_level(row: Row, side: str) -> str:
    specimen = row.get(_SPECIMEN_SIDE, "").upper()
    if specimen not in ("L", "R"):
        return _level(row["side"], side)
    # A specimen of the left breast for a finding in the right one belongs to neither.
    return "breast" if specimen == side and _level(row["side"], side) else ""
