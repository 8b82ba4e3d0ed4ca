"""Which round of a run is the result."""

from __future__ import annotations

import math

import pytest

from common.plan import Plan
from server.selection import mean_over_sites, select_round, trailing_mean
from tests.support.hospitals import small_plan, small_stage

SITES = ("a", "b")
History = dict[int, dict[str, dict[str, float | None]]]


def history(*values: float | None) -> History:
    return {
        round_: {site: {"roc_auc": value} for site in SITES}
        for round_, value in enumerate(values, start=1)
    }


def plan(*rounds: int) -> Plan:
    stages = [small_stage(f"stage{i}", n) for i, n in enumerate(rounds)]
    return small_plan(*stages, sites=SITES)


def test_the_best_trailing_mean_wins_not_the_best_single_round() -> None:
    values = history(0.5, 0.85, 0.5, 0.7, 0.7, 0.7, 0.6)
    assert select_round(values, plan(7)) == 6


def test_a_tie_goes_to_the_later_round() -> None:
    assert select_round(history(0.7, 0.7, 0.7, 0.7, 0.7), plan(5)) == 5


def test_only_rounds_of_the_last_stage_are_candidates() -> None:
    assert select_round(history(0.9, 0.9, 0.9, 0.6, 0.6, 0.6), plan(3, 3)) == 6


def test_a_short_stage_averages_what_it_has() -> None:
    assert select_round(history(0.9, 0.6, 0.7), plan(1, 2)) == 3
    assert select_round(history(0.9), plan(1)) == 1
    assert trailing_mean(history(0.9, 0.6, 0.7), plan(2, 1), 3) == pytest.approx(0.7)


def test_nothing_is_selected_before_a_full_trailing_mean() -> None:
    assert select_round(history(0.9, 0.9), plan(9)) is None


def test_a_round_with_an_undefined_site_cannot_win() -> None:
    values = history(0.6, 0.6, 0.6, 0.9, 0.9)
    values[5]["a"]["roc_auc"] = None
    assert select_round(values, plan(5)) == 4
    assert select_round(history(None, None, None), plan(3)) is None


def test_a_round_that_a_site_missed_cannot_win_on_the_others_alone() -> None:
    values = history(0.6, 0.6, 0.6, 0.6, 0.9)
    del values[5]["b"]
    assert select_round(values, plan(5)) == 4


def test_the_mean_is_over_all_sites_or_undefined() -> None:
    values: History = {1: {"a": {"roc_auc": 0.6}, "b": {"roc_auc": 0.8}}}
    assert mean_over_sites(values, 1, "roc_auc", SITES) == pytest.approx(0.7)
    assert math.isnan(mean_over_sites(values, 1, "roc_auc", ("a", "b", "c")))
