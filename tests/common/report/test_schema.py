import copy
import json

import pytest

from common.report.schema import ReportError, check_report


@pytest.fixture
def report(make_run):
    return make_run().report()


def test_a_complete_report_passes_before_and_after_json(report):
    check_report(report)
    check_report(json.loads(json.dumps(report, allow_nan=False)))


def test_a_failed_run_without_results_passes(report):
    report["status"] = "failed"
    report["arms"][0]["results"] = []
    check_report(report)


def test_ledger_entries_may_hold_more(report):
    report["ledger"][0] |= {"arm": "fedavg", "threads": 2}
    check_report(report)


def change(report, path, value):
    report = copy.deepcopy(report)
    *way, last = path
    place = report
    for step in way:
        place = place[step]
    if value is KeyError:
        del place[last]
    else:
        place[last] = value
    return report


AUC = ("arms", 0, "results", 0, "mean", "roc_auc")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ((*AUC, "value"), float("nan"), "finite"),
        ((*AUC, "value"), "0.8", "valid number"),
        ((*AUC, "low"), None, "both"),
        ((*AUC, "reason"), KeyError, "required"),
        (AUC, KeyError, "lacks roc_auc"),
        (("arms", 0, "results", 0, "at"), "best", "selected"),
        (("arms", 0, "results", 0, "unit"), "patient", "breast"),
        (("arms", 0, "selected_round"), 1.5, "integer"),
        (("arms", 1, "name"), "fedavg", "different names"),
        (("paired", 0, "b"), "nobody", "nobody"),
        (("paired", 0, "difference"), None, "reason"),
        (("cross_site", 0, "roc_auc", 0), [0.5], "2 rows of 2"),
        (("data", "kind"), "phantom", "synthetic"),
        (("data", "hospital_name"), "x", "not permitted"),
        (("schema",), 2, "1"),
        (("status",), "done", "complete"),
        (("plan",), KeyError, "required"),
        (("ledger", 0, "site"), None, "string"),
    ],
)
def test_a_wrong_field_is_named(report, path, value, message):
    with pytest.raises(ReportError) as caught:
        check_report(change(report, path, value))
    text = str(caught.value)
    assert message in text
    assert path[0] in text or message == "different names" or path[0] == "paired"


def test_a_null_number_needs_its_reason(report):
    nothing = {"value": None, "low": None, "high": None}
    check_report(change(report, AUC, nothing | {"reason": "one class only"}))
    with pytest.raises(ReportError, match="needs a reason"):
        check_report(change(report, AUC, nothing | {"reason": None}))


def test_many_faults_are_cut_short(report):
    for entry in report["ledger"]:
        entry["round"] = -1
    with pytest.raises(ReportError, match="and 12 more"):
        check_report(report)
