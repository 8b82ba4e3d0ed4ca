"""What each slot of a cache is made of: one picture, of one or more frames or files.

An ordinary image is one file. A tomosynthesis volume, which is one file of several
frames or several files of one slice each, gives a slab (the maximum over its slices) or
evenly spaced slices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from common.plan import Preprocessing


@dataclass(frozen=True)
class Slot:
    """One picture of a cache.

    Attributes
    ----------
    files : positions in a list of files, in the order of slices
    frames : of each file the first and one past the last, see
        `client.data.dicom.read_picture`; None for a file that is one image
    """

    files: tuple[int, ...]
    frames: tuple[int, int] | None = None

    @property
    def frame(self) -> int:
        """First frame that is used, from 0."""
        return 0 if self.frames is None else self.frames[0]


def plan_slots(rows: pd.DataFrame, preprocessing: Preprocessing) -> list[Slot]:
    """Cut files into pictures.

    Parameters
    ----------
    rows : manifest rows of the files, in their order
    preprocessing : of the plan; says how tomosynthesis is read

    Returns
    -------
    ordered by the position of the first file, then by frame
    """
    slots: list[Slot] = []
    volumes: dict[str, list[tuple[int, int]]] = {}
    columns = ("modality_kind", "frames", "volume_key", "slice_order")
    facts = zip(*(rows[name] for name in columns), strict=True)
    for position, (kind, frames, volume, order) in enumerate(facts):
        if kind != "DBT":
            slots.append(Slot((position,)))
        elif not pd.isna(order):
            volumes.setdefault(volume, []).append((int(order), position))
        elif preprocessing.tomosynthesis == "slab":
            slots.append(Slot((position,), (0, int(frames))))
        else:
            chosen = evenly_spaced(int(frames), preprocessing.slices)
            slots += [Slot((position,), (frame, frame + 1)) for frame in chosen]
    for members in volumes.values():
        files = tuple(position for _, position in sorted(members))
        if preprocessing.tomosynthesis == "slab":
            slots.append(Slot(files, (0, 1)))
        else:
            chosen = evenly_spaced(len(files), preprocessing.slices)
            slots += [Slot((files[at],), (0, 1)) for at in chosen]
    return sorted(slots, key=lambda slot: (slot.files[0], slot.frame))


def evenly_spaced(count: int, wanted: int) -> list[int]:
    """Choose the middles of equal parts; all if there are no more than wanted."""
    parts = min(count, wanted)
    return [(2 * part + 1) * count // (2 * parts) for part in range(parts)]


def verdicts(
    slots: Sequence[Slot], entries: Sequence[dict[str, Any]]
) -> dict[int, dict[str, Any]]:
    """Tell what became of each file, from what became of its pictures.

    A file is used if one of its pictures stands; the others then remark ``W_SLICES``.
    Else it has the code of its first picture. A slab stands or falls with all its
    slices.

    Parameters
    ----------
    entries : of each slot its ``remarks``, or ``code``, ``stage``, ``exception_type``

    Returns
    -------
    position of a file -> such an entry; files that no slot uses are left out
    """
    found: dict[int, dict[str, Any]] = {}
    for slot, entry in zip(slots, entries, strict=True):
        for file in slot.files:
            known = found.setdefault(file, entry)
            if known is not entry:
                found[file] = _merged(known, entry)
    return found


def _merged(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    standing = [entry for entry in (one, other) if "code" not in entry]
    if not standing:
        return one
    remarks = {remark for entry in standing for remark in entry["remarks"]}
    if len(standing) == 1:
        remarks.add("W_SLICES")
    return {"remarks": sorted(remarks)}
