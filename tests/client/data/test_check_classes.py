"""The check tells whether there is anything to learn, by what plans label: breasts."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from client.data.check import Check
from client.data.check_page import write_check
from client.data.check_rules import Problem
from tests.support.exports import Export


@pytest.fixture
def export(tmp_path: Path, dicom: ModuleType) -> Export:
    return Export(tmp_path / "archive", dicom)


def _breasts(
    export: Export, patient: str, left: dict[str, str], right: dict[str, str]
) -> None:
    for side, facts in (("L", left), ("R", right)):
        for view in ("CC", "MLO"):
            export.add(patient, side, view, **facts)


UNKNOWN = {"cancer": ""}
SICK, HEALTHY = {"cancer": "1"}, {"cancer": "0"}


def _birads(score: str) -> dict[str, str]:
    return UNKNOWN | {"birads": score}


def _about_classes(check: Check) -> list[Problem]:
    codes = ("small_class", "nothing_to_learn")
    return [problem for problem in check.problems if problem.code in codes]


def _headline(tmp_path: Path, check: Check) -> str:
    text = write_check(tmp_path / "site", check, "ours").read_text()
    return text.partition('<p class="remark">')[2].partition("</p>")[0]


@pytest.mark.parametrize(
    ("breast", "told"),
    [
        (HEALTHY, "all labelled breasts are healthy, by pathology"),
        (SICK, "all labelled breasts are sick, by pathology"),
        (_birads("2"), "all labelled breasts are healthy, by BI-RADS, 4 and above"),
        (UNKNOWN, "no usable image has a label"),
        (_birads("0"), "no usable image has a label"),
    ],
)
def test_the_headline_says_that_nothing_can_be_trained_and_why(
    export: Export, tmp_path: Path, breast: dict[str, str], told: str
) -> None:
    _breasts(export, "1", breast, breast)
    check = export.check(tmp_path / "site")
    (problem,) = _about_classes(check)
    assert (problem.code, problem.severity) == ("nothing_to_learn", "error")
    assert problem.count == 4
    headline = _headline(tmp_path, check)
    assert "Nothing can be trained with this as it stands" in headline
    assert told in headline and "nothing_to_learn" in headline


@pytest.mark.parametrize(
    ("sick", "healthy"), [(SICK, HEALTHY), (_birads("4A"), _birads("1"))]
)
def test_patients_with_one_sick_and_one_healthy_breast_are_both_classes(
    export: Export, tmp_path: Path, sick: dict[str, str], healthy: dict[str, str]
) -> None:
    for patient in "123":
        _breasts(export, patient, sick, healthy)
    check = export.check(tmp_path / "site")
    (problem,) = _about_classes(check)
    assert (problem.code, problem.count) == ("small_class", 0)
    assert "patients without a sick breast" in problem.what
    assert "label table" not in problem.remedy
    assert "Nothing stands in the way of training" in _headline(tmp_path, check)


@pytest.mark.parametrize("pathology", ["1", ""])
def test_where_only_birads_has_both_classes_the_headline_says_so(
    export: Export, tmp_path: Path, pathology: str
) -> None:
    _breasts(export, "1", {"cancer": pathology, "birads": "5"}, _birads("1"))
    check = export.check(tmp_path / "site")
    (small,) = _about_classes(check)
    assert small.code == "small_class" and "by BI-RADS" in small.what
    (only,) = (problem for problem in check.problems if problem.code == "only_birads")
    assert only.severity == "warning" and "target.field: birads" in only.remedy
    told = "of training by BI-RADS, 4 and above; by pathology nothing can be trained."
    assert told in _headline(tmp_path, check)


def test_a_breast_is_sick_by_the_image_that_cannot_be_used(
    export: Export, tmp_path: Path
) -> None:
    _breasts(export, "1", HEALTHY, HEALTHY)
    export.add("1", "L", "MLO", cancer="1", PresentationIntentType="FOR PROCESSING")
    (problem,) = _about_classes(export.check(tmp_path / "site"))
    assert problem.code == "small_class"


def test_without_pathology_classes_are_those_of_birads(
    export: Export, tmp_path: Path
) -> None:
    _breasts(export, "1", _birads("2"), _birads("2"))
    _breasts(export, "2", _birads("4A"), _birads("4A"))
    _breasts(export, "3", _birads("5"), _birads("5"))
    _breasts(export, "4", _birads("0"), _birads("0"))  # assessment incomplete: no class
    check = export.check(tmp_path / "site")
    (problem,) = _about_classes(check)
    assert (problem.code, problem.count) == ("small_class", 1)
    assert "BI-RADS" in problem.what
