"""Find things in a checked report: results of an arm, sites, paired differences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Report = Mapping[str, Any]
Plain = Mapping[str, Any]

MEAN = "mean"
_UNITS = ("breast", "image", "exam")


def main_unit(report: Report) -> str:
    """Name the unit that the page leads with: breast, else image, else exam."""
    present = {result["unit"] for arm in report["arms"] for result in arm["results"]}
    return next((unit for unit in _UNITS if unit in present), _UNITS[0])


def variants(report: Report) -> list[tuple[str, str]]:
    """List each (unit, selected or last) that has results, the main one first."""
    present = {
        (result["unit"], result["at"])
        for arm in report["arms"]
        for result in arm["results"]
    }
    main = main_unit(report)
    return sorted(
        present, key=lambda pair: (pair[1] != "selected", pair[0] != main, pair[0])
    )


def result_of(arm: Plain, unit: str, at: str) -> Plain | None:
    """Find one result of an arm; None if the arm was not evaluated so."""
    for result in arm["results"]:
        if (result["unit"], result["at"]) == (unit, at):
            found: Plain = result
            return found
    return None


def site_of(arm: Plain, unit: str, at: str, site: str) -> Plain | None:
    """Find one site in one result of an arm; None if it is not there."""
    result = result_of(arm, unit, at)
    for entry in result["sites"] if result else []:
        if entry["site"] == site:
            found: Plain = entry
            return found
    return None


def site_names(report: Report) -> list[str]:
    """List every site that was evaluated under any arm, in order of appearance."""
    names = [
        site["site"]
        for arm in report["arms"]
        for result in arm["results"]
        for site in result["sites"]
    ]
    return list(dict.fromkeys(names))


def estimate_of(arm: Plain, unit: str, at: str, site: str, metric: str) -> Plain | None:
    """Find one metric with its interval; ``site`` may be ``mean``."""
    if site == MEAN:
        result = result_of(arm, unit, at)
        found: Plain | None = result["mean"][metric] if result else None
        return found
    entry = site_of(arm, unit, at, site)
    return entry["metrics"][metric] if entry else None


def pairs_of(report: Report, unit: str, metric: str, site: str = MEAN) -> list[Plain]:
    """List the paired differences of one metric, in the order of the report."""
    wanted = (unit, metric, site)
    return [
        pair
        for pair in report["paired"]
        if (pair["unit"], pair["metric"], pair["site"]) == wanted
    ]


def primary_pair(report: Report) -> Plain | None:
    """Choose the one contrast of the headline, before looking at its result.

    It is ``fedbn_head`` against ``fedavg`` where both exist (the claim this project is
    about), else the first pair of the report; ROC-AUC, mean over sites, main unit.
    """
    pairs = pairs_of(report, main_unit(report), "roc_auc")
    for pair in pairs:
        if (pair["a"], pair["b"]) == ("fedbn_head", "fedavg"):
            return pair
    return pairs[0] if pairs else None
