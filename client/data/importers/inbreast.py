"""Importer ``inbreast``: INbreast, full-field digital mammograms of one hospital.

Layout of the release; it may lie in any folder:

    INbreast Release 1.0/INbreast.csv                             separated by ``;``
    INbreast Release 1.0/AllDICOMs/<image>_<patient>_MG_<L|R>_<CC|ML>_ANON.dcm
    INbreast Release 1.0/{AllXML,AllROI,PectoralMuscle,MedicalReports}, INbreast.xls

The table is the truth: BI-RADS of each image, by radiologists. Pathology is not given
for all, so ``cancer_pathology`` stays unknown. Headers have neither patient nor date
nor view: the file name tells the patient, the table the month, and images of one month
are one exam. ``ML`` means MLO here. Licence: research agreement; do not redistribute.
Options, usually from a YAML file:

    dataset: inbreast
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic.dataclasses import dataclass

from client.data.dicom_rules import side_of, view_of
from client.data.importers.archive import finish, scan_dicom
from client.data.importers.files import Found, Imported, ImporterError, Source
from client.data.importers.published import find_table, translate
from client.data.importers.tables import STRICT, read_options, read_table
from common.plan import Slug

TABLE = "INbreast.csv"

_COLUMNS = ("Laterality", "View", "Acquisition date", "File Name", "ACR", "Bi-Rads")
_NAME = re.compile(
    r"(?P<image>\d+)_(?P<patient>[0-9a-f]+)_MG_(?P<side>[LR])_(?P<view>[A-Z]+)_ANON"
    r"\.dcm",
    re.IGNORECASE,
)
_BIRADS: dict[str, dict[str, Any]] = {
    "": {"birads": None, "birads_sub": None},
    "4A": {"birads": 4, "birads_sub": "4a"},
    "4B": {"birads": 4, "birads_sub": "4b"},
    "4C": {"birads": 4, "birads_sub": "4c"},
}
_BIRADS |= {
    f"{score}{tail}": {"birads": score, "birads_sub": None}
    for score in range(7)
    for tail in ("", ".0")
}
_DENSITIES = {"": None} | {
    f"{score}{tail}": letter
    for score, letter in enumerate("ABCD", start=1)
    for tail in ("", ".0")
}


@dataclass(frozen=True, config=STRICT)
class InbreastOptions:
    """Options of the importer: only the name of the data set."""

    dataset: Slug = "inbreast"


@dataclasses.dataclass(frozen=True)
class _Row:
    """What the table says about one image; `month` as digits, empty if unknown."""

    side: str | None
    view: str | None
    month: str
    facts: dict[str, Any]


def import_archive(source: Source, site: str, options: Mapping[str, Any]) -> Imported:
    """Import the mammograms; contours, reports and stray files become rows that say so.

    Raises
    ------
    ImporterError
        If the table is absent, or is not as it was published.
    """
    settings: InbreastOptions = read_options(InbreastOptions, options, "inbreast")
    otherwise = "; or save the sheet of INbreast.xls so, separated by semicolons"
    copies = find_table(source.root, TABLE, otherwise)
    rows, unnamed = _read(copies[0])
    files = scan_dicom(source, skip=copies, wanted=_is_dicom)
    matched = set()
    files_unmatched = 0
    for file in files:
        name = _NAME.fullmatch(file.path.name)
        image = _image_id(name["image"]) if name else ""
        if name:
            _take(file, name, rows.get(image))
        matched.add(image)
        files_unmatched += file.verdict is None and image not in rows
    notes = {
        "table_rows_unmatched": len(rows.keys() - matched) + unnamed,
        "files_unmatched": files_unmatched,
    }
    return finish(files, site, settings.dataset, source, notes=notes)


def _is_dicom(path: Path) -> bool:
    return path.suffix.lower() == ".dcm"


def _read(path: Path) -> tuple[dict[str, _Row], int]:
    """Return the row of each image, and how many rows name none that can be read."""
    table = read_table(path, _COLUMNS, delimiter=";")
    table = [row for row in table if row["File Name"]]  # the sheet ends in totals
    cells = [row for row in table if _image_id(row["File Name"])]
    scores = translate(cells, path.name, "Bi-Rads", _BIRADS)
    densities = translate(cells, path.name, "ACR", _DENSITIES)
    rows: dict[str, _Row] = {}
    for row, score, density in zip(cells, scores, densities, strict=True):
        facts = score | {"density": density}
        if score["birads"] is not None:
            facts |= {"label_level": "image", "label_source": "radiologist"}
        month = row["Acquisition date"].removesuffix(".0")
        entry = _Row(
            side_of(row["Laterality"]),
            _view(row["View"]),
            month if month.isdecimal() else "",
            facts,
        )
        if rows.setdefault(_image_id(row["File Name"]), entry) != entry:
            raise ImporterError(
                f"The table {path.name} holds rows that contradict each other about "
                "one image. Restore the table as it was published."
            )
    return rows, len(table) - len(cells)


def _image_id(text: str) -> str:
    """Read an image's number, which a spreadsheet may have turned into a float."""
    try:
        number = float(text.replace(",", "."))
    except ValueError:
        return ""
    return str(int(number)) if 0 < number < 2**53 and number.is_integer() else ""


def _view(text: str) -> str | None:
    view = view_of(text)
    return "MLO" if view == "ML" else view


def _take(file: Found, name: re.Match[str], row: _Row | None) -> None:
    file.patient = name["patient"].lower()
    sides = [file.facts.get("laterality"), row and row.side, side_of(name["side"])]
    known = [side for side in sides if side]
    file.facts |= {"laterality": known[0], "view": _view(name["view"])}
    if len(set(known)) > 1:
        file.remarks.add("W_SIDE")
    if row is None:
        return
    file.facts |= row.facts | ({"view": row.view} if row.view else {})
    if row.month:
        file.exam = file.exam_date = row.month
