import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as reference

from common import metrics
from common.units import Units, aggregate_units, make_units


def scored(seed=0, units=300, ties=False, shift=1.0):
    generator = np.random.default_rng(seed)
    target = (generator.random(units) < 0.3).astype(np.int64)
    score = 1 / (1 + np.exp(-generator.normal(shift * target - 0.5)))
    return target, np.round(score, 1) if ties else score


def units_of(target, score, threshold=0.5, corrected=None):
    keys = np.array([f"p{index:04d}" for index in range(len(target))])
    corrected = score if corrected is None else corrected
    return Units(keys, np.arange(len(target)), target, score, corrected, threshold)


def sklearn_metrics(units, weight):
    called = units.score >= units.threshold
    by_class = {"sample_weight": weight, "zero_division": np.nan}
    return {
        "roc_auc": reference.roc_auc_score(
            units.target, units.score, sample_weight=weight
        ),
        "average_precision": reference.average_precision_score(
            units.target, units.score, sample_weight=weight
        ),
        "sensitivity": reference.recall_score(units.target, called, **by_class),
        "specificity": reference.recall_score(
            units.target, called, pos_label=0, **by_class
        ),
        "accuracy": reference.accuracy_score(
            units.target, called, sample_weight=weight
        ),
        "f1": reference.f1_score(units.target, called, **by_class),
        "brier": reference.brier_score_loss(
            units.target, units.score, sample_weight=weight
        ),
        "brier_corrected": reference.brier_score_loss(
            units.target, units.corrected, sample_weight=weight
        ),
    }


@pytest.mark.parametrize("ties", [False, True])
def test_every_metric_agrees_with_sklearn(ties):
    units = units_of(*scored(ties=ties), corrected=scored(seed=1)[1])
    ours, theirs = metrics.all_metrics(units), sklearn_metrics(units, None)
    assert tuple(ours) == metrics.METRICS
    for name in metrics.METRICS:
        assert ours[name] == pytest.approx(theirs[name], abs=1e-12), name


@pytest.mark.parametrize("ties", [False, True])
def test_every_weighted_metric_agrees_with_sklearn_row_by_row(ties):
    units = units_of(*scored(ties=ties))
    weight = np.random.default_rng(2).integers(0, 4, (5, 300)).astype(np.float64)
    ours = metrics.all_metrics(units, weight)
    for row in range(5):
        theirs = sklearn_metrics(units, weight[row])
        for name in metrics.METRICS:
            assert ours[name][row] == pytest.approx(theirs[name], abs=1e-12), name


def test_tied_scores_give_half_and_the_prevalence():
    target, score = np.array([0, 1, 0, 1, 0]), np.full(5, 0.3)
    assert metrics.roc_auc(target, score) == 0.5
    assert metrics.average_precision(target, score) == pytest.approx(2 / 5)


@pytest.mark.parametrize("only", [0, 1])
def test_one_class_only_is_undefined_not_invented(only):
    units = units_of(np.full(4, only), np.array([0.1, 0.4, 0.6, 0.9]))
    values = metrics.all_metrics(units)
    missing = {name for name, value in values.items() if np.isnan(value)}
    rank_based = {"roc_auc", "average_precision"}
    assert missing == rank_based | ({"specificity"} if only else {"sensitivity", "f1"})


def test_weights_that_drop_a_class_make_that_row_undefined():
    target, score = np.array([0, 0, 1]), np.array([0.2, 0.4, 0.6])
    weight = np.array([[1.0, 1.0, 1.0], [0.0, 0.0, 2.0], [2.0, 1.0, 0.0]])
    for metric in (metrics.roc_auc, metrics.average_precision):
        assert np.isnan(metric(target, score, weight)).tolist() == [False, True, True]


def test_nothing_scored_is_undefined():
    empty = units_of(np.zeros(0, dtype=np.int64), np.zeros(0))
    assert all(np.isnan(value) for value in metrics.all_metrics(empty).values())
    assert metrics.calibration_table(empty) == []


def test_no_threshold_leaves_threshold_free_metrics():
    values = metrics.all_metrics(units_of(*scored(), threshold=float("nan")))
    missing = {name for name, value in values.items() if np.isnan(value)}
    assert missing == {"sensitivity", "specificity", "accuracy", "f1"}


def test_a_score_at_the_threshold_is_positive():
    values = metrics.operating_point(np.array([0, 1]), np.array([0.2, 0.5]), 0.5)
    assert values["sensitivity"] == 1.0 and values["specificity"] == 1.0


@pytest.mark.parametrize("specificity", [0.0, 0.07, 0.57, 0.9, 1.0])
@pytest.mark.parametrize("ties", [False, True])
def test_threshold_is_the_lowest_that_reaches_the_specificity(specificity, ties):
    target, score = scored(ties=ties)
    threshold = metrics.threshold_at_specificity(target, score, specificity)
    negatives = score[target == 0]
    assert np.mean(negatives < threshold) >= specificity
    lower = score[score < threshold]
    if len(lower):
        assert np.mean(negatives < lower.max()) < specificity
    assert np.abs(score - threshold).min() > 1e-9 or specificity == 0.0


def test_threshold_at_full_specificity_calls_nothing_if_a_negative_is_certain():
    target, score = np.array([0, 1]), np.array([1.0, 1.0])
    assert metrics.threshold_at_specificity(target, score, 1.0) > 1.0


