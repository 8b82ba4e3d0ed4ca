"""Put an experiment's numbers and pictures together for `common.report`."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import flwr
import numpy as np
import torch
from pydantic import TypeAdapter

from client.data.cache import Snapshot
from client.data.dataset import TEST, build_dataset
from common.compose import mammofed_version
from common.plan import Plan
from common.plan_words import describe_plan
from common.report.build import write_report
from common.report.extras import Curve, Extras, History, Sample, curve_from_scores
from simulations.arms import POOLED
from simulations.cross_site import cross_site_entry
from simulations.laboratory import Laboratory
from simulations.results import (
    Finished,
    Statistics,
    arm_entry,
    paired_entries,
    report_units,
    units_of,
)

_SAMPLES_PER_ROW = 1


def make_report(laboratory: Laboratory, runs: Mapping[str, list[Finished]]) -> Path:
    """Compute every number and write ``report.json`` and ``report.html``.

    Returns
    -------
    Path of the page.
    """
    plan, settings = laboratory.plan, laboratory.settings
    statistics = Statistics(plan.evaluation, plan.seed)
    units = report_units(plan)
    mains = {arm: of[0] for arm, of in runs.items()}
    cross_site = None
    if settings.cross_site:
        device = laboratory.machine.device
        everybody = {**laboratory.snapshots, **laboratory.left_out}
        cross_site = [
            cross_site_entry(run, everybody, units[0], device)
            for run in mains.values()
            if run.plan.roster.sites != (POOLED,) or laboratory.left_out
        ]
    report: dict[str, Any] = {
        "schema": 1,
        "data": {
            "kind": "synthetic" if laboratory.synthetic else "real",
            "patients_known": not plan.smoke_test,
        },
        "arms": [arm_entry(of, statistics, units) for of in runs.values()],
        "paired": paired_entries(mains, _pairs(laboratory), statistics, units),
        "cross_site": cross_site,
        "ledger": [
            {**entry, "arm": arm}
            for arm, run in mains.items()
            for entry in run.outcome["ledger"]
        ],
        "status": _status([run for of in runs.values() for run in of]),
        "plan": TypeAdapter(Plan).dump_python(plan, mode="json"),
    }
    return write_report(settings.folder, report, _extras(laboratory, mains, statistics))


def _pairs(laboratory: Laboratory) -> list[tuple[str, str]]:
    """List the primary contrast first, then every other pair of arms."""
    arms, compare = laboratory.settings.arms, laboratory.settings.compare
    first = [(compare[0], compare[1])] if len(compare) == 2 else []
    seen = {frozenset(pair) for pair in first}
    return first + [p for p in combinations(arms, 2) if frozenset(p) not in seen]


def _status(runs: Sequence[Finished]) -> str:
    words = {run.outcome["status"] for run in runs}
    return "complete" if words == {"complete"} else "complete_with_absences"


def _extras(
    laboratory: Laboratory, mains: Mapping[str, Finished], statistics: Statistics
) -> Extras:
    plan, settings = laboratory.plan, laboratory.settings
    overrides = f"run_dir={settings.run_dir}"
    return Extras(
        title=settings.title,
        question="; ".join(
            f"{title}: {', '.join(names)}"
            for title, names in (
                ("Arms", settings.arms),
                ("hospitals", laboratory.snapshots),
                ("left out, last columns across hospitals", laboratory.left_out),
            )
            if names
        ),
        curves=_curves(mains),
        histories=_histories(mains, plan.evaluation.selection),
        samples=_samples(laboratory.snapshots, plan),
        selection_metric=plan.evaluation.selection,
        plan_words=describe_plan(plan),
        command=f"mammo-sim experiment={settings.name} {overrides}",
        facts={
            "plan": plan.hash,
            "mammofed": mammofed_version(),
            "flwr": flwr.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "threads": str(torch.get_num_threads()),
            "device": str(laboratory.machine.device),
            "seeds": ", ".join(map(str, settings.seeds)),
            "learning rates": ", ".join(f"{a} {r.rate:g}" for a, r in mains.items()),
        },
    )


def _curves(mains: Mapping[str, Finished]) -> list[Curve]:
    curves = []
    for arm, run in mains.items():
        unit = report_units(run.plan)[0]
        for site in run.populations:
            units = units_of(run, "selected", site, unit)
            curve = curve_from_scores(arm, site, units.target, units.score)
            if curve is not None:
                curves.append(curve)
    return curves


def _histories(mains: Mapping[str, Finished], metric: str) -> list[History]:
    histories = []
    for arm, run in mains.items():
        validation = {int(k): v for k, v in run.outcome["history"].items()}
        losses = {int(k): v for k, v in run.outcome["losses"].items()}
        rounds = sorted(validation)
        for site in run.plan.roster.sites if rounds else ():
            histories.append(
                History(
                    arm,
                    site,
                    rounds,
                    [validation[r].get(site, {}).get(metric) for r in rounds],
                    [losses.get(r, {}).get(site) for r in rounds],
                )
            )
    return histories


def _samples(snapshots: Mapping[str, Snapshot], plan: Plan) -> list[Sample]:
    """Take one positive and one negative test image of each site."""
    samples = []
    for site, snapshot in snapshots.items():
        dataset = build_dataset({site: snapshot}, plan)
        test = dataset.select(TEST)
        targets = dataset.targets(test)
        for label, value in (("positive", 1.0), ("negative", 0.0)):
            chosen = test[targets == value][:_SAMPLES_PER_ROW]
            for pixels in dataset.pixels(chosen):
                grey = (pixels >> 8).astype(np.uint8)
                samples.append(Sample(site, label, grey))
    return samples
