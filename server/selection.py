"""Which round of a run is the result: one rule for every arm."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from common.plan import Plan

History = Mapping[int, Mapping[str, Mapping[str, float | None]]]
"""Round to site to validation metrics; None where a metric is undefined or withheld."""


def mean_over_sites(
    history: History, round_: int, metric: str, sites: Sequence[str]
) -> float:
    """Average a validation metric over all sites of a round; nan if any lacks it.

    A mean over the sites that happened to answer would be another quantity.
    """
    values = [history.get(round_, {}).get(site, {}).get(metric) for site in sites]
    known = [value for value in values if value is not None]
    return sum(known) / len(values) if len(known) == len(values) else math.nan


def trailing_mean(history: History, plan: Plan, round_: int) -> float:
    """Average the selection metric over a round and those before it in its stage.

    Returns
    -------
    nan if the round is not of the last stage, has no full trailing mean (a stage
    shorter than that averages what it has), or any evaluation in it is missing.
    """
    protocol = plan.evaluation
    first = plan.first_round(len(plan.stages) - 1)
    length = min(protocol.trailing, plan.rounds - first + 1)
    if round_ < first + length - 1:
        return math.nan
    values = [
        mean_over_sites(history, past, protocol.selection, plan.roster.sites)
        for past in range(round_ - length + 1, round_ + 1)
    ]
    return sum(values) / length


def select_round(history: History, plan: Plan) -> int | None:
    """Select the round with the best trailing mean; ties go to the later one.

    Returns
    -------
    The round, or None while no round has a trailing mean.
    """
    best, selected = -math.inf, None
    for round_ in range(1, plan.rounds + 1):
        mean = trailing_mean(history, plan, round_)
        if not math.isnan(mean) and mean >= best:
            best, selected = mean, round_
    return selected
