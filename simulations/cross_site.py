"""The cross-site matrix: A's finished model, own part included, on B's test images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from client.data.cache import Snapshot
from client.data.dataset import TEST, Loader, build_dataset
from client.evaluation import score_images
from client.model_folder import read_model_folder
from common.metrics import roc_auc
from common.plan import Plan
from common.units import Unit, aggregate_units
from simulations.results import Finished


def cross_site_entry(
    run: Finished, snapshots: Mapping[str, Snapshot], unit: Unit, device: torch.device
) -> dict[str, Any]:
    """Evaluate every site's selected model on test images of every hospital.

    Parameters
    ----------
    run : of an arm with one model per site, or of the pooled one
    snapshots : prepared images of every hospital, also of those that took no part
    unit : of a score

    Returns
    -------
    ``arm``, ``rows`` (whose model), ``columns`` (whose images), ``roc_auc`` (null where
    a site's test images have one class only)
    """
    owners, hospitals = list(run.plan.roster.sites), list(snapshots)
    matrix = []
    for owner in owners:
        model, _ = read_model_folder(run.model_folder(owner))
        model.to(device)
        matrix.append(
            [
                score_model(model, snapshots[name], name, run.plan, unit, device)
                for name in hospitals
            ]
        )
    return {"arm": run.arm, "rows": owners, "columns": hospitals, "roc_auc": matrix}


def score_model(
    model: torch.nn.Module,
    snapshot: Snapshot,
    population: str,
    plan: Plan,
    unit: Unit,
    device: torch.device,
    parts: tuple[str, ...] = (TEST,),
) -> float | None:
    """Compute a model's ROC-AUC on one site's images; None with one class only."""
    dataset = build_dataset({population: snapshot}, plan, required=())
    spec = plan.stages[-1].model
    loader = Loader(dataset, device, spec.mean, spec.scale, spec.channels)
    size = 2 * plan.stages[-1].work.batch_size
    units = aggregate_units(score_images(model, loader, parts, size), unit)
    area = float(
        roc_auc(units["target"].to_numpy(np.int64), units["score"].to_numpy(np.float64))
    )
    return None if np.isnan(area) else area
