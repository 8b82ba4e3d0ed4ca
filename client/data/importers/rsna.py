"""Importer ``rsna``: RSNA Screening Mammography Breast Cancer Detection (Kaggle).

Layout of the download; one of the two parts may be absent:

    train.csv  train_images/<patient_id>/<image_id>.dcm
    test.csv   test_images/<patient_id>/<image_id>.dcm

The tables are the truth and alone know side and view: the headers are stripped.
``cancer`` is a fact of the breast, the same for all its images. Its source is
pathology where it is 1 or a biopsy was taken, and the data set's own word elsewhere.
Test images have no label. BIRADS stays as given, 0, 1 or 2: 1 and 2 never have cancer,
so it is an outcome like biopsy, never an input. A patient has one exam. Several images
of one view are normal, and all are kept.

Machines, missing cells and transfer syntaxes differ between the two hospitals; with
``site_id`` one download becomes two sites. Licence: non-commercial use, no
redistribution. Options, usually from a YAML file:

    dataset: rsna
    site_id: 1
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic.dataclasses import dataclass

from client.data.codes import Rejected
from client.data.importers.archive import finish, scan_dicom
from client.data.importers.by_rows import Row, rows_by_path, take_rows
from client.data.importers.files import Imported, Source
from client.data.importers.tables import STRICT, FactField, LabelTable, read_options
from common.plan import Slug

_KNOWN: dict[FactField, str] = {
    "laterality": "laterality",
    "view": "view",
    "age_years": "age",
    "implant": "implant",
    "machine": "machine_id",
}
_OUTCOMES: dict[FactField, str] = {
    "cancer_pathology": "cancer",
    "birads": "BIRADS",
    "density": "density",
}
_TABLES = {
    "train": LabelTable(
        file="train.csv",
        key="image_id",
        columns=_KNOWN | _OUTCOMES,
        level="breast",
        source="dataset",
    ),
    "test": LabelTable(file="test.csv", key="image_id", columns=_KNOWN),
}
_FOLDERS = {f"{part}_images": part for part in _TABLES}


@dataclass(frozen=True, config=STRICT)
class RsnaOptions:
    """Options of the importer.

    Attributes
    ----------
    dataset : name of the data set
    site_id : take one of the two hospitals and exclude what is not known to be its
        own; None takes both
    """

    dataset: Slug = "rsna"
    site_id: Literal[1, 2] | None = None


def import_archive(source: Source, site: str, options: Mapping[str, Any]) -> Imported:
    """Import both parts of the archive, or what there is of them.

    Raises
    ------
    ImporterError
        If there is no table, images without their table, or a table that is not as
        published.
    """
    settings: RsnaOptions = read_options(RsnaOptions, options, "rsna")
    chosen = None if settings.site_id is None else str(settings.site_id)
    rows = {
        path: row
        for path, row in _read_tables(source.root).items()
        if chosen in (None, row.texts["site_id"])
    }
    files = scan_dicom(
        source,
        skip=[source.root / table.file for table in _TABLES.values()],
        wanted=lambda path: (
            _is_image(path) and (chosen is None or path.as_posix() in rows)
        ),
    )
    images = []
    for file in files:
        if not _is_image(file.path):
            continue
        if chosen is not None and file.path.as_posix() not in rows:
            file.verdict = Rejected("X_OTHER_SITE", "classify")
            continue
        file.patient = file.exam = file.path.parts[1]
        images.append(file)
    notes = take_rows(images, rows)
    return finish(files, site, settings.dataset, source, notes=notes)


def _is_image(path: Path) -> bool:
    parts = path.parts
    return len(parts) == 3 and parts[0] in _FOLDERS and path.suffix == ".dcm"


def _read_tables(root: Path) -> dict[str, Row]:
    # Images without their table are an error; a part of which nothing is here is not.
    parts = [
        part
        for folder, part in _FOLDERS.items()
        if (root / folder).is_dir() or (root / _TABLES[part].file).is_file()
    ]
    rows: dict[str, Row] = {}
    for part in parts or _TABLES:
        rows |= _read_part(root, part)
    return rows


def _read_part(root: Path, part: str) -> dict[str, Row]:
    others = ["site_id", "biopsy"] if part == "train" else ["site_id"]
    place = f"{part}_images/{{patient_id}}/{{image_id}}.dcm"
    rows = rows_by_path(root, _TABLES[part], place, others)
    for texts, facts in rows.values():
        facts["split_official"] = part
        if "machine" in facts:
            facts["machine"] = f"machine-{facts['machine']}"
        biopsied = texts.get("biopsy", "") == "1"
        if "label_source" in facts and (biopsied or facts.get("cancer_pathology")):
            facts["label_source"] = "pathology"
    return rows
