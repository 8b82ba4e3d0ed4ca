"""Importer ``cdd_cesm``: CDD-CESM, contrast-enhanced mammography of Cairo.

Layout of the full release; folders do not matter:

    P<n>_<L|R>_DM_<CC|MLO>.jpg     low energy, close to a usual mammogram: wanted
    P<n>_<L|R>_CM_<CC|MLO>.jpg     subtracted: excluded
    Radiology-manual-annotations.xlsx

All images are 8-bit JPEG without headers: patient, side and view come from the name.
The class comes from the sheet ``all`` of the workbook. A copy saved as CSV under the
same name is accepted too, and then read instead. Malignant counts as pathology. Benign
and normal rest on pathology or follow-up, and the table does not tell which: their
source is ``dataset``. BI-RADS, ACR density and age are taken where the table has them.

The small public subset (``IM0001.jpg``, ...) knows no patients: use ``image_folder``
with ``smoke_test: true`` for it, as in ``configs/data/folders.yaml``.

CC BY 4.0 [from memory]. Options, usually from a YAML file; file, sheet and column names
are those that published code reads [doc], not seen in the release itself:

    dataset: cdd_cesm
    table: Radiology-manual-annotations.xlsx
    delimiter: ","
    image_column: Image_name
    class_column: Pathology Classification/ Follow up
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from pydantic.dataclasses import dataclass

from client.data.codes import Rejected
from client.data.dicom_rules import age
from client.data.importers.archive import finish
from client.data.importers.files import (
    Found,
    Imported,
    ImporterError,
    Source,
    beside,
    load,
)
from client.data.importers.published import translate
from client.data.importers.tables import STRICT, read_options, read_table
from client.data.importers.workbook import read_workbook
from client.data.raster import read_container
from common.plan import Slug

_SHEET = "all"
_NAME = re.compile(r"P(\d+)_([LR])_(DM|CM)_(CC|MLO)")
_RASTERS = (".jpg", ".jpeg", ".png")
_RISING = (None, "normal", "benign", "malignant")
_CLASSES = {(name or "").upper(): name for name in _RISING}
_DENSITIES = {"1": "A", "2": "B", "3": "C", "4": "D"} | {c: c for c in "ABCD"}


@dataclass(frozen=True, config=STRICT)
class CddCesmOptions:
    """Options of the importer.

    Attributes
    ----------
    dataset : name of the data set
    table : the annotations, a workbook or CSV in UTF-8, relative to the archive
    delimiter : between cells of CSV; some spreadsheet programs write a semicolon
    image_column, class_column : where it names the image and its class
    """

    dataset: Slug = "cdd_cesm"
    table: str = "Radiology-manual-annotations.xlsx"
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] = ","
    image_column: str = "Image_name"
    class_column: str = "Pathology Classification/ Follow up"


def import_archive(source: Source, site: str, options: Mapping[str, Any]) -> Imported:
    """Import the low-energy images of the full release; every file becomes a row.

    Raises
    ------
    ImporterError
        If an option or the table cannot be used, or no file is named as in the release.
    """
    settings: CddCesmOptions = read_options(CddCesmOptions, options, "cdd_cesm")
    tables = _tables(source.root / settings.table)
    paths = list(source.files(tables))
    if not any(_name(path.stem) for path in paths):
        raise ImporterError(
            f"None of {len(paths)} files is named P<n>_<L|R>_<DM|CM>_<CC|MLO>.jpg, "
            "as in the full release of CDD-CESM. For the subset without patients use "
            "importer image_folder with smoke_test: true."
        )
    rows = _read(tables, settings)
    files = [_scan_one(source.root, path) for path in paths]
    matched: set[str] = set()
    files_unmatched = 0
    for file in files:
        name = _stem(file.path.stem)
        if file.patient and name in rows:
            matched.add(name)
            file.facts |= rows[name]
        else:
            files_unmatched += file.verdict is None
    notes = {
        "table_rows_unmatched": len(rows) - len(matched),
        "files_unmatched": files_unmatched,
    }
    return finish(files, site, settings.dataset, source, notes=notes)


def _stem(text: str) -> str:
    # Names of the release hold stray spaces; the table writes them without extension.
    return "".join(text.split()).upper().removesuffix(".JPG")


def _name(text: str) -> re.Match[str] | None:
    return _NAME.fullmatch(_stem(text))


def _scan_one(root: Path, path: Path) -> Found:
    if path.suffix.lower() not in _RASTERS:
        return beside(path)
    name = _name(path.stem)
    if name and name[3] == "CM":
        found, content = Found(path, verdict=Rejected("X_SUBTRACTED", "classify")), b""
    else:
        found, content = load(root, path)
    found.reader = "raster"
    found.facts = {
        "intent": "unknown",
        "photometric": "MONOCHROME2",
        "voi_applied": "range",
    }
    if name:
        found.patient = f"P{int(name[1])}"
        found.facts |= {"laterality": name[2], "view": name[4]}
    if name and name[3] == "DM":
        found.facts["modality_kind"] = "CESM_LE"
    if found.verdict is None:
        try:
            found.facts["bits_stored"] = read_container(content).bits
        except Rejected as verdict:
            found.verdict = verdict
    return found


def _tables(table: Path) -> list[Path]:
    """List where the annotations may be; a copy of a workbook as CSV comes first."""
    copies = [table.with_suffix(".csv")] if table.suffix.lower() == ".xlsx" else []
    return [*copies, table]


def _read(tables: list[Path], settings: CddCesmOptions) -> dict[str, dict[str, Any]]:
    """Return image -> facts; of several rows on one image the worst counts."""
    path = next(filter(Path.is_file, tables), None)
    if path is None:
        raise ImporterError(
            f"No table {tables[-1]}. Put Radiology-manual-annotations.xlsx there, or "
            f"its sheet {_SHEET} saved as CSV in UTF-8, or name it in the option table."
        )
    wanted = (settings.image_column, settings.class_column)
    if path.suffix.lower() == ".xlsx":
        table = read_workbook(path, wanted, _SHEET)
    else:
        table = read_table(path, wanted, settings.delimiter)
    # Several findings of one image share its cell, as in 3$2.
    table = [
        row | {settings.class_column: word.strip()}
        for row in table
        for word in row[settings.class_column].split("$")
        if row[settings.image_column]
    ]
    classes = translate(table, path.name, settings.class_column, _CLASSES)
    entries: dict[str, dict[str, Any]] = {}
    for row, named in sorted(
        zip(table, classes, strict=True), key=lambda pair: _RISING.index(pair[1])
    ):
        entries.setdefault(_stem(row[settings.image_column]), {}).update(
            _facts(row, named)
        )
    return entries


def _facts(row: Mapping[str, str], named: str | None) -> dict[str, Any]:
    scores = re.findall(r"[0-6]", row.get("BIRADS", ""))
    years = row.get("Age", "").removesuffix(".0")
    facts: dict[str, Any] = {
        "birads": max(map(int, scores), default=None),
        "density": _DENSITIES.get(row.get("Breast density (ACR)", "").upper()),
        "age_years": age(f"{years:0>3}Y") if years else None,
        "pathology_class": named,
        "cancer_pathology": int(named == "malignant") if named else None,
    }
    if named or scores:
        source = {"malignant": "pathology", None: "radiologist"}.get(named, "dataset")
        facts |= {"label_level": "breast", "label_source": source}
    return {name: value for name, value in facts.items() if value is not None}
