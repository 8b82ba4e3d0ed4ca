"""From the scores in each site's folder to the numbers of report.json.

Only a simulation may do this: it reads per-patient scores of several hospitals, which
in a deployment never leave them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from client.data.dataset import TEST, VALIDATION
from client.evaluation import choose_threshold
from common.metrics import METRICS, calibration_table, prior_corrected
from common.plan import Evaluation, Plan
from common.seeds import derive_seed
from common.statistics import (
    Bootstrap,
    bootstrap,
    intervals,
    mean_over_sites,
    paired,
    resample,
)
from common.units import Unit, Units, aggregate_units, make_units

Role = str
ROLES: tuple[Role, ...] = ("selected", "last")


@dataclass(frozen=True)
class Finished:
    """One run of one arm that has ended.

    Attributes
    ----------
    folders : of the run, by role; the same one unless the arm follows another's models
    outcome : content of the coordinator's ``outcome.json``
    populations : names of the hospitals that were evaluated
    """

    arm: str
    seed: int
    rate: float
    plan: Plan
    folders: Mapping[Role, Path]
    outcome: Mapping[str, Any]
    populations: tuple[str, ...]

    def scores(self, role: Role, population: str) -> pd.DataFrame:
        """Read the image scores that a site keeps, validation and test."""
        site = self._sites(role) / self._keeper(population)
        return pd.read_parquet(site / "scores" / role / f"{population}.parquet")

    def model_folder(self, site: str, role: Role = "selected") -> Path:
        """Return where a site's finished model of a role is."""
        outcome = read_outcome(self.folders[role])
        assert outcome is not None
        models = self._sites(role) / site / "models" / self.plan.id
        return models / str(outcome[role])

    def _sites(self, role: Role) -> Path:
        return self.folders[role] / "sites"

    def _keeper(self, population: str) -> str:
        """Name the session that holds a population: itself, or the pooled one."""
        sites = self.plan.roster.sites
        return population if population in sites else sites[0]


@dataclass
class Statistics:
    """Bootstraps of finished runs, each computed once.

    Attributes
    ----------
    seed : of the resamples; the same for every arm, so that arms are paired
    """

    evaluation: Evaluation
    seed: int
    _done: dict[tuple[str, int, Role, Unit], dict[str, Bootstrap]] = field(
        default_factory=dict
    )

    def of(self, run: Finished, role: Role, unit: Unit) -> dict[str, Bootstrap]:
        """Return the bootstrap of every population."""
        key = (run.arm, run.seed, role, unit)
        if key not in self._done:
            self._done[key] = {
                name: self._bootstrap(name, units_of(run, role, name, unit))
                for name in run.populations
            }
        return self._done[key]

    def _bootstrap(self, population: str, units: Units) -> Bootstrap:
        seed = derive_seed(self.seed, "bootstrap", population)
        weights = resample(units.patient_outcome, self.evaluation.replicates, seed)
        return bootstrap(units, weights, self.evaluation.minimum_class)


def units_of(run: Finished, role: Role, population: str, unit: Unit) -> Units:
    """Build the test units of one hospital under one run.

    The operating point comes from validation in the same unit; probabilities are
    corrected from the odds of training to those of the site.
    """
    return units_from_scores(
        run.scores(role, population), unit, run.plan.evaluation.at_specificity
    )


def units_from_scores(scores: pd.DataFrame, unit: Unit, at_specificity: float) -> Units:
    """Build test units from the image scores of one hospital, see `units_of`."""
    validation = scores[scores["part"] == VALIDATION]
    table = aggregate_units(scores[scores["part"] == TEST], unit)
    threshold = choose_threshold(validation, unit, at_specificity)
    train_odds = float(scores["train_odds"].iloc[0])
    site_odds = float(scores["site_odds"].iloc[0])
    corrected = None
    if math.isfinite(train_odds) and math.isfinite(site_odds):
        raw = table["score"].to_numpy(np.float64)
        corrected = prior_corrected(raw, train_odds, site_odds)
    return make_units(table, threshold, corrected)


def report_units(plan: Plan) -> tuple[Unit, ...]:
    """Return the units a plan is reported in, the main one first."""
    return ("image",) if plan.target.unit == "image" else ("breast", "exam")


def arm_entry(
    runs: Sequence[Finished], statistics: Statistics, units: Sequence[Unit]
) -> dict[str, Any]:
    """Describe one arm for report.json; the first run is its main one.

    Parameters
    ----------
    runs : of the same arm with different seeds
    """
    first = runs[0]
    results = []
    for role in ROLES:
        for unit in units:
            boots = statistics.of(first, role, unit)
            results.append(
                {
                    "unit": unit,
                    "at": role,
                    "sites": [
                        _site_entry(first, role, unit, name, boots[name])
                        for name in first.populations
                    ],
                    "mean": intervals(mean_over_sites(boots)),
                }
            )
    return {
        "name": first.arm,
        "start": first.plan.start.kind,
        "selected_round": first.outcome["selected"],
        "last_round": first.outcome["last"],
        "results": results,
        "seeds": [
            {
                "seed": run.seed,
                "metrics": intervals(
                    mean_over_sites(statistics.of(run, "selected", units[0]))
                ),
            }
            for run in runs
        ],
    }


def _site_entry(
    run: Finished, role: Role, unit: Unit, population: str, boot: Bootstrap
) -> dict[str, Any]:
    units = units_of(run, role, population, unit)
    outcome = units.patient_outcome
    return {
        "site": population,
        "patients": len(outcome),
        "positives": int(outcome.sum()),
        "prevalence": float(units.target.mean()) if len(units.target) else None,
        "threshold": None if math.isnan(units.threshold) else units.threshold,
        "metrics": intervals(boot),
        "calibration": calibration_table(units),
    }


def paired_entries(
    mains: Mapping[str, Finished],
    pairs: Sequence[tuple[str, str]],
    statistics: Statistics,
    units: Sequence[Unit],
) -> list[dict[str, Any]]:
    """Compare arms on the same patients and resamples, at the selected rounds.

    Parameters
    ----------
    mains : arm to its main run
    pairs : (a, b); each entry is a minus b
    """
    entries = []
    for a, b in pairs:
        for unit in units:
            left = statistics.of(mains[a], "selected", unit)
            right = statistics.of(mains[b], "selected", unit)
            sites: dict[str, tuple[Bootstrap, Bootstrap]] = {
                "mean": (mean_over_sites(left), mean_over_sites(right))
            }
            sites |= {name: (left[name], right[name]) for name in left}
            for site, (one, other) in sites.items():
                differences = paired(one, other)
                entries += [
                    {
                        "a": a,
                        "b": b,
                        "unit": unit,
                        "metric": metric,
                        "site": site,
                        **differences[metric],
                    }
                    for metric in METRICS
                ]
    return entries


def read_outcome(folder: Path) -> dict[str, Any] | None:
    """Read how a run ended; None if it has not."""
    path = folder / "coordinator" / "outcome.json"
    if not path.is_file():
        return None
    outcome: dict[str, Any] = json.loads(path.read_bytes())
    return outcome
