"""Banded counts and withheld metrics."""

from __future__ import annotations

import math

import pytest

from client.policy import SitePolicy


@pytest.mark.parametrize(
    ("count", "released"),
    [(0, 1), (7, 1), (10, 10), (49, 20), (110, 100), (10**6, 10**5)],
)
def test_a_banded_count_is_the_step_below(count: int, released: int) -> None:
    assert SitePolicy(counts="banded").release_count(count) == released


def test_exact_counts_and_metrics_pass_as_they_are() -> None:
    assert SitePolicy().release_count(37) == 37
    assert SitePolicy().release_metric(0.8) == 0.8


def test_a_withheld_metric_is_nan() -> None:
    assert math.isnan(SitePolicy(release_metrics=False).release_metric(0.8))