def test_threshold_without_negatives_is_undefined():
    assert np.isnan(metrics.threshold_at_specificity(np.ones(2), np.ones(2) / 2, 0.9))


def test_prior_correction_recovers_the_posterior_of_the_site():
    ratio = np.array([0.1, 1.0, 7.0])
    trained = ratio * 3.0 / (1 + ratio * 3.0)
    expected = ratio * 0.02 / (1 + ratio * 0.02)
    corrected = metrics.prior_corrected(trained, train_odds=3.0, site_odds=0.02)
    assert corrected == pytest.approx(expected)


def test_prior_correction_keeps_certain_scores_inside():
    corrected = metrics.prior_corrected(np.array([0.0, 1.0]), 1.0, 0.1)
    assert 0 < corrected[0] < corrected[1] < 1


def test_prior_correction_refuses_odds_of_a_single_class():
    with pytest.raises(ValueError, match="site_odds is 0"):
        metrics.prior_corrected(np.array([0.5]), 1.0, 0.0)


def test_calibration_bins_hold_equal_counts_and_all_units():
    target, score = scored(units=100)
    table = metrics.calibration_table(units_of(target, score, corrected=score / 2))
    assert [row["units"] for row in table] == [10] * 10
    assert sum(row["positives"] for row in table) == target.sum()
    first = np.sort(score)[:10].mean()
    assert table[0]["predicted"] == pytest.approx(first)
    assert table[0]["predicted_corrected"] == pytest.approx(first / 2)


def test_calibration_keeps_equal_scores_in_one_bin():
    table = metrics.calibration_table(units_of(np.array([0, 1] * 10), np.full(20, 0.4)))
    assert [(row["units"], row["observed"]) for row in table] == [(20, 0.5)]


def rows():
    table = [
        ("p1", "e1", "e1L", "r1", 0, 0.2),
        ("p1", "e1", "e1L", "r2", 0, 0.4),
        ("p1", "e1", "e1R", "r3", 1, 0.9),
        ("p1", "e1", "e1R", "r4", 0, 0.5),
        ("p1", "e2", "e2L", "r5", 0, 0.1),
        ("p2", "e3", "e3L", "r0", 0, 0.6),
    ]
    names = ["patient_key", "exam_key", "breast_key", "row_id", "target", "score"]
    return pd.DataFrame(table, columns=names)


def test_breast_is_the_mean_of_its_views():
    table = aggregate_units(rows(), "breast")
    assert table["unit_key"].tolist() == ["e1L", "e1R", "e2L", "e3L"]
    assert table["score"].tolist() == pytest.approx([0.3, 0.7, 0.1, 0.6])
    assert table["target"].tolist() == [0, 1, 0, 0]
    assert table["patient_key"].tolist() == ["p1", "p1", "p1", "p2"]


def test_exam_is_the_maximum_of_its_breasts():
    table = aggregate_units(rows(), "exam")
    assert table["unit_key"].tolist() == ["e1", "e2", "e3"]
    assert table["score"].tolist() == pytest.approx([0.7, 0.1, 0.6])
    assert table["target"].tolist() == [1, 0, 0]


def test_image_unit_needs_no_exam():
    images = rows().drop(columns=["exam_key", "breast_key"])
    table = aggregate_units(images, "image")
    assert table["unit_key"].tolist() == ["r0", "r1", "r2", "r3", "r4", "r5"]
    assert list(table) == ["patient_key", "unit_key", "target", "score"]


def test_slices_of_one_image_are_one_unit():
    slices = pd.concat([rows(), rows().assign(score=0.0)])
    table = aggregate_units(slices, "image")
    assert table["unit_key"].tolist() == ["r0", "r1", "r2", "r3", "r4", "r5"]
    assert table["score"].tolist() == pytest.approx([0.3, 0.1, 0.2, 0.45, 0.25, 0.05])


def test_image_without_breast_is_refused_not_dropped():
    table = rows()
    table.loc[0, "breast_key"] = None
    with pytest.raises(ValueError, match="1 rows have no breast_key"):
        aggregate_units(table, "breast")


def test_breast_of_two_patients_is_refused():
    table = rows()
    table.loc[0, "patient_key"] = "p9"
    with pytest.raises(ValueError, match="two patients"):
        aggregate_units(table, "breast")


def test_units_do_not_depend_on_the_order_of_the_table():
    table = aggregate_units(rows(), "breast")
    corrected = table["score"].to_numpy() / 2
    one = make_units(table, 0.5, corrected)
    other = make_units(table[::-1], 0.5, corrected[::-1])
    for name in ("patient_keys", "patient", "target", "score", "corrected"):
        assert (getattr(one, name) == getattr(other, name)).all()
    assert one.patient_outcome.tolist() == [True, False]


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("score", float("nan"), "finite"),
        ("score", 1.5, "finite"),
        ("target", 2, "0 or 1"),
        ("unit_key", "e1R", "twice"),
    ],
)
def test_impossible_score_tables_are_refused(column, value, message):
    table = aggregate_units(rows(), "breast").astype({"score": float})
    table.loc[0, column] = value
    with pytest.raises(ValueError, match=message):
        make_units(table, 0.5)
