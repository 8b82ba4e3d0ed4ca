"""Which round of a run is the result: one rule for every arm."""

from __future__ import annotations

import math
from collections.abc import Mapping

from common.plan import Evaluation

History = Mapping[int, Mapping[str, Mapping[str, float | None]]]
"""Round to site to validation metrics; None where a metric is undefined or withheld."""


def mean_over_sites(history: History, round_: int, metric: str) -> float:
    """Average a validation metric over the sites of a round; nan if any lacks it."""
    sites = history.get(round_, {})
    values = [site.get(metric) for site in sites.values()]
    if not values or any(value is None for value in values):
        return math.nan
    return sum(value for value in values if value is not None) / len(values)


def select_round(
    history: History, protocol: Evaluation, candidates: range
) -> int | None:
    """Select the round with the best trailing mean; ties go to the later one.

    Parameters
    ----------
    history : validation metrics of evaluated rounds
    protocol : metric and length of the trailing mean
    candidates : rounds of the last stage, evaluated yet or not; a stage shorter than
        the trailing mean averages what it has

    Returns
    -------
    The round, or None while no candidate has a full trailing mean.
    """
    length = min(protocol.trailing, len(candidates))
    best, selected = -math.inf, None
    for round_ in candidates[length - 1 :]:
        window = range(round_ - length + 1, round_ + 1)
        values = [mean_over_sites(history, r, protocol.selection) for r in window]
        mean = sum(values) / length
        if not math.isnan(mean) and mean >= best:
            best, selected = mean, round_
    return selected
