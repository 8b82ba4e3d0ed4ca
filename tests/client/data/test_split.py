"""The split depends on patient key and plan only."""

from __future__ import annotations

import pandas as pd
import pytest

from client.data.split import assign_split
from common.plan import Split


def _keys(count: int) -> pd.Series:
    return pd.Series([f"patient{number}" for number in range(count)])


def test_rows_of_a_patient_stay_together_and_shares_are_met() -> None:
    keys = pd.concat([_keys(4000), _keys(4000)], ignore_index=True)
    parts = assign_split(keys, Split())
    assert parts.groupby(keys).nunique().max() == 1
    shares = parts.value_counts(normalize=True)
    assert shares["train"] == pytest.approx(0.55, abs=0.03)
    assert shares["validation"] == pytest.approx(0.15, abs=0.03)


def test_another_patient_moves_no_other() -> None:
    few, many = assign_split(_keys(50), Split()), assign_split(_keys(80), Split())
    assert list(few) == list(many[:50])


def test_seed_changes_the_split() -> None:
    assert list(assign_split(_keys(50), Split())) != list(
        assign_split(_keys(50), Split(seed=1))
    )


def test_official_split_is_followed_and_a_patient_in_both_trains() -> None:
    keys = pd.Series(["both", "both", "test", *[f"p{number}" for number in range(200)]])
    official = pd.Series(["test", "train", "test", *["train"] * 200])
    parts = assign_split(keys, Split(official=True), official)
    assert parts[2] == "test" and parts[0] == parts[1] != "test"
    assert set(parts[3:]) == {"train", "validation"}


def test_unknown_patient_is_refused() -> None:
    with pytest.raises(ValueError, match="1 rows have no patient key"):
        assign_split(pd.Series(["a", None]), Split())
    with pytest.raises(ValueError, match="split_official"):
        assign_split(_keys(2), Split(official=True))
