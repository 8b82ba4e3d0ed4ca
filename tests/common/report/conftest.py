"""Made-up reports of any size. Scores are drawn, metrics and intervals are real."""

import numpy as np
import pandas as pd
import pytest

from common.metrics import calibration_table
from common.report.extras import Extras, History, Sample, curve_from_scores
from common.statistics import (
    bootstrap,
    intervals,
    mean_over_sites,
    paired,
    resample,
)
from common.units import make_units

ARMS = (
    "local_only",
    "pooled",
    "fedavg",
    "fedavg_local_stats",
    "silobn",
    "fedbn",
    "fedbn_head",
)
PAIRS = (("fedbn_head", "fedavg"), ("fedbn_head", "local_only"), ("fedbn", "fedavg"))


class Maker:
    """One made-up run; see ``make_report``."""

    def __init__(self, arms, sites, units, patients, prevalence, kind, known, status):
        self.arms, self.units, self.patients = list(arms), units, patients
        self.sites = [f"hospital_{chr(97 + index)}" for index in range(sites)]
        self.prevalence, self.kind, self.known = prevalence, kind, known
        self.status = status
        self.scores = {
            (arm, site): self._score(a, s)
            for a, arm in enumerate(self.arms)
            for s, site in enumerate(self.sites)
        }
        self.boots = {key: self._bootstrap(key[1], u) for key, u in self.scores.items()}

    def _score(self, arm, site):
        truth, patients = np.random.default_rng(site), self.patients + 12 * site
        target = (truth.random(patients) < self.prevalence).astype(int)
        logit = truth.normal(1.6 * target, 1.2)
        logit += np.random.default_rng([arm, site]).normal(0.12 * arm * target, 0.5)
        keys = [f"{site}-{index:04d}" for index in range(patients)]
        score = 1 / (1 + np.exp(1.5 - logit))
        columns = {"patient_key": keys, "unit_key": keys, "target": target}
        return make_units(pd.DataFrame(columns | {"score": score}), 0.5, score / 2)

    def _bootstrap(self, site, units):
        weights = resample(units.patient_outcome, 100, self.sites.index(site))
        return bootstrap(units, weights)

    def _mean(self, arm):
        return mean_over_sites({site: self.boots[arm, site] for site in self.sites})

    def _site(self, arm, site):
        units = self.scores[arm, site]
        return {
            "site": site,
            "patients": len(units.patient_keys),
            "positives": int(units.patient_outcome.sum()),
            "prevalence": float(units.target.mean()),
            "threshold": 0.5,
            "metrics": intervals(self.boots[arm, site]),
            "calibration": calibration_table(units),
        }

    def _arm(self, arm):
        sites = [self._site(arm, site) for site in self.sites]
        mean = intervals(self._mean(arm))
        results = [
            {"unit": unit, "at": at, "sites": sites, "mean": mean}
            for unit in self.units
            for at in ("selected", "last")
        ]
        seeds = [{"seed": seed, "metrics": mean} for seed in (0, 1, 2)]
        rounds = {"selected_round": 7 + len(arm) % 4, "last_round": 12}
        return {
            "name": arm,
            "start": "random",
            **rounds,
            "results": results,
            "seeds": seeds,
        }

    def _paired(self):
        entries = []
        for a, b in PAIRS:
            if {a, b} - set(self.arms):
                continue
            places = {"mean": paired(self._mean(a), self._mean(b))}
            for site in self.sites:
                places[site] = paired(self.boots[a, site], self.boots[b, site])
            entries += [
                {
                    "a": a,
                    "b": b,
                    "unit": unit,
                    "metric": metric,
                    "site": place,
                    **change,
                }
                for unit in self.units
                for place, changes in places.items()
                for metric, change in changes.items()
            ]
        return entries

    def _ledger(self):
        entries = []
        for round_ in range(1, 13):
            for index, site in enumerate(self.sites):
                absent = self.status != "complete" and (round_ + index) % 9 == 0
                refused = self.status != "complete" and (round_ + index) % 11 == 0
                counted = not (absent or refused)
                reason = "no reply before the deadline" if absent else None
                entries.append(
                    {
                        "stage": "adapt",
                        "round": round_,
                        "site": site,
                        "expected": True,
                        "configured": True,
                        "replied": not absent,
                        "counted": counted,
                        "samples": 440 + index if counted else None,
                        "weight_share": 1 / len(self.sites) if counted else None,
                        "update_norm": 3.1 / round_ if counted else None,
                        "seconds": 2.5 + index,
                        "reason": "update holds NaN" if refused else reason,
                    }
                )
        return entries

    def report(self):
        matrix = np.random.default_rng(0).uniform(0.5, 0.95, [len(self.sites)] * 2)
        matrix = [[float(value) for value in row] for row in matrix]
        matrix[-1][0] = None
        cross = [
            {"arm": arm, "rows": self.sites, "columns": self.sites, "roc_auc": matrix}
            for arm in self.arms
            if arm.startswith("fedbn")
        ]
        return {
            "schema": 1,
            "data": {"kind": self.kind, "patients_known": self.known},
            "arms": [self._arm(arm) for arm in self.arms],
            "paired": self._paired(),
            "cross_site": cross or None,
            "ledger": self._ledger(),
            "status": self.status,
            "plan": {"id": "made_up", "seed": 0},
        }

    def extras(self, rows=256, columns=128):
        curves = [
            curve_from_scores(arm, site, units.target, units.score)
            for (arm, site), units in self.scores.items()
        ]
        rounds = range(1, 13)
        histories = [
            History(
                arm,
                site,
                list(rounds),
                [0.9 - 0.35 / r + 0.01 * ((r * 7 + a) % 3) for r in rounds],
                [0.3 + 0.5 / r + 0.02 * a for r in rounds],
            )
            for a, arm in enumerate(self.arms)
            for site in self.sites
        ]
        return Extras(
            title="Which layers should stay at the hospital?",
            question="Seven ways to adapt one model at four hospitals, compared.",
            curves=[curve for curve in curves if curve is not None],
            histories=histories,
            samples=[
                Sample(site, label, _breast(rows, columns, index, label))
                for index, site in enumerate(self.sites)
                for label in ("benign", "malignant")
            ],
            plan_words=[
                "Target: cancer by pathology, one label per breast of an exam.",
                "Stage adapt: 12 rounds, 1 epoch each, SGD 0.05.",
                "  shared: convolutions; local: BatchNorm and head.",
            ],
            command="mammo-sim experiment=compare_sharing run_dir=DIR",
            facts={"mammofed": "0.1.0", "plan": "3f9a" * 16, "threads": "2"},
        )


def _breast(rows, columns, index, label):
    y, x = np.mgrid[0:rows, 0:columns]
    radius = np.hypot((y - rows / 2) / (rows / 2.3), x / (columns * 0.85))
    noise = np.random.default_rng(index).normal(0, 12, (rows, columns))
    image = np.where(radius < 1, 90 + 15 * index + noise + 40 * (1 - radius), 0)
    if label == "malignant":
        image[np.hypot(y - rows * 0.4, x - columns * 0.4) < rows / 20] = 240
    return np.clip(image, 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def make_run():
    """Build a made-up run: arms, sites, units, patients of the first site, ..."""

    def make(
        arms=("fedavg", "fedbn_head"),
        sites=2,
        units=("breast", "exam"),
        patients=60,
        prevalence=0.4,
        kind="synthetic",
        known=True,
        status="complete",
    ):
        return Maker(arms, sites, units, patients, prevalence, kind, known, status)

    return make
