"""The average and its weights, against numpy."""

from __future__ import annotations

import numpy as np
import pytest

from server.aggregation import average, cap_shares, weight_shares


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


def bounded_by_bisection(counts: list[int], maximum: float) -> list[float]:
    """The formula min(maximum, factor * count), its factor found by halving."""
    low, high = 0.0, 1.0 / min(counts)
    for _ in range(200):
        middle = (low + high) / 2
        if sum(min(maximum, middle * count) for count in counts) < 1.0:
            low = middle
        else:
            high = middle
    return [min(maximum, high * count) for count in counts]


def test_bounded_shares_are_those_of_the_formula() -> None:
    assert cap_shares([0.7, 0.2, 0.1], 0.5) == pytest.approx([0.5, 1 / 3, 1 / 6])
    # The second is above the bound only because of what it gets from the first.
    assert cap_shares([0.6, 0.3, 0.1], 0.4) == pytest.approx([0.4, 0.4, 0.2])
    random = np.random.default_rng(2)
    moved = 0
    for _ in range(500):
        counts = [int(n) for n in random.integers(1, 3000, random.integers(1, 12))]
        maximum = float(random.uniform(1 / len(counts), min(1.0, 2 / len(counts))))
        shares = weight_shares(counts)
        result = cap_shares(shares, maximum)
        assert result == pytest.approx(bounded_by_bisection(counts, maximum), abs=1e-12)
        assert sum(result) == pytest.approx(1.0, abs=1e-12)
        assert len(counts) == 1 or max(result) <= maximum
        order = np.argsort(counts, kind="stable")
        assert (np.diff(np.array(result)[order]) >= 0).all()
        moved += result != shares
    assert moved > 100


def test_bounded_shares_are_the_closest_ones_that_the_bound_permits() -> None:
    """Least relative entropy to the old shares, against random ones that fit."""
    random = np.random.default_rng(3)
    shares, maximum = np.array([0.55, 0.25, 0.15, 0.05]), 0.35
    ours = np.array(cap_shares(list(shares), maximum))
    others = random.dirichlet(np.ones(4), 20_000)
    others = others[(others <= maximum).all(axis=1)]
    assert len(others) > 1000
    distances = (others * np.log(others / shares)).sum(axis=1)
    assert (ours * np.log(ours / shares)).sum() <= distances.min()


@pytest.mark.parametrize("maximum", [0.2, 0.25, np.nextafter(0.25, 1)])
def test_a_bound_that_cannot_hold_makes_shares_equal(maximum: float) -> None:
    assert cap_shares([0.7, 0.1, 0.1, 0.1], maximum) == [0.25] * 4


def test_shares_below_the_bound_stay_as_they_are() -> None:
    assert cap_shares([0.5, 0.3, 0.2], 0.5) == [0.5, 0.3, 0.2]
    assert cap_shares([1.0], 1.0) == [1.0]
