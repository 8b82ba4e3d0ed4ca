"""The cross-site matrix: A's finished model, own part included, on B's test images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from client.data.cache import Snapshot
from client.data.dataset import TEST, Loader, SiteDataset, build_dataset
from client.data.norm_domains import NormDomains
from client.evaluation import score_images
from client.model_folder import norm_domains_of, read_model_folder
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
    a site's test images have one class only, or a vendor whose norms the model does not
    have), ``notes`` (which cells are empty for want of norms)
    """
    owners, hospitals = list(run.plan.roster.sites), list(snapshots)
    matrix, notes = [], []
    for owner in owners:
        model, info = read_model_folder(run.model_folder(owner))
        domains = norm_domains_of(model, info)
        model.to(device)
        areas: list[float | None] = []
        for name in hospitals:
            dataset = build_dataset({name: snapshots[name]}, run.plan, required=())
            if strange := _strange_vendors(domains, dataset):
                areas.append(None)
                notes.append(
                    f"{owner} at {name}: no value, the model has no BatchNorm for "
                    f"images of {', '.join(strange)}"
                )
                continue
            areas.append(
                score_model(model, dataset, run.plan, unit, device, domains=domains)
            )
        matrix.append(areas)
    return {
        "arm": run.arm,
        "rows": owners,
        "columns": hospitals,
        "roc_auc": matrix,
        "notes": notes,
    }


def score_model(
    model: torch.nn.Module,
    dataset: SiteDataset,
    plan: Plan,
    unit: Unit,
    device: torch.device,
    parts: tuple[str, ...] = (TEST,),
    domains: NormDomains | None = None,
) -> float | None:
    """Compute a model's ROC-AUC on one site's images; None with one class only."""
    spec = plan.stages[-1].model
    loader = Loader(dataset, device, spec.mean, spec.scale, spec.channels, domains)
    size = 2 * plan.stages[-1].work.batch_size
    units = aggregate_units(score_images(model, loader, parts, size), unit)
    area = float(
        roc_auc(units["target"].to_numpy(np.int64), units["score"].to_numpy(np.float64))
    )
    return None if np.isnan(area) else area


def _strange_vendors(domains: NormDomains | None, dataset: SiteDataset) -> list[str]:
    """Name the vendors of test images that were not at the model's own site."""
    if domains is None:
        return []
    vendors = np.unique(dataset.vendors[dataset.select(TEST)])
    return [str(one) for one in vendors[~domains.know(vendors)]]
