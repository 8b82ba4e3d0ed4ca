"""Importer ``embed``: EMBED, the open part of the Emory Breast Imaging Dataset.

Layout:

    tables/EMBED_OpenData_{metadata,clinical}_reduced.csv   or without ``_reduced``
    .../<cohort>/<empi_anon>/.../<SOP instance UID>.dcm

``metadata`` has a row per file; ``clinical`` has one per finding, about one side or
both. Truth is pathology where a specimen was taken; all else has BI-RADS only.

A finding counts for the breast it is about. One without a side counts for both, but as
a label of the exam: a positive one then tells no breast. Pathology of a known side
(``bside``) counts for that side only. Per breast, the most severe result counts. A
breast without any finding stays unknown: nobody recorded that it is negative. If the
other breast of the exam has findings of its side, and none of the exam is without one,
``contralateral_normal`` declares it normal; its label is then of the source
``assumed``, which a plan must accept explicitly.

Race and ethnicity are never kept. Non-commercial use; weights trained on EMBED may not
be released publicly. Options, usually from a YAML file:

    dataset: embed
    contralateral_normal: false
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic.dataclasses import dataclass

from client.data.codes import Rejected
from client.data.dicom_rules import side_of, view_of
from client.data.importers.archive import finish, scan_dicom
from client.data.importers.by_rows import ASSUMED_NORMAL
from client.data.importers.embed_tables import (
    CONTRADICTED,
    MODIFIER,
    Place,
    Row,
    place_of,
    read_exams,
    read_images,
    tables_of,
)
from client.data.importers.files import Found, Imported, Source
from client.data.importers.tables import STRICT, read_options
from common.plan import Slug

_KINDS = {"2d": "FFDM", "cview": "SYNTH2D", "3d": "DBT"}
_EXCLUDED = {
    "roi_ss": "X_SECONDARY_CAPTURE",  # screens with a circle drawn by the radiologist
    "roi_ssc": "X_SECONDARY_CAPTURE",
}


@dataclass(frozen=True, config=STRICT)
class EmbedOptions:
    """Options of the importer.

    Attributes
    ----------
    dataset : name of the data set
    contralateral_normal : take the breast without a finding, beside one that has some,
        for normal
    """

    dataset: Slug = "embed"
    contralateral_normal: bool = False


def import_archive(source: Source, site: str, options: Mapping[str, Any]) -> Imported:
    """Import EMBED, whole or in part; every file becomes a row.

    Besides the usual counts, ``files_contralateral`` are the images of a breast without
    a finding, beside one that has some.

    Raises
    ------
    ImporterError
        If an option or a table cannot be used.
    """
    settings: EmbedOptions = read_options(EmbedOptions, options, "embed")
    exams = read_exams(source.root)
    images, nameless = read_images(source.root)
    files = scan_dicom(source, skip=tables_of(source.root), wanted=_is_image)
    matched: set[Place] = set()
    met: set[str] = set()
    files_unmatched = files_contralateral = 0
    for file in filter(lambda file: _is_image(file.path), files):
        place = place_of(file.path.as_posix())
        row = images.get(place) if place else None
        exam = exams.get(row["acc_anon"]) if row else None
        file.exam_date = exam["date"] if exam else ""
        if place:  # without a row the file still belongs to the patient of its folder
            file.patient = place[1]
        if place and row:
            matched.add(place)
            met.add(row["acc_anon"])
            _take_row(file, row)
        if exam:
            side = file.facts.get("laterality") or ""
            file.facts |= {"density": exam["density"]} | exam.get(side, {})
            if side and side == exam["contralateral"]:
                files_contralateral += file.verdict is None
                if settings.contralateral_normal:
                    file.facts |= ASSUMED_NORMAL
        files_unmatched += exam is None and file.verdict is None
    notes = {
        "table_rows_unmatched": nameless + len(images) - len(matched),
        "exams_unmatched": len(exams.keys() - met),
        "files_unmatched": files_unmatched,
        "files_contralateral": files_contralateral,
    }
    return finish(files, site, settings.dataset, source, notes=notes)


def _is_image(path: Path) -> bool:
    return path.suffix.lower() == ".dcm"


def _take_row(file: Found, row: Row) -> None:
    file.patient = row["empi_anon"] or file.patient
    file.exam = row["acc_anon"] or file.exam
    side, view = side_of(row["ImageLateralityFinal"]), view_of(row["ViewPosition"])
    if side:
        if file.facts.get("laterality") not in (None, side):
            file.remarks.add("W_SIDE")
        file.facts["laterality"] = side
    if view and view != "OTHER":
        file.facts["view"] = view
    kind = row["FinalImageType"].lower().replace("-", "")
    file.facts["modality_kind"] = _KINDS.get(kind, file.facts.get("modality_kind"))
    code = _EXCLUDED.get(kind)
    if row["spot_mag"] == "1":
        magnified = "magnif" in row.get(MODIFIER, "").lower()
        code = code or ("X_MAG" if magnified else "X_SPOT")
    if CONTRADICTED in row:
        code = "X_CONFLICT"
    if code and file.verdict is None:
        file.verdict = Rejected(code, "classify")
