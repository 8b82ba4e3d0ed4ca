"""Importers, one file per kind of archive: facts, never what is positive."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from client.data.importers import hospital, image_folder, synthetic
from client.data.importers.archive import Imported, ImporterError
from client.data.pseudonyms import Pseudonymiser

__all__ = ["IMPORTERS", "Imported", "ImporterError"]

Importer = Callable[[Path, str, Pseudonymiser, Mapping[str, Any]], Imported]

IMPORTERS: dict[str, Importer] = {
    "hospital": hospital.import_archive,
    "image_folder": image_folder.import_archive,
    "synthetic": synthetic.import_archive,
}
