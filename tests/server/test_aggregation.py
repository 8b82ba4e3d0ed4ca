"""The average and its weights, against numpy."""

from __future__ import annotations

import numpy as np
import pytest

from server.aggregation import average, weight_shares


def test_the_average_is_the_weighted_mean_in_double_precision() -> None:
    random = np.random.default_rng(0)
    updates = [{"w": random.normal(size=(5, 3)).astype(np.float32)} for _ in range(4)]
    shares = weight_shares([10, 20, 30, 40])
    stacked = np.stack([u["w"].astype(np.float64) for u in updates])
    expected = np.average(stacked, axis=0, weights=[10, 20, 30, 40])
    result = average(updates, shares)["w"]
    assert result.dtype == np.float32
    assert np.allclose(result, expected, rtol=1e-7)


def test_one_site_averages_to_itself_bit_for_bit() -> None:
    update = {"w": np.random.default_rng(1).normal(size=1000).astype(np.float32)}
    assert np.array_equal(average([update], weight_shares([7]))["w"], update["w"])


def test_small_updates_beside_large_ones_are_not_lost_to_rounding() -> None:
    """In float32 the sum 1e8 + 1 - 1e8 is 0; in float64 it is 1."""
    values = [1e8, 1.0, -1e8]
    updates = [{"w": np.array([value], np.float32)} for value in values]
    assert average(updates, [1 / 3] * 3)["w"][0] == pytest.approx(1 / 3, rel=1e-6)


def test_shares_follow_counts_and_sum_to_one() -> None:
    assert weight_shares([1, 3]) == [0.25, 0.75]
    assert sum(weight_shares([7, 11, 13])) == pytest.approx(1.0)
    assert weight_shares([]) == []
