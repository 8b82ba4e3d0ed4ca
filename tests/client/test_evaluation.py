"""Validation metrics, operating point and odds, against sklearn and counts."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from client.data.dataset import TRAIN, build_dataset
from client.evaluation import choose_threshold, prior_odds, summarise
from tests.support.hospitals import MemorySnapshot, small_plan


def scores(seed: int, population: str, breasts: int = 30) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    target = np.repeat(random.integers(0, 2, breasts), 2)
    return pd.DataFrame(
        {
            "row_id": [f"{population}{i}" for i in range(2 * breasts)],
            "patient_key": [f"{population}p{i // 4}" for i in range(2 * breasts)],
            "exam_key": [f"{population}e{i // 4}" for i in range(2 * breasts)],
            "breast_key": [f"{population}b{i // 2}" for i in range(2 * breasts)],
            "population": population,
            "part": "validation",
            "target": target,
            "score": random.random(2 * breasts) * 0.5 + 0.4 * target,
        }
    )


def test_metrics_are_by_breast_and_averaged_over_populations() -> None:
    one, two = scores(0, "a"), scores(1, "b")
    expected, losses = [], []
    for table in (one, two):
        units = table.groupby("breast_key").agg({"target": "max", "score": "mean"})
        expected.append(roc_auc_score(units["target"], units["score"]))
        losses.append(log_loss(units["target"], units["score"]))
    found = summarise(pd.concat([one, two]), "breast")
    assert found["roc_auc"] == pytest.approx(np.mean(expected))
    assert found["validation_loss"] == pytest.approx(np.mean(losses), rel=1e-6)


def test_one_class_only_gives_nan() -> None:
    table = scores(0, "a").assign(target=0)
    assert math.isnan(summarise(table, "breast")["roc_auc"])


def test_the_threshold_keeps_the_asked_share_of_healthy_breasts_below() -> None:
    table = scores(2, "a", breasts=200)
    threshold = choose_threshold(table, "breast", 0.9)
    units = table.groupby("breast_key").agg({"target": "max", "score": "mean"})
    healthy = units[units["target"] == 0]["score"]
    assert 0.9 <= (healthy < threshold).mean() < 0.92


def test_without_a_healthy_breast_there_is_no_threshold() -> None:
    assert math.isnan(choose_threshold(scores(0, "a").assign(target=1), "breast", 0.9))


def test_odds_count_training_images_and_training_breasts() -> None:
    plan = small_plan()
    dataset = build_dataset({"alpha": MemorySnapshot("alpha")}, plan)
    rows = dataset.rows.iloc[dataset.select(TRAIN)]
    images = rows["target"].astype(int)
    breasts = rows.assign(target=images).groupby("breast_key")["target"].max()
    train_odds, site_odds = prior_odds(dataset, "alpha", 5.0, plan)
    assert train_odds == pytest.approx(5.0 * images.sum() / (1 - images).sum())
    assert site_odds == pytest.approx(breasts.sum() / (1 - breasts).sum())
