"""Which files make one tomosynthesis volume, and in which order its slices lie."""

from __future__ import annotations

import math

from client.data.dicom_header import Header
from client.data.importers.files import Found
from client.data.pseudonyms import Pseudonymiser

_UNNUMBERED = 2**31  # beyond what InstanceNumber may be (PS3.5 6.2, IS)


def place_of(header: Header) -> tuple[int, float]:
    """Tell where a slice lies: InstanceNumber, then z of ImagePositionPatient."""
    position = header.numbers["ImagePositionPatient"]
    known = len(position) == 3 and math.isfinite(position[2])
    number = header.integer("InstanceNumber", _UNNUMBERED)
    return number, position[2] if known else math.inf


def mark_volumes(files: list[Found], pseudonymiser: Pseudonymiser) -> None:
    """Give usable tomosynthesis its ``volume_key``, and ``slice_order`` where due.

    An object of several frames is a volume by itself. Single slices are one volume if
    patient, series, side and view are the same; where their numbers have gaps, all get
    ``W_SLICES``. A slice whose header cannot be read belongs to no volume: nothing but
    such a gap tells that it is missing.
    """
    volumes: dict[str, list[Found]] = {}
    for file in files:
        if file.verdict is not None or file.facts.get("modality_kind") != "DBT":
            continue
        whole = file.facts.get("frames") != 1
        series = "" if whole else file.series
        side, view = (file.facts.get(name) or "" for name in ("laterality", "view"))
        key = pseudonymiser.volume(
            file.patient, series or file.uid or file.sha256, side, view
        )
        file.facts["volume_key"] = key
        if not whole:
            volumes.setdefault(key, []).append(file)
    for slices in volumes.values():
        slices.sort(key=lambda file: (file.place, file.uid))
        for order, file in enumerate(slices):
            file.facts["slice_order"] = order
        first, last = slices[0].place[0], slices[-1].place[0]
        if last < _UNNUMBERED and last - first + 1 != len(slices):
            for file in slices:
                file.remarks.add("W_SLICES")
