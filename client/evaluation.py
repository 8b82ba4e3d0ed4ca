"""A site's model on the site's own images: scores, thresholds, validation metrics."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import torch
from torch import nn

from client.data.dataset import TRAIN, Loader, SiteDataset, in_order
from common.metrics import average_precision, roc_auc, threshold_at_specificity
from common.plan import Plan
from common.units import Unit, aggregate_units

KEYS = ["row_id", "patient_key", "exam_key", "breast_key", "population", "part"]


def predict(
    model: nn.Module, loader: Loader, indices: np.ndarray, batch_size: int
) -> np.ndarray:
    """Compute float64 probabilities [image] in evaluation mode.

    Always in float32, whatever training used: a finished model gives the same scores
    wherever it is loaded. Images that need different norms are scored apart.
    """
    model.eval()
    scores = np.empty(len(indices))
    places = [
        place for mine in loader.apart(indices) for place in in_order(mine, batch_size)
    ]
    batches = loader.batches([indices[place] for place in places])
    with torch.no_grad():
        for place, batch in zip(places, batches, strict=True):
            logits = model(batch.images)
            scores[place] = torch.sigmoid(logits.squeeze(1).double()).cpu().numpy()
    return scores


def score_images(
    model: nn.Module,
    loader: Loader,
    parts: tuple[str, ...],
    batch_size: int,
) -> pd.DataFrame:
    """Score every labelled image of some parts.

    Returns
    -------
    One row per image: the columns of `KEYS`, ``target`` (int), ``score`` (float64).
    """
    dataset = loader.dataset
    indices = np.concatenate([dataset.select(part) for part in parts])
    frame = dataset.rows.iloc[indices][KEYS].reset_index(drop=True)
    frame["target"] = dataset.targets(indices).astype(np.int64)
    frame["score"] = predict(model, loader, indices, batch_size)
    return frame


def summarise(scores: pd.DataFrame, unit: Unit) -> dict[str, float]:
    """Compute validation metrics of a session, mean over its populations.

    Returns
    -------
    ``roc_auc``, ``average_precision``, ``validation_loss`` (mean binary log loss of
    units); nan where any population has one class only.
    """
    rows = []
    for _, population in scores.groupby("population", sort=True):
        units = aggregate_units(population, unit)
        target = units["target"].to_numpy(np.int64)
        score = units["score"].to_numpy(np.float64)
        safe = np.clip(np.where(target == 1, score, 1.0 - score), 1e-7, 1.0)
        rows.append(
            [
                float(roc_auc(target, score)),
                float(average_precision(target, score)),
                float(-np.log(safe).mean()),
            ]
        )
    means = np.asarray(rows).mean(axis=0) if rows else np.full(3, math.nan)
    names = ("roc_auc", "average_precision", "validation_loss")
    return {name: float(mean) for name, mean in zip(names, means, strict=True)}


def choose_threshold(validation: pd.DataFrame, unit: Unit, specificity: float) -> float:
    """Choose one population's operating point; nan without a negative unit."""
    units = aggregate_units(validation, unit)
    target = units["target"].to_numpy(np.int64)
    if not (target == 0).any():
        return math.nan
    return threshold_at_specificity(
        target, units["score"].to_numpy(np.float64), specificity
    )


def prior_odds(
    dataset: SiteDataset,
    population: str,
    pos_weight: float,
    plan: Plan,
    drawn: float | None = None,
) -> tuple[float, float]:
    """Return the odds a model was trained at and those of the site, from training data.

    Parameters
    ----------
    pos_weight : of the loss; multiplies the odds that the model learns
    drawn : positives / negatives that a sampler draws; None: each image once an epoch

    Returns
    -------
    (train_odds, site_odds): positives / negatives of training images, or ``drawn``,
    times ``pos_weight``; and of training units (breasts, or images). Both nan where a
    class is missing. For a shared head the true training odds are a mixture over sites
    that no hospital knows; its own are used, in every arm alike.
    """
    rows = dataset.rows.iloc[dataset.select(TRAIN)]
    rows = rows[rows["population"] == population]
    targets = rows["target"].to_numpy(np.int64)
    scored = rows.assign(target=targets, score=0.0)
    units = aggregate_units(scored, plan.target.unit)["target"].to_numpy(np.int64)
    trained = _odds(targets) if drawn is None else drawn
    return trained * pos_weight, _odds(units)


def _odds(targets: np.ndarray) -> float:
    positives = int(targets.sum())
    negatives = len(targets) - positives
    return positives / negatives if positives and negatives else math.nan
