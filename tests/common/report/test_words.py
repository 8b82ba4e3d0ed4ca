import pytest

from common.report.reading import primary_pair
from common.report.words import headline, number, remarks, signed


@pytest.fixture
def report(make_run):
    return make_run().report()


def set_primary(report, difference, low, high, reason=None):
    pair = primary_pair(report)
    pair |= {"difference": difference, "low": low, "high": high, "reason": reason}


def test_the_claim_of_the_project_is_the_primary_contrast(make_run):
    report = make_run(arms=("fedbn", "local_only", "fedavg", "fedbn_head")).report()
    report["paired"].reverse()
    pair = primary_pair(report)
    assert (pair["a"], pair["b"], pair["site"]) == ("fedbn_head", "fedavg", "mean")
    assert (pair["metric"], pair["unit"]) == ("roc_auc", "breast")


def test_an_interval_above_zero_is_called_higher(report):
    set_primary(report, 0.03, 0.01, 0.05)
    assert headline(report) == (
        "fedbn_head scored higher than fedavg: mean ROC-AUC over 2 hospitals +0.030 "
        "(95 % interval +0.010 to +0.050)."
    )


def test_an_interval_below_zero_is_called_lower(report):
    set_primary(report, -0.03, -0.05, -0.01)
    assert headline(report).startswith("fedbn_head scored lower than fedavg")
    assert "−0.050 to −0.010" in headline(report)


def test_an_interval_with_zero_claims_nothing(report):
    set_primary(report, 0.03, -0.01, 0.07)
    assert headline(report).startswith("No clear difference")
    assert "the interval includes 0" in headline(report)


def test_no_interval_claims_nothing_and_gives_the_reason(report):
    set_primary(report, 0.03, None, None, "3 positive patients")
    assert "does not say which one is better" in headline(report)
    assert "Reason: 3 positive patients." in remarks(report)


def test_no_difference_gives_the_reason(report):
    set_primary(report, None, None, None, "one class only")
    expected = "fedbn_head cannot be compared with fedavg: one class only."
    assert headline(report) == expected


def test_one_arm_is_described_alone(make_run):
    text = headline(make_run(arms=("fedbn_head",)).report())
    assert text.startswith("fedbn_head: mean ROC-AUC over 2 hospitals 0.")


def test_an_arm_without_results_says_so(make_run):
    report = make_run(arms=("fedbn_head",)).report()
    report["arms"][0]["results"] = []
    assert headline(report) == "fedbn_head has no mean ROC-AUC: it was not evaluated."


def test_remarks_count_hospitals_on_either_side(report):
    pairs = [p for p in report["paired"] if p["site"] != "mean"]
    pairs = [p for p in pairs if (p["metric"], p["unit"]) == ("roc_auc", "breast")]
    pairs[0] |= {"difference": 0.1, "low": 0.05, "high": 0.2}
    pairs[1] |= {"difference": -0.1, "low": -0.2, "high": -0.05}
    expected = (
        "At single hospitals: fedbn_head is higher at 1 of 2; "
        "the interval lies above 0 at 1 and below 0 at 1."
    )
    assert expected in remarks(report)


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        ((0.72, 0.69, 0.71), "+0.020, −0.010, +0.010: they do not agree"),
        ((0.72, 0.73, 0.71), "+0.020, +0.030, +0.010."),
        ((0.72, None, 0.71), "With 2 training seeds the difference is +0.020, +0.010."),
        ((0.72, None, None), None),
    ],
)
def test_remarks_tell_what_other_training_seeds_say(report, scores, said):
    pair = primary_pair(report)
    for name, values in ((pair["a"], scores), (pair["b"], (0.7, 0.7, 0.7))):
        (arm,) = [arm for arm in report["arms"] if arm["name"] == name]
        arm["seeds"] = [
            {"seed": seed, "metrics": {"roc_auc": {"value": value}}}
            for seed, value in enumerate(values)
        ]
    lines = [line for line in remarks(report) if "training seeds" in line]
    assert len(lines) == (said is not None)
    assert all(said in line for line in lines)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"kind": "synthetic"}, "synthetic"),
        ({"kind": "real", "known": False}, "smoke test"),
        ({"kind": "real", "status": "failed"}, "failed"),
    ],
)
def test_remarks_warn(make_run, changes, word):
    assert any(word in line for line in remarks(make_run(**changes).report()))


def test_numbers_have_no_negative_zero():
    assert (number(-0.0001), signed(-0.0001), signed(0.0004)) == ("0.000",) * 3
    assert (number(None), signed(-0.25)) == ("–", "−0.250")
