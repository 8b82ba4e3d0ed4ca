"""Point metrics of a score against a binary target, with optional weights.

Every metric takes the same three things: ``target`` (0 or 1), a score or probability in
[0, 1], and optionally ``weight`` of shape (..., unit). A weight says how often a unit
counts; leading axes are resamples, so that one call evaluates many of them. What cannot
be computed (one class only, nothing to count) is NaN, never a number made up.

A unit is predicted positive if its score is **at or above** the threshold.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from common.units import Floats, Integers, Units

METRICS = (
    "roc_auc",
    "average_precision",
    "sensitivity",
    "specificity",
    "accuracy",
    "f1",
    "brier",
    "brier_corrected",
)
_CLIP = 1e-7
_SIDES: tuple[Literal["left", "right"], ...] = ("left", "right")


def roc_auc(target: Integers, score: Floats, weight: Floats | None = None) -> Floats:
    """Compute the area under the ROC curve; a tie between classes counts half.

    Returns
    -------
    float64, shape (...); NaN with one class only
    """
    return _roc_auc(_rank(target, score, weight))


def average_precision(
    target: Integers, score: Floats, weight: Floats | None = None
) -> Floats:
    """Compute average precision: the step sum of precision over gains in recall.

    Tied scores enter together. Compare it only where the prevalence is the same: chance
    is the prevalence. No interpolation (Davis and Goadrich 2006).

    Returns
    -------
    float64, shape (...); NaN with one class only
    """
    return _average_precision(_rank(target, score, weight))


@dataclass(frozen=True)
class _Ranks:
    """What each positive unit sees when it looks up the list of scores.

    Attributes
    ----------
    weight : float64, shape (..., positive unit)
    true : weight of the positive units that score as high or higher; same shape
    false, ties : weight of the negative units that score as high or higher, and of
        those that score the same; same shape
    negatives : weight of all negative units, shape (...)
    """

    weight: Floats
    true: Floats
    false: Floats
    ties: Floats
    negatives: Floats


def _rank(target: Integers, score: Floats, weight: Floats | None) -> _Ranks:
    weight = np.ones(len(target)) if weight is None else weight
    positive, negative = np.flatnonzero(target == 1), np.flatnonzero(target == 0)
    level = score[positive]
    true, _, _ = _reaching(score, weight, positive, level)
    false, ties, negatives = _reaching(score, weight, negative, level)
    own = np.take(weight, positive, axis=-1)
    return _Ranks(own, true, false, ties, negatives)


def _reaching(
    score: Floats, weight: Floats, members: Integers, level: Floats
) -> tuple[Floats, Floats, Floats]:
    """Weigh the members at or above each level, at it, and all of them."""
    ascending = members[np.argsort(score[members], kind="stable")]
    below = np.zeros((*weight.shape[:-1], len(members) + 1))
    np.cumsum(np.take(weight, ascending, axis=-1), axis=-1, out=below[..., 1:])
    left, right = (np.searchsorted(score[ascending], level, side) for side in _SIDES)
    lower, upper = np.take(below, left, axis=-1), np.take(below, right, axis=-1)
    return below[..., -1:] - lower, upper - lower, below[..., -1]


def _roc_auc(ranks: _Ranks) -> Floats:
    lost = (ranks.weight * (ranks.false - ranks.ties / 2)).sum(axis=-1)
    pairs = ranks.weight.sum(axis=-1) * ranks.negatives
    return _divide(pairs - lost, pairs)


def _average_precision(ranks: _Ranks) -> Floats:
    found = ranks.true + ranks.false
    precision = np.divide(ranks.true, found, out=np.zeros_like(found), where=found > 0)
    gained = (ranks.weight * precision).sum(axis=-1)
    return _divide(gained, np.where(ranks.negatives > 0, ranks.weight.sum(axis=-1), 0))


def _divide(above: Floats, below: Floats) -> Floats:
    """Divide; NaN where the denominator is 0."""
    result = np.full(np.shape(below), np.nan)
    np.divide(above, below, out=result, where=np.asarray(below) > 0)
    return result


def operating_point(
    target: Integers, score: Floats, threshold: float, weight: Floats | None = None
) -> dict[str, Floats]:
    """Compute sensitivity, specificity, accuracy and F1 at a threshold.

    Parameters
    ----------
    threshold : predicted positive at or above it; NaN makes everything NaN

    Returns
    -------
    Metric name to float64, shape (...). Sensitivity and F1 are NaN without a positive,
    specificity without a negative unit.
    """
    called = (score >= threshold).astype(np.float64)
    positive = target.astype(np.float64)
    columns = np.stack(
        [positive * called, positive, (1 - positive) * called, 1 - positive], axis=-1
    )
    sums = columns.sum(axis=0) if weight is None else weight @ columns
    true, positives, false, negatives = np.moveaxis(sums, -1, 0)
    f1 = _divide(2 * true, positives + true + false)
    values = {
        "sensitivity": _divide(true, positives),
        "specificity": _divide(negatives - false, negatives),
        "accuracy": _divide(true + negatives - false, positives + negatives),
        "f1": np.where(positives > 0, f1, np.nan),
    }
    if np.isnan(threshold):
        return {name: np.full_like(value, np.nan) for name, value in values.items()}
    return values


def brier(target: Integers, score: Floats, weight: Floats | None = None) -> Floats:
    """Compute the mean squared difference of probability and target (Brier 1950)."""
    error = (score - target) ** 2
    if weight is None:
        return np.asarray(error.mean() if len(error) else np.nan)
    return _divide(weight @ error, weight.sum(axis=-1))


def all_metrics(units: Units, weight: Floats | None = None) -> dict[str, Floats]:
    """Compute every metric of `METRICS`, in that order.

    Parameters
    ----------
    weight : float64, shape (..., unit); None counts every unit once

    Returns
    -------
    Metric name to float64, shape (...); NaN where undefined
    """
    target = units.target
    ranks = _rank(target, units.score, weight)
    return {
        "roc_auc": _roc_auc(ranks),
        "average_precision": _average_precision(ranks),
        **operating_point(target, units.score, units.threshold, weight),
        "brier": brier(target, units.score, weight),
        "brier_corrected": brier(target, units.corrected, weight),
    }


def threshold_at_specificity(
    target: Integers, score: Floats, specificity: float
) -> float:
    """Choose the lowest operating point that reaches a specificity.

    Call it with the validation part; the test part never chooses.

    Parameters
    ----------
    specificity : share of negatives that must fall below the threshold, in [0, 1]

    Returns
    -------
    A score, or NaN without a negative unit. All values between the last negative that
    must fall below and the next higher score decide alike; their middle is returned, so
    that rounding of a score does not change a decision. It exceeds 1 if that negative
    scores 1: then no unit is positive.
    """
    negatives = np.sort(score[target == 0])
    if not len(negatives):
        return float("nan")
    needed = int(np.ceil(specificity * len(negatives) - 1e-9))
    if needed == 0:
        return 0.0
    last = negatives[needed - 1]
    above = score[score > last]
    upper = above.min() if len(above) else 1.0
    return float(max((last + upper) / 2, np.nextafter(last, np.inf)))


def prior_corrected(score: Floats, train_odds: float, site_odds: float) -> Floats:
    """Move probabilities from the odds of training to the odds of the site.

    ``logit' = logit - log(train_odds) + log(site_odds)`` (Saerens et al. 2002).

    Parameters
    ----------
    score : float64, probabilities in [0, 1]; clipped to [1e-7, 1 - 1e-7]
    train_odds : positives / negatives that the loss saw; ``pos_weight`` multiplies them
    site_odds : positives / negatives expected at the site, counted in the same unit

    Raises
    ------
    ValueError
        If odds are not positive and finite.
    """
    for name, odds in (("train_odds", train_odds), ("site_odds", site_odds)):
        if not 0 < odds < np.inf:
            raise ValueError(
                f"{name} is {odds}, expected a positive number. A site without both "
                "classes has no odds: leave its scores uncorrected."
            )
    inside = np.clip(score, _CLIP, 1 - _CLIP)
    logit = np.log(inside) - np.log1p(-inside) - np.log(train_odds) + np.log(site_odds)
    return np.asarray(1 / (1 + np.exp(-logit)), dtype=np.float64)


def calibration_table(units: Units, bins: int = 10) -> list[dict[str, float | int]]:
    """Compare predicted with observed frequencies in bins of equal size.

    Equal counts rather than equal widths, because at low prevalence nearly all scores
    share one fixed bin. Equal scores stay together, so there may be fewer bins.

    Returns
    -------
    For each bin, in order of score: ``units``, ``positives``, ``observed`` (share of
    positives), ``predicted`` and ``predicted_corrected`` (mean probabilities)
    """
    if not len(units.score):
        return []
    edges = np.quantile(units.score, np.arange(1, bins) / bins, method="higher")
    member = np.searchsorted(np.unique(edges), units.score, side="right")
    table = []
    for index in np.unique(member):
        inside = member == index
        table.append(
            {
                "units": int(inside.sum()),
                "positives": int(units.target[inside].sum()),
                "observed": float(units.target[inside].mean()),
                "predicted": float(units.score[inside].mean()),
                "predicted_corrected": float(units.corrected[inside].mean()),
            }
        )
    return table
