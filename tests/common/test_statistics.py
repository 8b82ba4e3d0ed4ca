import time

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as reference

from common.metrics import METRICS
from common.statistics import (
    bootstrap,
    intervals,
    mean_over_sites,
    paired,
    resample,
    seed_variance,
)
from common.units import make_units


def site(seed=0, patients=60, shift=1.0, prevalence=0.4, threshold=0.5, noise=0):
    """Two breasts per patient with correlated scores; ``noise`` picks the arm."""
    truth = np.random.default_rng(seed)
    positive = truth.random(patients) < prevalence
    target = np.zeros((patients, 2), dtype=int)
    target[positive, truth.integers(0, 2, positive.sum())] = 1
    generator = np.random.default_rng([seed, noise])
    common = generator.normal(0, 0.7, (patients, 1))
    logit = common + generator.normal(shift * target - 0.5, 1.0)
    table = pd.DataFrame(
        {
            "patient_key": np.repeat([f"p{i:05d}" for i in range(patients)], 2),
            "unit_key": [f"p{i // 2:05d}{i % 2}" for i in range(2 * patients)],
            "target": target.ravel(),
            "score": 1 / (1 + np.exp(-logit.ravel())),
        }
    )
    return make_units(table, threshold)


def run(units, replicates=200, seed=1, **options):
    weights = resample(units.patient_outcome, replicates, seed)
    return bootstrap(units, weights, **options)


def test_resamples_keep_the_number_of_patients_per_outcome():
    outcome = np.random.default_rng(0).random(50) < 0.3
    weights = resample(outcome, 300, seed=4)
    assert (weights[:, outcome].sum(axis=1) == outcome.sum()).all()
    assert (weights[:, ~outcome].sum(axis=1) == (~outcome).sum()).all()
    assert weights.mean(axis=0) == pytest.approx(np.ones(50), abs=0.3)
    assert (weights == resample(outcome, 300, seed=4)).all()
    assert (weights != resample(outcome, 300, seed=5)).any()


def test_large_sites_are_drawn_in_chunks_that_stay_different():
    weights = resample(np.zeros(30_000, dtype=bool), 80, seed=0)
    assert (weights.sum(axis=1) == 30_000).all()
    assert (weights[0] != weights[79]).any()


def test_bootstrap_equals_a_slow_loop_over_expanded_rows():
    units = site()
    weights = resample(units.patient_outcome, 40, seed=3)
    fast = bootstrap(units, weights)
    for replicate, weight in enumerate(weights):
        members = [np.flatnonzero(units.patient == p) for p in range(len(weight))]
        rows = np.concatenate(
            [np.tile(m, w) for m, w in zip(members, weight, strict=True)]
        )
        target, score = units.target[rows], units.score[rows]
        called = score >= units.threshold
        slow = {
            "roc_auc": reference.roc_auc_score(target, score),
            "average_precision": reference.average_precision_score(target, score),
            "sensitivity": reference.recall_score(target, called),
            "specificity": reference.recall_score(target, called, pos_label=0),
            "accuracy": reference.accuracy_score(target, called),
            "f1": reference.f1_score(target, called),
            "brier": reference.brier_score_loss(target, score),
            "brier_corrected": reference.brier_score_loss(target, score),
        }
        for name in METRICS:
            assert fast.replicates[name][replicate] == pytest.approx(
                slow[name], abs=1e-12
            ), name


def test_chunks_do_not_change_the_result(monkeypatch):
    units = site()
    weights = resample(units.patient_outcome, 50, seed=3)
    whole = bootstrap(units, weights)
    monkeypatch.setattr("common.statistics._CHUNK", 7 * len(units.target))
    for name, values in bootstrap(units, weights).replicates.items():
        assert values == pytest.approx(whole.replicates[name], abs=1e-13)


def test_interval_is_the_percentile_of_the_replicates():
    result = run(site())
    estimate = intervals(result)["roc_auc"]
    expected = np.percentile(result.replicates["roc_auc"], [2.5, 97.5])
    assert [estimate["low"], estimate["high"]] == pytest.approx(expected)
    assert estimate["low"] < estimate["value"] < estimate["high"]
    assert estimate["reason"] is None


def test_interval_covers_the_truth_about_as_often_as_it_says():
    hits = []
    for seed in range(150):
        units = site(seed=seed, patients=120, prevalence=0.5)
        estimate = intervals(run(units, 200, seed))["roc_auc"]
        hits.append(estimate["low"] <= TRUE_AUC <= estimate["high"])
    assert 0.88 <= np.mean(hits) <= 0.99


# Scores are normal with variance 1 + 0.7**2 in either class and means 1.0 apart, so the
# area is Phi(1 / sqrt(2 * 1.49)). A positive breast and the other one of the same woman
# are correlated, which moves the area by less than 1 / patients.
TRUE_AUC = 0.7188


