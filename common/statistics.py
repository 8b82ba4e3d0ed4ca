"""Intervals that respect what was sampled: patients, within site and outcome.

The bootstrap draws patients, never images or breasts, and takes all units of a patient
along. It draws within one site and, there, separately among patients with and without a
positive unit. A resample is a row of multiplicities, one per patient, so that one draw
serves every metric, and two arms over the same patients are compared on the same
resamples (Efron and Tibshirani 1993, chapters 8 and 13).

An interval is a percentile interval over the resamples in which the metric is defined.
Few patients of a class give none: the value stays, ``low`` and ``high`` are null, and
``reason`` says why.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from common.metrics import METRICS, all_metrics
from common.units import Floats, Units

_LEVEL = 0.95
_TOLERATED_UNDEFINED = 0.05
_CHUNK = 2_000_000
_NEEDS = {
    "roc_auc": "one class only",
    "average_precision": "one class only",
    "sensitivity": "no positive unit, or no threshold",
    "specificity": "no negative unit, or no threshold",
    "accuracy": "no threshold",
    "f1": "no positive unit, or no threshold",
}


class Estimate(TypedDict):
    """A metric as report.json writes it; ``reason`` tells why a number is null."""

    value: float | None
    low: float | None
    high: float | None
    reason: str | None


class Difference(TypedDict):
    """Arm a minus arm b, as report.json writes it."""

    difference: float | None
    low: float | None
    high: float | None
    reason: str | None


class Spread(TypedDict):
    """Mean and sample standard deviation over ``n`` seeds."""

    mean: float | None
    sd: float | None
    n: int


@dataclass(frozen=True)
class Bootstrap:
    """Metrics of one site, or of the mean over sites, with their resamples.

    Attributes
    ----------
    cases : identity of units, truth and resamples; two arms pair only if it is equal
    point : metric to value; NaN if undefined
    replicates : metric to float64, shape (replicate,); NaN where undefined
    undefined : metric to the reason, for those whose point is NaN
    refusal : why there is no interval; empty if there is one
    """

    cases: str
    point: dict[str, float]
    replicates: dict[str, Floats]
    undefined: dict[str, str]
    refusal: str


def resample(
    patient_outcome: NDArray[np.bool_], replicates: int, seed: int
) -> NDArray[np.int16]:
    """Draw patients with replacement, positives and negatives separately.

    Parameters
    ----------
    patient_outcome : bool, shape (patient,); of one site
    replicates : number of resamples
    seed : fixed per site and the same for all arms, for example
        ``derive_seed(plan.seed, "bootstrap", site)``

    Returns
    -------
    int16, shape (replicate, patient): how often each patient was drawn. Each row sums
    to the number of positives over the positives, and likewise for the negatives.
    """
    generator = np.random.default_rng(seed)
    weights = np.zeros((replicates, len(patient_outcome)), dtype=np.int16)
    for outcome in (True, False):
        members = np.flatnonzero(patient_outcome == outcome)
        size = len(members)
        for start in range(0, replicates, rows := max(1, _CHUNK // max(1, size))):
            stop = min(start + rows, replicates)
            drawn = generator.integers(0, max(1, size), size=(stop - start, size))
            drawn += size * np.arange(stop - start)[:, None]
            counts = np.bincount(drawn.ravel(), minlength=drawn.size)
            weights[start:stop, members] = counts.reshape(drawn.shape)
    return weights


def bootstrap(
    units: Units, weights: NDArray[np.int16], minimum_class: int = 10
) -> Bootstrap:
    """Compute all metrics once, and once per resample.

    Parameters
    ----------
    weights : from `resample` over ``units.patient_outcome``; reuse it for every arm
    minimum_class : fewer positive or negative patients give no interval

    Raises
    ------
    ValueError
        If ``weights`` has another number of patients.
    """
    patients = len(units.patient_keys)
    if weights.ndim != 2 or weights.shape[1] != patients:
        raise ValueError(
            f"Resamples have shape {weights.shape}, but the site has {patients} "
            "patients. Draw them with resample(units.patient_outcome, ...)."
        )
    point = {name: float(value) for name, value in all_metrics(units).items()}
    rows = max(1, _CHUNK // max(1, len(units.patient)))
    chunks = [
        all_metrics(units, _unit_weights(weights[start : start + rows], units))
        for start in range(0, len(weights), rows)
    ]
    return Bootstrap(
        cases=_identify(units, weights),
        point=point,
        replicates={
            name: np.concatenate([chunk[name] for chunk in chunks]) for name in METRICS
        },
        undefined={
            name: _NEEDS.get(name, "no units")
            for name in METRICS
            if np.isnan(point[name])
        },
        refusal=_refuse(units.patient_outcome, minimum_class),
    )


def _unit_weights(weights: NDArray[np.int16], units: Units) -> Floats:
    return np.take(weights.astype(np.float64), units.patient, axis=1)


def _identify(units: Units, weights: NDArray[np.int16]) -> str:
    digest = hashlib.sha256("\n".join(units.patient_keys).encode())
    for array in (units.patient, units.target, weights):
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _refuse(patient_outcome: NDArray[np.bool_], minimum: int) -> str:
    positives = int(patient_outcome.sum())
    negatives = len(patient_outcome) - positives
    if min(positives, negatives) >= minimum:
        return ""
    return (
        f"{positives} positive and {negatives} negative patients; "
        f"an interval needs {minimum} of each"
    )


def mean_over_sites(sites: Mapping[str, Bootstrap]) -> Bootstrap:
    """Average sites, each with the same weight, resample by resample.

    The mean is over all sites or it is undefined: a mean over the sites that happen to
    have both classes would be another quantity. In the same way it has an interval only
    if every site has one.

    Parameters
    ----------
    sites : site name to its bootstrap under one arm; all with as many resamples

    Raises
    ------
    ValueError
        If there is no site, or the numbers of resamples differ.
    """
    lengths = {len(site.replicates["roc_auc"]) for site in sites.values()}
    if len(lengths) != 1:
        raise ValueError(f"Sites need equally many resamples, got {sorted(lengths)}.")
    parts = list(sites.values())
    undefined = {}
    for name in METRICS:
        without = [site for site, part in sites.items() if name in part.undefined]
        if without:
            reasons = [f"{site} ({sites[site].undefined[name]})" for site in without]
            undefined[name] = "undefined at " + ", ".join(reasons)
    refused = [
        f"{site} ({part.refusal})" for site, part in sites.items() if part.refusal
    ]
    return Bootstrap(
        cases=hashlib.sha256(
            "".join(part.cases for part in parts).encode()
        ).hexdigest(),
        point={
            name: float(np.mean([part.point[name] for part in parts]))
            for name in METRICS
        },
        replicates={
            name: np.mean([part.replicates[name] for part in parts], axis=0)
            for name in METRICS
        },
        undefined=undefined,
        refusal="no interval at " + ", ".join(refused) if refused else "",
    )


def intervals(result: Bootstrap) -> dict[str, Estimate]:
    """Give each metric with its 95 % interval, as report.json writes it."""
    estimates: dict[str, Estimate] = {}
    for name in METRICS:
        missing = result.undefined.get(name, "")
        low, high, reason = _interval(result.replicates[name], missing, result.refusal)
        value = None if missing else result.point[name]
        estimates[name] = {"value": value, "low": low, "high": high, "reason": reason}
    return estimates


def paired(a: Bootstrap, b: Bootstrap) -> dict[str, Difference]:
    """Compare two arms on the same patients and the same resamples.

    Parameters
    ----------
    a, b : both of one site, or both means over the same sites in the same order

    Returns
    -------
    For each metric, a minus b with its 95 % interval

    Raises
    ------
    ValueError
        If the arms were not scored on the same units or not on the same resamples.
    """
    if a.cases != b.cases:
        raise ValueError(
            "The two arms are not paired: patients, truth or resamples differ. Score "
            "both on the same test part and reuse the weights of resample()."
        )
    differences: dict[str, Difference] = {}
    for name in METRICS:
        missing = a.undefined.get(name, "") or b.undefined.get(name, "")
        change = a.replicates[name] - b.replicates[name]
        low, high, reason = _interval(change, missing, a.refusal or b.refusal)
        differences[name] = {
            "difference": None if missing else a.point[name] - b.point[name],
            "low": low,
            "high": high,
            "reason": reason,
        }
    return differences


def _interval(
    replicates: Floats, missing: str, refusal: str
) -> tuple[float | None, float | None, str | None]:
    """Take percentiles of the defined resamples; returns low, high, reason."""
    if missing or refusal:
        return None, None, missing or refusal
    undefined = int(np.isnan(replicates).sum())
    note = f"undefined in {undefined} of {len(replicates)} resamples"
    if undefined > _TOLERATED_UNDEFINED * len(replicates) or not len(replicates):
        return None, None, note
    tails = [50 * (1 - _LEVEL), 50 * (1 + _LEVEL)]
    low, high = np.nanpercentile(replicates, tails)
    return float(low), float(high), note if undefined else None


def seed_variance(runs: Sequence[Mapping[str, Mapping[str, Any]]]) -> dict[str, Spread]:
    """Describe how much training again with another seed moves each metric.

    This is variance of the training, beside and not inside the interval over patients.

    Parameters
    ----------
    runs : one mapping of metric to `Estimate` per seed; null values are left out

    Returns
    -------
    Metric to mean, standard deviation (n - 1; null below two) and number of seeds
    """
    spreads: dict[str, Spread] = {}
    for name in METRICS:
        values = [run[name]["value"] for run in runs if run[name]["value"] is not None]
        spreads[name] = {
            "mean": float(np.mean(values)) if values else None,
            "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None,
            "n": len(values),
        }
    return spreads
