"""Which round is the result."""

from __future__ import annotations

from common.plan import Evaluation
from server.selection import mean_over_sites, select_round

PROTOCOL = Evaluation(trailing=3)


def history(*values: float | None) -> dict[int, dict[str, dict[str, float | None]]]:
    return {
        round_: {"a": {"roc_auc": value}, "b": {"roc_auc": value}}
        for round_, value in enumerate(values, start=1)
    }


def test_the_best_trailing_mean_wins_not_the_best_single_round() -> None:
    values = history(0.5, 0.85, 0.5, 0.7, 0.7, 0.7, 0.6)
    assert select_round(values, PROTOCOL, range(1, 8)) == 6


def test_a_tie_goes_to_the_later_round() -> None:
    assert select_round(history(0.7, 0.7, 0.7, 0.7, 0.7), PROTOCOL, range(1, 6)) == 5


def test_only_rounds_of_the_last_stage_are_candidates() -> None:
    values = history(0.9, 0.9, 0.9, 0.6, 0.6, 0.6)
    assert select_round(values, PROTOCOL, range(4, 7)) == 6


def test_a_short_stage_averages_what_it_has() -> None:
    assert select_round(history(0.9, 0.6, 0.7), PROTOCOL, range(2, 4)) == 3
    assert select_round(history(0.9), PROTOCOL, range(1, 2)) == 1


def test_nothing_is_selected_before_a_full_trailing_mean() -> None:
    assert select_round(history(0.9, 0.9), PROTOCOL, range(1, 9)) is None


def test_a_round_with_an_undefined_site_cannot_win() -> None:
    values = history(0.6, 0.6, 0.6, 0.9, 0.9)
    values[5]["a"]["roc_auc"] = None
    assert select_round(values, PROTOCOL, range(1, 6)) == 4
    assert select_round(history(None, None, None), PROTOCOL, range(1, 4)) is None


def test_the_mean_is_over_sites() -> None:
    values = {1: {"a": {"roc_auc": 0.6}, "b": {"roc_auc": 0.8}}}
    assert mean_over_sites(values, 1, "roc_auc") == 0.7
