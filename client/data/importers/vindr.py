"""Importer ``vindr``: VinDr-Mammo 1.0.0 (PhysioNet), screening exams from Vietnam.

Layout of the download:

    breast-level_annotations.csv
    images/<study_id>/<image_id>.dicom
    finding_annotations.csv, metadata.csv, SHA256SUMS.txt    not needed, not read

The table of breasts is the truth: BI-RADS and density as radiologists read them, side,
view and the official part. **There is no pathology**: ``cancer_pathology`` stays
unknown for every image, and a target on ``birads`` (5, or 4 and above, of the source
``radiologist``) is not called cancer.

Ids are MD5 of the original UIDs. Nothing names a patient, so an exam stands for one and
repeated exams cannot be told; an exam may hold several series. Licence: PhysioNet
Restricted Health Data with a data use agreement, no redistribution. Options, usually
from a YAML file:

    dataset: vindr
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic.dataclasses import dataclass

from client.data.importers.archive import finish, scan_dicom
from client.data.importers.by_rows import rows_by_path, take_rows
from client.data.importers.files import Imported, Source
from client.data.importers.tables import STRICT, LabelTable, read_options
from common.plan import Slug

_BREASTS = LabelTable(
    file="breast-level_annotations.csv",
    key="image_id",
    columns={
        "laterality": "laterality",
        "view": "view_position",
        "birads": "breast_birads",
        "density": "breast_density",
        "split_official": "split",
    },
    level="breast",
    source="radiologist",
)
_PLACE = "images/{study_id}/{image_id}.dicom"
_TABLES = (
    _BREASTS.file,
    "finding_annotations.csv",
    "metadata.csv",
    "SHA256SUMS.txt",
)


@dataclass(frozen=True, config=STRICT)
class VindrOptions:
    """Options of the importer: only the name of the data set."""

    dataset: Slug = "vindr"


def import_archive(source: Source, site: str, options: Mapping[str, Any]) -> Imported:
    """Import the images; every other file is a row that says so, tables excepted.

    Raises
    ------
    ImporterError
        If the table of breasts is missing or not as published.
    """
    settings: VindrOptions = read_options(VindrOptions, options, "vindr")
    rows = rows_by_path(source.root, _BREASTS, _PLACE)
    files = scan_dicom(
        source, skip=[source.root / name for name in _TABLES], wanted=_is_image
    )
    images = [file for file in files if _is_image(file.path)]
    for file in images:
        # The folder, not the header: its UIDs are no legal ones, and may be unreadable.
        file.exam = file.path.parts[1]
        file.patient = f"study:{file.exam}"
    notes = take_rows(images, rows)
    return finish(files, site, settings.dataset, source, notes=notes)


def _is_image(path: Path) -> bool:
    parts = path.parts
    return len(parts) == 3 and parts[0] == "images" and path.suffix == ".dicom"
