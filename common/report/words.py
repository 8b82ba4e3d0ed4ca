"""Names, numbers and sentences of the page: a number, its interval, no praise."""

from __future__ import annotations

from common.report.reading import (
    MEAN,
    Plain,
    Report,
    estimate_of,
    main_unit,
    pairs_of,
    primary_pair,
    site_names,
)

METRIC_NAMES = {
    "roc_auc": "ROC-AUC",
    "average_precision": "Average precision",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "accuracy": "Accuracy",
    "f1": "F1",
    "brier": "Brier",
    "brier_corrected": "Brier, corrected",
}
LOWER_IS_BETTER = frozenset({"brier", "brier_corrected"})
UNIT_NAMES = {"breast": "breast of an exam", "exam": "exam", "image": "image"}
AT_NAMES = {"selected": "selected round", "last": "last round"}
STATUS_NAMES = {
    "complete": "Complete",
    "complete_with_absences": "Complete, with absences",
    "failed": "Failed",
}
ARM_WORDS = {
    "local_only": "each hospital trains alone",
    "pooled": "all images in one place; a reference, not an option",
    "fedavg": "everything is shared",
    "fedavg_local_stats": "fedavg, BatchNorm statistics re-estimated at each hospital",
    "silobn": "BatchNorm statistics stay at the hospital",
    "fedbn": "BatchNorm stays at the hospital",
    "fedbn_head": "BatchNorm and head stay at the hospital",
    "fedper": "the head stays at the hospital",
}
_DASH = "–"
_MINUS = "−"


def number(value: float | None, digits: int = 3) -> str:
    """Write a value; a dash where there is none."""
    if value is None:
        return _DASH
    return f"{_rounded(value, digits):.{digits}f}".replace("-", _MINUS)


def signed(value: float | None) -> str:
    """Write a difference with its sign; a dash where there is none."""
    if value is None:
        return _DASH
    change = _rounded(value, 3)
    return f"{change:+.3f}".replace("-", _MINUS) if change else f"{change:.3f}"


def _rounded(value: float, digits: int) -> float:
    """Round; adding 0 turns a negative zero into zero."""
    return round(value, digits) + 0.0


def interval(low: float | None, high: float | None) -> str:
    """Write a 95 % interval of a metric; empty where there is none."""
    return "" if low is None else f"{number(low)}{_DASH}{number(high)}"


def signed_interval(low: float | None, high: float | None) -> str:
    """Write a 95 % interval of a difference; empty where there is none."""
    return "" if low is None else f"{signed(low)} to {signed(high)}"


def hospitals(count: int) -> str:
    """Count hospitals in words."""
    return "1 hospital" if count == 1 else f"{count} hospitals"


def excludes_zero(pair: Plain) -> bool:
    """Tell whether a paired difference has an interval without 0 in it."""
    low, high = pair["low"], pair["high"]
    return low is not None and (low > 0 or high < 0)


def headline(report: Report) -> str:
    """Answer the primary question in one sentence.

    Built from the paired difference that `primary_pair` names; with no pair, from the
    mean of the first arm.
    """
    pair = primary_pair(report)
    return _describe_arm(report) if pair is None else _describe_pair(report, pair)


def _describe_pair(report: Report, pair: Plain) -> str:
    a, b = pair["a"], pair["b"]
    if pair["difference"] is None:
        return f"{a} cannot be compared with {b}: {pair['reason']}."
    where = hospitals(len(site_names(report)))
    change = f"mean ROC-AUC over {where} {signed(pair['difference'])}"
    if pair["low"] is None:
        return (
            f"{a} against {b}: {change}, but no interval can be given, so this does "
            "not say which one is better."
        )
    bounds = f"(95 % interval {signed_interval(pair['low'], pair['high'])})"
    if not excludes_zero(pair):
        return (
            f"No clear difference between {a} and {b}: {change} {bounds}; "
            "the interval includes 0."
        )
    direction = "higher" if pair["difference"] > 0 else "lower"
    return f"{a} scored {direction} than {b}: {change} {bounds}."


def _describe_arm(report: Report) -> str:
    arm = report["arms"][0]
    estimate = estimate_of(arm, main_unit(report), "selected", MEAN, "roc_auc")
    if estimate is None or estimate["value"] is None:
        reason = estimate["reason"] if estimate else "it was not evaluated"
        return f"{arm['name']} has no mean ROC-AUC: {reason}."
    where = hospitals(len(site_names(report)))
    text = f"{arm['name']}: mean ROC-AUC over {where} {number(estimate['value'])}"
    if estimate["low"] is None:
        return f"{text}, without an interval."
    return f"{text} (95 % interval {interval(estimate['low'], estimate['high'])})."


def remarks(report: Report) -> list[str]:
    """Say in short sentences what limits the headline."""
    lines = []
    if report["status"] == "failed":
        lines.append("The run failed: what is shown is incomplete.")
    pair = primary_pair(report)
    if pair is not None:
        meanings = [
            f"{name}: {ARM_WORDS[name]}."
            for name in (pair["a"], pair["b"])
            if name in ARM_WORDS
        ]
        lines.append(" ".join(meanings))
        if pair["reason"]:
            lines.append(f"Reason: {pair['reason']}.")
        lines.extend(_site_by_site(report, pair))
        lines.extend(_seed_by_seed(report, pair))
    if report["data"]["kind"] == "synthetic":
        lines.append(
            "The images are synthetic: this tells how the methods and the software "
            "behave, and nothing about patients."
        )
    if not report["data"]["patients_known"]:
        lines.append(
            "Patients are unknown, so images of one woman may stand in training and "
            "test: a smoke test of the software, not a measurement."
        )
    return [line for line in lines if line]


def _site_by_site(report: Report, primary: Plain) -> list[str]:
    names = [site for site in site_names(report) if site != MEAN]
    pairs = [
        pair
        for site in names
        for pair in pairs_of(report, primary["unit"], "roc_auc", site)
        if (pair["a"], pair["b"]) == (primary["a"], primary["b"])
        and pair["difference"] is not None
    ]
    if len(names) < 2 or not pairs:
        return []
    higher = sum(pair["difference"] > 0 for pair in pairs)
    clear = [pair for pair in pairs if excludes_zero(pair)]
    above = sum(pair["difference"] > 0 for pair in clear)
    return [
        f"At single hospitals: {primary['a']} is higher at {higher} of {len(pairs)}; "
        f"the interval lies above 0 at {above} and below 0 at {len(clear) - above}."
    ]


def _seed_by_seed(report: Report, primary: Plain) -> list[str]:
    """The interval is over patients of one training run; another run differs too."""
    scores = [
        {seed["seed"]: seed["metrics"]["roc_auc"]["value"] for seed in arm["seeds"]}
        for name in (primary["a"], primary["b"])
        for arm in report["arms"]
        if arm["name"] == name
    ]
    if len(scores) != 2:
        return []
    a, b = scores
    known = [s for s in a if a[s] is not None and b.get(s) is not None]
    if len(known) < 2:
        return []
    changes = [a[seed] - b[seed] for seed in known]
    agree = all(one > 0 for one in changes) or all(one < 0 for one in changes)
    return [
        f"The interval is over patients of one training run. With {len(known)} "
        f"training seeds the difference is {', '.join(map(signed, changes))}"
        + ("." if agree else ": they do not agree on which arm is better.")
    ]
