"""The case tables of CBIS-DDSM: lesions, leaks between parts, and conflicts.

One row per lesion. Nothing here needs an image, so a download can be judged by its
tables alone: calcifications and masses were divided into train and test apart, and
31 patients stand in one's train and in the other's test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from client.data.importers.files import ImporterError
from client.data.importers.published import find_tables, translate
from client.data.importers.tables import read_table

TABLES = {
    f"{kind}_case_description_{part}_set.csv": part
    for kind in ("calc", "mass")
    for part in ("train", "test")
}
"""File name of each table -> its official part."""

SIDES = {"LEFT": "L", "RIGHT": "R"}

_VOCABULARY: dict[str, Mapping[str, Any]] = {  # in the order of Lesion's fields
    "left or right breast": SIDES,
    "image view": {"CC": "CC", "MLO": "MLO"},
    "pathology": {
        "MALIGNANT": "malignant",
        "BENIGN": "benign",
        "BENIGN_WITHOUT_CALLBACK": "benign_no_callback",
    },
    "assessment": {str(score): score for score in range(7)} | {"": None},
}
_DENSITIES = {"1": "A", "2": "B", "3": "C", "4": "D", "0": None, "": None}
_DENSITY_COLUMNS = ("breast density", "breast_density")  # calcifications, masses

Image = tuple[str, str, str]
"""Patient, side and view: rows and files that agree in them are of one image."""

_Key = TypeVar("_Key")


@dataclass(frozen=True)
class Lesion:
    """One row of a table; `table` is the table's file name."""

    table: str
    patient: str
    side: str
    view: str
    pathology_class: str
    birads: int | None
    density: str | None

    @property
    def image(self) -> Image:
        """The image that shows the lesion."""
        return self.patient, self.side, self.view


@dataclass(frozen=True)
class Cases:
    """What the tables hold.

    Attributes
    ----------
    lesions : all rows of all tables
    paths : the tables, with every copy of them
    """

    lesions: tuple[Lesion, ...]
    paths: tuple[Path, ...]

    @cached_property
    def images(self) -> dict[Image, list[Lesion]]:
        """Lesions of each image, of both types together."""
        return _group(self.lesions, lambda lesion: lesion.image)

    @cached_property
    def parts(self) -> dict[str, set[str]]:
        """Official parts of each patient: ``train``, ``test``, or both."""
        patients = _group(self.lesions, lambda lesion: lesion.patient)
        return {
            patient: {TABLES[lesion.table] for lesion in lesions}
            for patient, lesions in patients.items()
        }

    @property
    def leaking_patients(self) -> set[str]:
        """Patients in one type's train and in the other's test."""
        return {patient for patient, parts in self.parts.items() if len(parts) > 1}

    @property
    def mixed_images(self) -> set[Image]:
        """Images with malignant and with other lesions."""
        return _mixed(self.images)

    @property
    def mixed_breasts(self) -> set[tuple[str, str]]:
        """Patient and side of breasts with malignant and with other lesions."""
        return _mixed(_group(self.lesions, lambda one: (one.patient, one.side)))


def read_cases(root: Path) -> Cases:
    """Read the four tables, wherever they lie below `root`.

    All are needed, also where only some images are there: a breast whose mass is benign
    may have malignant calcifications, and a patient of one part may be in the other.

    Raises
    ------
    ImporterError
        If a table is absent, lacks a column or holds an unknown word.
    """
    found = find_tables(root, TABLES)
    if missing := sorted(TABLES.keys() - found.keys()):
        raise ImporterError(
            f"No {', '.join(missing)} below {root}. All four tables of CBIS-DDSM are "
            "needed, also for a part of its images: the worst lesion of a breast may "
            "stand in any. Complete the download."
        )
    lesions = [lesion for copies in found.values() for lesion in _lesions(copies[0])]
    paths = [path for copies in found.values() for path in copies]
    return Cases(tuple(lesions), tuple(paths))


def _lesions(path: Path) -> list[Lesion]:
    rows = read_table(path, ["patient_id", *_VOCABULARY])
    density = [name for name in _DENSITY_COLUMNS if rows and name in rows[0]]
    if rows and not density:
        raise ImporterError(
            f"The table {path.name} lacks the column {_DENSITY_COLUMNS[0]}, also "
            f"spelled {_DENSITY_COLUMNS[1]}. Restore the table as it was published."
        )
    words = _VOCABULARY | dict.fromkeys(density[:1], _DENSITIES)
    columns = [translate(rows, path.name, name, words[name]) for name in words]
    return [
        Lesion(path.name, row["patient_id"], *values)
        for row, *values in zip(rows, *columns, strict=True)
    ]


def _group(
    lesions: Iterable[Lesion], key: Callable[[Lesion], _Key]
) -> dict[_Key, list[Lesion]]:
    groups: dict[_Key, list[Lesion]] = {}
    for lesion in lesions:
        groups.setdefault(key(lesion), []).append(lesion)
    return groups


def _mixed(groups: Mapping[_Key, list[Lesion]]) -> set[_Key]:
    return {
        key
        for key, lesions in groups.items()
        if len({lesion.pathology_class == "malignant" for lesion in lesions}) > 1
    }
