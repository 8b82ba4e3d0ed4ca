import numpy as np
import pytest
from sklearn import metrics as reference

from common.report.extras import curve_from_scores


@pytest.mark.parametrize("ties", [False, True])
def test_curves_hold_the_areas_of_sklearn(ties):
    generator = np.random.default_rng(0)
    target = (generator.random(200) < 0.3).astype(int)
    score = generator.random(200) + 0.4 * target
    score = np.round(score, 1) if ties else score
    curve = curve_from_scores("fedavg", "a", target, score)
    area = np.trapezoid(curve.sensitivity, curve.false_positive_rate)
    assert area == pytest.approx(reference.roc_auc_score(target, score))
    steps = np.sum(np.diff(curve.recall, prepend=0.0) * curve.precision)
    assert steps == pytest.approx(reference.average_precision_score(target, score))
    assert curve.prevalence == target.mean()


def test_long_curves_are_thinned_with_both_ends_kept():
    target = np.arange(5000) % 2
    curve = curve_from_scores("a", "s", target, np.random.default_rng(0).random(5000))
    assert len(curve.sensitivity) <= 401
    assert (curve.sensitivity[0], curve.sensitivity[-1]) == (0.0, 1.0)
    assert (curve.false_positive_rate[0], curve.false_positive_rate[-1]) == (0.0, 1.0)


def test_one_class_has_no_curve():
    assert curve_from_scores("a", "s", np.zeros(3, dtype=int), np.ones(3)) is None