def test_patients_and_not_breasts_are_resampled():
    one = site(patients=40, prevalence=0.5)
    copied = pd.DataFrame(
        {
            "patient_key": np.tile(one.patient_keys[one.patient], 5),
            "unit_key": [f"u{index:05d}" for index in range(5 * len(one.target))],
            "target": np.tile(one.target, 5),
            "score": np.tile(one.score, 5),
        }
    )
    many = intervals(run(make_units(copied, 0.5)))
    few = intervals(run(one))
    for name in ("roc_auc", "brier", "sensitivity"):
        assert many[name] == pytest.approx(few[name]), name


def test_few_patients_of_a_class_give_a_value_but_no_interval():
    estimate = intervals(run(site(patients=20, prevalence=0.3)))["roc_auc"]
    assert estimate["value"] is not None
    assert estimate["low"] is None and estimate["high"] is None
    assert "positive and" in estimate["reason"] and "needs 10" in estimate["reason"]


def test_one_class_gives_neither_value_nor_interval():
    estimates = intervals(run(site(prevalence=0.0), minimum_class=0))
    assert estimates["roc_auc"]["value"] is None
    assert estimates["roc_auc"]["reason"] == "one class only"
    assert estimates["specificity"]["value"] is not None
    assert estimates["brier"]["low"] is not None


def test_undefined_resamples_are_counted():
    result = run(site(patients=30, prevalence=0.5), replicates=100)
    result.replicates["roc_auc"][:3] = np.nan
    estimate = intervals(result)["roc_auc"]
    assert estimate["reason"] == "undefined in 3 of 100 resamples"
    assert estimate["low"] is not None
    result.replicates["roc_auc"][:6] = np.nan
    assert intervals(result)["roc_auc"]["low"] is None


def test_pairing_uses_the_same_resamples():
    a, b = site(shift=1.4, noise=1), site(shift=1.0, noise=2)
    weights = resample(a.patient_outcome, 300, seed=0)
    first, second = bootstrap(a, weights), bootstrap(b, weights)
    result = paired(first, second)["roc_auc"]
    change = first.replicates["roc_auc"] - second.replicates["roc_auc"]
    assert [result["low"], result["high"]] == pytest.approx(
        np.percentile(change, [2.5, 97.5])
    )
    assert result["difference"] == first.point["roc_auc"] - second.point["roc_auc"]


def test_an_arm_differs_from_itself_by_nothing():
    arm = run(site())
    for result in paired(arm, arm).values():
        assert (result["difference"], result["low"], result["high"]) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("change", [{"seed": 2}, {"replicates": 150}])
def test_other_resamples_are_not_paired(change):
    with pytest.raises(ValueError, match="not paired"):
        paired(run(site()), run(site(), **change))


def test_other_patients_are_not_paired():
    with pytest.raises(ValueError, match="not paired"):
        paired(run(site(seed=0)), run(site(seed=1)))


def test_weights_of_another_site_are_refused():
    weights = resample(np.ones(7, dtype=bool), 10, seed=0)
    with pytest.raises(ValueError, match="7"):
        bootstrap(site(), weights)


def test_mean_weighs_sites_alike_and_averages_resamples():
    sites = {"a": run(site(seed=1, patients=50)), "b": run(site(seed=2, patients=90))}
    mean = mean_over_sites(sites)
    parts = list(sites.values())
    expected = (parts[0].replicates["f1"] + parts[1].replicates["f1"]) / 2
    assert mean.replicates["f1"] == pytest.approx(expected)
    width = intervals(mean)["f1"]["high"] - intervals(mean)["f1"]["low"]
    alone = intervals(parts[0])["f1"]
    assert width < alone["high"] - alone["low"]
    assert paired(mean, mean)["f1"]["high"] == 0.0


def test_mean_with_an_undefined_site_is_null_and_names_it():
    sites = {"a": run(site(seed=1)), "lone": run(site(seed=2, prevalence=0.0))}
    estimate = intervals(mean_over_sites(sites))
    assert estimate["roc_auc"]["value"] is None
    assert estimate["roc_auc"]["reason"] == "undefined at lone (one class only)"
    assert estimate["brier"]["value"] is not None
    assert estimate["brier"]["reason"].startswith("no interval at lone (0 positive")


def test_sites_with_other_numbers_of_resamples_have_no_mean():
    with pytest.raises(ValueError, match="equally many"):
        mean_over_sites({"a": run(site()), "b": run(site(), replicates=5)})


def test_seed_variance_leaves_nulls_out():
    runs = [{name: {"value": value} for name in METRICS} for value in (0.7, 0.8, None)]
    spread = seed_variance(runs)["roc_auc"]
    assert spread == {
        "mean": pytest.approx(0.75),
        "sd": pytest.approx(np.sqrt(0.005)),
        "n": 2,
    }
    assert seed_variance(runs[:1])["f1"]["sd"] is None


def test_two_arms_of_ten_thousand_patients_take_seconds():
    a = site(patients=10_000, prevalence=0.02, noise=1)
    b = site(patients=10_000, prevalence=0.02, noise=2)
    start = time.process_time()
    weights = resample(a.patient_outcome, 2000, seed=0)
    first, second = bootstrap(a, weights), bootstrap(b, weights)
    paired(first, second), intervals(first), intervals(second)
    assert time.process_time() - start < 5.0
