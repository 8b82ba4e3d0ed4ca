"""A site's model on the images of other hospitals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from client.data.cache import Snapshot
from common.plan import Plan
from simulations.cross_site import cross_site_entry
from simulations.results import Finished
from tests.support.hospitals import (
    MemorySnapshot,
    small_plan,
    small_stage,
    two_vendors_and_one,
)
from tests.support.runs import play


def finished(plan: Plan, folder: Path, hospitals: Any) -> Finished:
    play(plan, folder, hospitals=hospitals)
    outcome = json.loads((folder / "coordinator" / "outcome.json").read_bytes())
    sites = plan.roster.sites
    return Finished("fedbn_head", 0, 0.1, plan, {"selected": folder}, outcome, sites)


def test_images_of_a_vendor_without_norms_give_a_cell_that_says_so(
    tmp_path: Path,
) -> None:
    plan = small_plan(small_stage(norm_domain="vendor"), sites=("alpha", "beta"))
    hospitals = two_vendors_and_one()
    run = finished(plan, tmp_path, hospitals)
    snapshots = {site: one[site] for site, one in hospitals.items()}
    snapshots["elsewhere"] = MemorySnapshot("elsewhere", vendors=("hologic",))
    entry = cross_site_entry(
        run, cast(dict[str, Snapshot], snapshots), "breast", torch.device("cpu")
    )
    missing = [[value is None for value in row] for row in entry["roc_auc"]]
    assert missing == [[False, True, False], [True, False, True]]
    assert entry["notes"] == [
        "alpha at beta: no value, the model has no BatchNorm for images of siemens",
        "beta at alpha: no value, the model has no BatchNorm for images of ge, hologic",
        "beta at elsewhere: no value, the model has no BatchNorm for images of hologic",
    ]


def test_with_one_norm_every_cell_has_a_value(tmp_path: Path) -> None:
    plan = small_plan(sites=("alpha", "beta"))
    hospitals = two_vendors_and_one()
    run = finished(plan, tmp_path, hospitals)
    snapshots = {site: one[site] for site, one in hospitals.items()}
    entry = cross_site_entry(
        run, cast(dict[str, Snapshot], snapshots), "breast", torch.device("cpu")
    )
    assert entry["notes"] == []
    own = [row[number] for number, row in enumerate(entry["roc_auc"])]
    assert all(value is not None for row in entry["roc_auc"] for value in row)
    assert own == pytest.approx([_test_area(run, site) for site in ("alpha", "beta")])


def _test_area(run: Finished, site: str) -> float:
    from sklearn.metrics import roc_auc_score

    scores = run.scores("selected", site)
    scores = scores[scores["part"] == "test"]
    breasts = scores.groupby("breast_key").agg({"target": "max", "score": "mean"})
    return float(roc_auc_score(breasts["target"], breasts["score"]))
