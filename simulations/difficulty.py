"""How hard the synthetic consortium is: the pooled arm, and classifiers that cheat.

Set once, before any method is compared. A shortcut is anything but the look of a
finding that tells the label: what the header says, how bright an image is, how the
tissue is arranged. Each classifier is trained on the training patients of all hospitals
and scored on extra patients that nobody has seen, per hospital.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from client.data.cache import Snapshot
from client.data.dataset import TEST, TRAIN, VALIDATION, SiteDataset, build_dataset
from client.model_folder import read_model_folder
from common.atomic import write_atomic
from common.metrics import roc_auc
from common.units import aggregate_units
from simulations.cross_site import score_model
from simulations.experiment import run_arms
from simulations.laboratory import Laboratory
from simulations.results import Finished
from simulations.settings import DataSettings
from simulations.sites import prepare_sites

ALL = (TRAIN, VALIDATION, TEST)
Snapshots = Mapping[str, Snapshot]
PerSite = dict[str, float]

_SMALLEST_SHARE = 0.95
"""Of ``patients_per_site`` at the smallest hospital; so that each has enough."""
_METADATA = [
    "age_years",
    "density",
    "laterality",
    "view",
    "bits_stored",
    "photometric",
    "vendor",
]


def measure_difficulty(laboratory: Laboratory, pooled: Finished) -> dict[str, PerSite]:
    """Score the pooled model and every shortcut on extra patients; write and say it.

    Parameters
    ----------
    pooled : finished run of the pooled arm

    Returns
    -------
    Classifier to ROC-AUC by hospital, and their ``mean``; written to
    ``difficulty.json`` in the run folder.
    """
    extra = _extra_snapshots(laboratory, lesions=True)
    areas = {"pooled model": _model_areas(laboratory, pooled, extra)}
    for name, features in (("metadata", _metadata), ("mean and variance", _brightness)):
        for kind, classifier in _classifiers().items():
            areas[f"{name}, {kind}"] = _shortcut_areas(
                laboratory, extra, features, classifier
            )
    areas["model without lesions"] = _areas_without_lesions(laboratory)
    for by_site in areas.values():
        by_site["mean"] = float(np.mean([by_site[site] for site in extra]))
    write_atomic(
        laboratory.settings.folder / "difficulty.json",
        json.dumps(areas, indent=2).encode(),
    )
    laboratory.view.say(
        f"ROC-AUC by breast on {laboratory.settings.extra_test} extra patients:"
    )
    for name, by_site in areas.items():
        values = ", ".join(f"{site} {area:.3f}" for site, area in by_site.items())
        laboratory.view.say(f"  {name:32} {values}")
    return areas


def _extra_data(laboratory: Laboratory, *, lesions: bool) -> DataSettings:
    data = laboratory.settings.data
    suffix = "-extra" if lesions else "-extra-without-lesions"
    return replace(
        data,
        root=data.root + suffix,
        seed=data.seed + 1,
        patients=int(np.ceil(laboratory.settings.extra_test / _SMALLEST_SHARE)),
        lesions=lesions,
    )


def _extra_snapshots(laboratory: Laboratory, *, lesions: bool) -> Snapshots:
    data = _extra_data(laboratory, lesions=lesions)
    return prepare_sites(data, laboratory.plan, laboratory.view)[0]


def _model_areas(laboratory: Laboratory, run: Finished, extra: Snapshots) -> PerSite:
    model, _ = read_model_folder(run.model_folder(run.plan.roster.sites[0]))
    device = laboratory.machine.device
    model.to(device)
    areas = {
        site: score_model(
            model,
            build_dataset({site: snapshot}, run.plan, required=()),
            run.plan,
            "breast",
            device,
            ALL,
        )
        for site, snapshot in extra.items()
    }
    return {site: area for site, area in areas.items() if area is not None}


def _areas_without_lesions(laboratory: Laboratory) -> PerSite:
    """Train and test the same model on the same patients without their findings."""
    settings = laboratory.settings
    data = replace(
        settings.data, root=f"{settings.data.root}-without-lesions", lesions=False
    )
    snapshots = prepare_sites(data, laboratory.plan, laboratory.view)[0]
    blind = replace(
        laboratory,
        settings=replace(
            settings, data=data, run_dir=str(settings.folder / "without_lesions")
        ),
        snapshots={site: snapshots[site] for site in data.taking_part},
    )
    run = run_arms(blind)["pooled"][0]
    return _model_areas(laboratory, run, _extra_snapshots(laboratory, lesions=False))


def _shortcut_areas(
    laboratory: Laboratory,
    extra: Snapshots,
    features: Callable[[SiteDataset, np.ndarray], pd.DataFrame],
    classifier: object,
) -> PerSite:
    plan = laboratory.plan
    together = build_dataset(laboratory.snapshots, plan)
    train = together.select(TRAIN)
    table = features(together, train)
    model = classifier.fit(table, together.targets(train))  # type: ignore[attr-defined]
    areas = {}
    for site, snapshot in extra.items():
        dataset = build_dataset({site: snapshot}, plan, required=())
        rows = np.concatenate([dataset.select(part) for part in ALL])
        own = features(dataset, rows).reindex(columns=table.columns, fill_value=0.0)
        scored = dataset.rows.iloc[rows][
            ["row_id", "patient_key", "breast_key"]
        ].assign(
            target=dataset.targets(rows).astype(int),
            score=model.predict_proba(own)[:, 1],
        )
        units = aggregate_units(scored, "breast")
        areas[site] = float(
            roc_auc(
                units["target"].to_numpy(np.int64), units["score"].to_numpy(np.float64)
            )
        )
    return areas


def _classifiers() -> dict[str, object]:
    return {
        "logistic": make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
        "boosting": HistGradientBoostingClassifier(max_depth=3, random_state=0),
    }


def _metadata(dataset: SiteDataset, rows: np.ndarray) -> pd.DataFrame:
    columns = dataset.rows.iloc[rows][_METADATA].astype(object).fillna("none")
    columns["age_years"] = pd.to_numeric(columns["age_years"], errors="coerce").fillna(
        0
    )
    return pd.get_dummies(columns, dtype=float)


def _brightness(dataset: SiteDataset, rows: np.ndarray) -> pd.DataFrame:
    """Mean and variance of the image and of the breast in it, with the hospital."""
    pixels = dataset.pixels(rows).astype(np.float64) / 65535.0
    inside = pixels > 0
    count = np.maximum(inside.sum(axis=(1, 2)), 1)
    mean = pixels.sum(axis=(1, 2)) / count
    variance = (((pixels - mean[:, None, None]) ** 2) * inside).sum(axis=(1, 2)) / count
    hospital = pd.get_dummies(
        dataset.rows.iloc[rows]["population"].to_numpy(), dtype=float
    )
    return hospital.assign(
        mean=mean,
        variance=variance,
        image_mean=pixels.mean(axis=(1, 2)),
        image_variance=pixels.var(axis=(1, 2)),
    )
