"""Importers, one file per kind of archive: facts, never what is positive."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from client.data.importers import (
    cbis_ddsm,
    cdd_cesm,
    cmmd,
    csaw_cc,
    embed,
    hospital,
    image_folder,
    inbreast,
    mias,
    rsna,
    synthetic,
    vindr,
)
from client.data.importers.files import Imported, ImporterError, Source

__all__ = ["IMPORTERS", "Imported", "ImporterError", "Source"]

Importer = Callable[[Source, str, Mapping[str, Any]], Imported]

IMPORTERS: dict[str, Importer] = {
    "cbis_ddsm": cbis_ddsm.import_archive,
    "cdd_cesm": cdd_cesm.import_archive,
    "cmmd": cmmd.import_archive,
    "csaw_cc": csaw_cc.import_archive,
    "embed": embed.import_archive,
    "hospital": hospital.import_archive,
    "image_folder": image_folder.import_archive,
    "inbreast": inbreast.import_archive,
    "mias": mias.import_archive,
    "rsna": rsna.import_archive,
    "synthetic": synthetic.import_archive,
    "vindr": vindr.import_archive,
}
