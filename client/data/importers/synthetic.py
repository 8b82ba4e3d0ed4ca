"""Importer ``synthetic``: the consortium that `simulations.synthetic` writes.

One folder per site with ``truth.csv``, ``findings.csv`` and ``site.json`` beside the
DICOM files. Truth is that of the breast and counts as pathology.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic.dataclasses import dataclass

from client.data.importers.archive import finish, scan_dicom
from client.data.importers.files import Imported, Source
from client.data.importers.join import join
from client.data.importers.tables import STRICT, LabelTable, read_options
from common.plan import Slug

_TABLES = ("truth.csv", "findings.csv", "site.json")
_TRUTH = LabelTable(
    file="truth.csv",
    key="sop_instance_uid",
    columns={
        "laterality": "laterality",
        "view": "view",
        "density": "density",
        "age_years": "age_years",
        "pathology_class": "pathology",
        "cancer_pathology": "pathology",
    },
    values={"cancer_pathology": {"malignant": 1, "benign": 0, "normal": 0}},
    level="breast",
    source="pathology",
)


@dataclass(frozen=True, config=STRICT)
class SyntheticOptions:
    """Options of the importer: only the name of the data set."""

    dataset: Slug = "synthetic"


def import_archive(source: Source, site: str, options: Mapping[str, Any]) -> Imported:
    """Import one site of the synthetic consortium; `root` is that site's folder.

    Raises
    ------
    ImporterError
        If the folder holds no truth table.
    """
    settings: SyntheticOptions = read_options(SyntheticOptions, options, "synthetic")
    files = scan_dicom(source, skip=[source.root / name for name in _TABLES])
    notes = join(files, source, _TRUTH, "sop_instance_uid")
    return finish(files, site, settings.dataset, source, notes=notes)
