"""Importer ``image_folder``: PNG or JPEG files and a table that says what they show.

Options, usually from a YAML file:

    dataset: cdd_cesm
    modality_kind: CESM_LE
    allow_8bit: true
    smoke_test: true
    table:
      file: labels.csv
      key: file
      columns: {laterality: laterality, cancer_pathology: category}
      values: {cancer_pathology: {malignant: 1, mixed: 1, benign: 0, normal: 0}}
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from client.data.codes import Rejected
from client.data.importers.archive import finish
from client.data.importers.files import (
    Found,
    Imported,
    ImporterError,
    Source,
    encode_path,
    load,
)
from client.data.importers.join import join
from client.data.importers.tables import (
    STRICT,
    Kind,
    LabelTable,
    read_options,
    table_path,
)
from client.data.raster import read_container
from common.plan import Slug

_EXAMPLE = """\
    dataset: ours
    table:
      file: labels.csv
      key: file
      patient: patient
      columns: {laterality: side, view: view, cancer_pathology: cancer}
"""


@dataclass(frozen=True, config=STRICT)
class ImageFolderOptions:
    """Options of the importer.

    Attributes
    ----------
    dataset : name of the data set
    table : column map; its key names files relative to the folder. None = no facts
    modality_kind : what all images are
    allow_8bit : accept 8-bit and colour files, whose fine contrast is already lost
    bits_stored : true depth of 16-bit files, unless a column gives it
    photometric : MONOCHROME1 if bright means air
    smoke_test : accept unknown patients: every image is then its own patient, so that
        results are by image and claim nothing
    """

    dataset: Slug
    table: LabelTable | None = None
    modality_kind: Kind = "FFDM"
    allow_8bit: bool = False
    bits_stored: Annotated[int, Field(ge=9, le=16)] | None = None
    photometric: Literal["MONOCHROME1", "MONOCHROME2"] = "MONOCHROME2"
    smoke_test: bool = False


def import_archive(source: Source, site: str, options: Mapping[str, Any]) -> Imported:
    """Import a folder of PNG and JPEG files; every file becomes a row.

    Raises
    ------
    ImporterError
        If options or table cannot be used as declared, patients are unknown without
        ``smoke_test``, or 16-bit files come without their true depth.
    """
    settings: ImageFolderOptions = read_options(
        ImageFolderOptions, options, "image_folder", _EXAMPLE
    )
    table = settings.table
    _require_patients(settings)
    skip = [] if table is None else [table_path(source.root, table)]
    files = [_scan_one(source.root, path, settings) for path in source.files(skip)]
    notes = {} if table is None else join(files, source, table, "relative_path")
    for file in files:
        if settings.smoke_test and not file.patient:
            file.patient = f"image:{encode_path(file.path)}"
    _require_depth(files)
    return finish(
        files,
        site,
        settings.dataset,
        source,
        sides_required=False,
        notes=notes,
    )


def _require_patients(settings: ImageFolderOptions) -> None:
    known = settings.table is not None and settings.table.patient
    if not known and not settings.smoke_test:
        raise ImporterError(
            "Importer image_folder: no column with patients is declared, so no honest "
            "split by patient is possible. Declare table.patient; or set smoke_test: "
            "true to treat every image as a patient of its own and claim nothing."
        )


def _scan_one(root: Path, path: Path, settings: ImageFolderOptions) -> Found:
    found, content = load(root, path)
    found.reader = "raster"
    found.facts = {
        "modality_kind": settings.modality_kind,
        "intent": "unknown",
        "photometric": settings.photometric,
        "voi_applied": "range",
    }
    if found.verdict is not None:
        return found
    try:
        container = read_container(content)
        wide = container.bits > 8 and not container.colour
        if not wide and not settings.allow_8bit:
            raise Rejected("X_8BIT", "classify")
        found.facts["bits_stored"] = settings.bits_stored if wide else 8
    except Rejected as verdict:
        found.verdict = verdict
    return found


def _require_depth(files: list[Found]) -> None:
    unknown = sum(
        file.verdict is None and file.facts["bits_stored"] is None for file in files
    )
    if unknown:
        raise ImporterError(
            f"{unknown} images are 16-bit files, which may span 0..4095 or 0..65535 "
            "for the same exposure. Give their depth: option bits_stored, or a column "
            "mapped to bits_stored."
        )
