"""Importer ``hospital``: any tree of DICOM files, and a label table if there is one.

Names and extensions of files mean nothing. All options may be left out; ``dataset`` is
then the name of the site. They usually come from a YAML file:

    dataset: my_hospital
    film: false
    join: accession_number
    table:
      file: labels.csv
      key: Accession
      level: breast
      source: pathology
      columns: {laterality: Side, cancer_pathology: Result, density: ACR}
      values: {cancer_pathology: {malignant: 1, benign: 0, pending: null}}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import model_validator
from pydantic.dataclasses import dataclass

from client.data.importers.archive import finish, scan_dicom
from client.data.importers.files import Imported, Source
from client.data.importers.join import Key, join
from client.data.importers.tables import STRICT, LabelTable, read_options, table_path
from common.plan import Slug


@dataclass(frozen=True, config=STRICT)
class HospitalOptions:
    """Options of the importer.

    Attributes
    ----------
    dataset : name of the data set; None = that of the site
    film : the archive holds digitised film: secondary captures are wanted
    table : label table, or None: then nothing is known to be positive or negative
    join : what the table's key is
    """

    dataset: Slug | None = None
    film: bool = False
    table: LabelTable | None = None
    join: Key | None = None

    @model_validator(mode="after")
    def _table_is_joined(self) -> HospitalOptions:
        if (self.table is None) != (self.join is None):
            raise ValueError("table and join belong together: declare both or neither")
        return self


def import_archive(source: Source, site: str, options: Mapping[str, Any]) -> Imported:
    """Import a folder of DICOM files; every file becomes a row.

    Raises
    ------
    ImporterError
        If options or label table cannot be used as declared.
    """
    settings: HospitalOptions = read_options(HospitalOptions, options, "hospital")
    skip = [] if settings.table is None else [table_path(source.root, settings.table)]
    files = scan_dicom(source, film=settings.film, skip=skip)
    notes: dict[str, int] = {}
    if settings.table is not None and settings.join is not None:
        notes = join(files, source, settings.table, settings.join)
    return finish(files, site, settings.dataset or site, source, notes=notes)
