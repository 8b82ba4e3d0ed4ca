"""Which frames of which files make a picture, and what becomes of the files."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from client.data.slots import Slot, evenly_spaced, plan_slots, verdicts
from common.plan import Preprocessing

SLAB = Preprocessing(modalities=("FFDM", "DBT"))
SLICES = Preprocessing(modalities=("FFDM", "DBT"), tomosynthesis="slices", slices=3)


def _rows(*facts: tuple[str, int, str | None, int | None]) -> pd.DataFrame:
    columns = ["modality_kind", "frames", "volume_key", "slice_order"]
    kinds = {"frames": "Int64", "slice_order": "Int64"}
    return pd.DataFrame(facts, columns=columns).astype(kinds)


FILES = _rows(
    ("DBT", 1, "b", 1),
    ("FFDM", 1, None, None),
    ("DBT", 10, "a", None),
    ("DBT", 1, "b", 2),
    ("DBT", 1, "b", 0),
    ("DBT", 1, "b", 3),
)


@pytest.mark.parametrize(
    ("count", "wanted", "chosen"),
    [
        (10, 1, [5]),
        (10, 3, [1, 5, 8]),
        (12, 4, [1, 4, 7, 10]),
        (8, 8, [0, 1, 2, 3, 4, 5, 6, 7]),
        (3, 8, [0, 1, 2]),
        (1, 8, [0]),
    ],
)
def test_slices_are_the_middles_of_equal_parts(
    count: int, wanted: int, chosen: list[int]
) -> None:
    assert evenly_spaced(count, wanted) == chosen


def test_a_slab_is_one_picture_of_all_frames_or_files() -> None:
    assert plan_slots(FILES, SLAB) == [
        Slot((1,)),
        Slot((2,), (0, 10)),
        Slot((4, 0, 3, 5), (0, 1)),
    ]


def test_slices_are_pictures_of_their_own() -> None:
    assert plan_slots(FILES, SLICES) == [
        Slot((1,)),
        Slot((2,), (1, 2)),
        Slot((2,), (5, 6)),
        Slot((2,), (8, 9)),
        Slot((3,), (0, 1)),
        Slot((4,), (0, 1)),
        Slot((5,), (0, 1)),
    ]


FINE: dict[str, Any] = {"remarks": ["W_RANGE"]}
BROKEN: dict[str, Any] = {"code": "Q_CODESTREAM", "stage": "decode"}
OTHER: dict[str, Any] = {"code": "Q_TIMEOUT", "stage": "decode"}


@pytest.mark.parametrize(
    ("entries", "verdict"),
    [
        ([FINE, {"remarks": ["W_VOI"]}], {"remarks": ["W_RANGE", "W_VOI"]}),
        ([FINE, BROKEN], {"remarks": ["W_RANGE", "W_SLICES"]}),
        ([BROKEN, OTHER, FINE], {"remarks": ["W_RANGE", "W_SLICES"]}),
        ([BROKEN, OTHER], BROKEN),
    ],
)
def test_a_file_is_used_if_one_of_its_pictures_stands(
    entries: list[dict[str, Any]], verdict: dict[str, Any]
) -> None:
    slots = [Slot((4,), (number, number + 1)) for number in range(len(entries))]
    assert verdicts(slots, entries) == {4: verdict}


def test_a_slab_stands_or_falls_with_all_its_files() -> None:
    slots = [Slot((0, 2), (0, 1)), Slot((1,))]
    assert verdicts(slots, [BROKEN, FINE]) == {0: BROKEN, 2: BROKEN, 1: FINE}
