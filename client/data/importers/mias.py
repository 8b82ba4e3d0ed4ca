"""Importer ``mias``: mini-MIAS, digitised film as 8-bit PGM of 1024 x 1024 pixels.

Layout; it may lie in any folder:

    Info.txt
    mdb001.pgm ... mdb322.pgm

``Info.txt`` is the truth. After its explanations come lines such as

    mdb005 F CIRC B 477 133 30

with the background tissue (F, G, D), the class of abnormality and its severity (B, M);
an image may have several. Its label is malignant if any line is, where truth comes
from is not stated. The tissue is not the ACR density, so ``density`` stays unknown.
All views are MLO; even numbers are left, odd ones right, and a pair is a patient. The
circles are not used (their y counts from the bottom). 8 bits are what the archive has,
so there is no option to allow them.
Licence: research agreement. Options, usually from a YAML file:

    dataset: mias
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic.dataclasses import dataclass

from client.data.codes import Rejected
from client.data.importers.archive import finish
from client.data.importers.files import (
    Found,
    Imported,
    ImporterError,
    Source,
    beside,
    load,
)
from client.data.importers.published import find_table
from client.data.importers.tables import STRICT, read_options
from client.data.raster import read_container
from common.plan import Slug

TABLE = "Info.txt"

_NAME = re.compile(r"mdb(\d{3})")
_LINE = re.compile(
    r"(?P<image>mdb\d{3}) [FGD] "
    r"((?P<normal>NORM)|(CALC|CIRC|SPIC|MISC|ARCH|ASYM)( (?P<severity>[BM])( .*)?)?)"
)
_MILD_TO_WORST = ("normal", "benign", "", "malignant")  # "": severity is not given


@dataclass(frozen=True, config=STRICT)
class MiasOptions:
    """Options of the importer: only the name of the data set."""

    dataset: Slug = "mias"


def import_archive(source: Source, site: str, options: Mapping[str, Any]) -> Imported:
    """Import the images; every other file becomes a row that says so.

    Raises
    ------
    ImporterError
        If the table is absent, or is not as it was published.
    """
    settings: MiasOptions = read_options(MiasOptions, options, "mias")
    copies = find_table(source.root, TABLE)
    lines = _read(copies[0])
    files = [_scan_one(source.root, path) for path in source.files(copies)]
    named: set[str] = set()
    files_unmatched = 0
    for file in files:
        image = file.path.stem.lower() if file.patient else ""
        named.add(image)
        file.facts |= _truth(lines.get(image, []))
        files_unmatched += file.verdict is None and image not in lines
    notes = {
        "table_rows_unmatched": sum(
            len(classes) for image, classes in lines.items() if image not in named
        ),
        "files_unmatched": files_unmatched,
    }
    return finish(files, site, settings.dataset, source, notes=notes)


def _read(path: Path) -> dict[str, list[str]]:
    """Return image -> class of each of its lines."""
    classes: dict[str, list[str]] = {}
    unreadable = []
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    for number, line in enumerate(text.splitlines(), start=1):
        if not re.match(r"\s*mdb\d{3}\s", line):
            continue
        found = _LINE.fullmatch(" ".join(line.split()))
        if found is None:
            unreadable.append(number)
            continue
        severity = {"B": "benign", "M": "malignant"}.get(found["severity"], "")
        one = "normal" if found["normal"] else severity
        classes.setdefault(found["image"], []).append(one)
    if unreadable or not classes:
        raise ImporterError(
            f"The table {path.name} has {len(classes)} images, and {len(unreadable)} "
            f"lines about images that cannot be read, first {unreadable[:5]}. Restore "
            "the table as it was published."
        )
    return classes


def _scan_one(root: Path, path: Path) -> Found:
    if path.suffix.lower() != ".pgm":
        return beside(path)
    found, content = load(root, path)
    found.reader = "raster"
    found.facts = {
        "modality_kind": "SFM",
        "intent": "unknown",
        "photometric": "MONOCHROME2",
        "voi_applied": "range",
        "view": "MLO",
    }
    if name := _NAME.fullmatch(path.stem.lower()):
        number = int(name[1])
        found.facts["laterality"] = "R" if number % 2 else "L"
        found.patient = found.exam = f"pair {(number + 1) // 2}"
    if found.verdict is None:
        try:
            container = read_container(content)
            if container.colour:
                raise Rejected("X_COLOUR", "classify")
            found.facts["bits_stored"] = container.bits
        except Rejected as verdict:
            found.verdict = verdict
    return found


def _truth(classes: list[str]) -> dict[str, Any]:
    worst = max(classes, key=_MILD_TO_WORST.index, default="")
    if not worst:
        return {}
    return {
        "cancer_pathology": int(worst == "malignant"),
        "pathology_class": worst,
        "label_level": "image",
        "label_source": "dataset",
    }
