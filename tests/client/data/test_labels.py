"""Facts become labels by the plan's rule; unknown never becomes 0."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from client.data.labels import label
from common.plan import Target

IMAGE = Target(unit="image")


def _rows(*facts: dict[str, Any]) -> pd.DataFrame:
    base = {
        "cancer_pathology": None,
        "birads": None,
        "label_source": "pathology",
        "label_level": "breast",
        "breast_key": None,
    }
    return pd.DataFrame([base | fact for fact in facts])


def _labels(rows: pd.DataFrame, target: Target) -> list[int | None]:
    found = label(rows, target)
    assert str(found.dtype) == "Int8"
    return [None if pd.isna(value) else int(value) for value in found]


def test_unknown_stays_unknown() -> None:
    rows = _rows({"cancer_pathology": 1}, {"cancer_pathology": 0}, {})
    assert _labels(rows, IMAGE) == [1, 0, None]


def test_source_that_the_plan_does_not_accept_is_unknown() -> None:
    rows = _rows({"cancer_pathology": 0, "label_source": "assumed"})
    assert _labels(rows, IMAGE) == [None]


def test_birads_counts_from_the_threshold_and_0_is_incomplete() -> None:
    target = Target(field="birads", at_least=4, unit="image")
    rows = _rows(*[{"birads": score} for score in range(7)])
    assert _labels(rows, target) == [None, 0, 0, 0, 1, 1, 1]


def test_positive_exam_does_not_tell_the_breast_but_a_negative_one_does() -> None:
    rows = _rows(
        {"cancer_pathology": 1, "label_level": "exam"},
        {"cancer_pathology": 0, "label_level": "exam"},
    )
    assert _labels(rows, IMAGE) == [None, 0]


def test_breast_takes_the_worst_of_its_images() -> None:
    rows = _rows(
        {"cancer_pathology": 0, "breast_key": "mixed"},
        {"cancer_pathology": 1, "breast_key": "mixed"},
        {"cancer_pathology": 0, "breast_key": "half"},
        {"breast_key": "half"},
        {"cancer_pathology": 1, "breast_key": "known"},
        {"breast_key": "known"},
        {"cancer_pathology": 0, "breast_key": "healthy"},
    )
    assert _labels(rows, Target()) == [1, 1, None, None, 1, 1, 0]


def test_breast_unit_needs_breasts() -> None:
    with pytest.raises(ValueError, match="unit=image"):
        label(_rows({"cancer_pathology": 0}), Target())


def test_birads_is_the_radiologists_where_pathology_came_later() -> None:
    target = Target(
        field="birads", at_least=4, unit="image", label_sources=("radiologist",)
    )
    rows = _rows(
        {"birads": 5, "cancer_pathology": 1},
        {"birads": 2, "cancer_pathology": 0, "label_source": "dataset"},
        {"birads": 4, "label_source": "radiologist"},
        {"birads": 4, "label_source": "assumed"},
    )
    assert _labels(rows, target) == [1, 0, 1, None]


def test_an_image_that_cannot_be_used_makes_its_breast_positive_not_unknown() -> None:
    rows = _rows(
        {"cancer_pathology": 0, "breast_key": "sick"},
        {"cancer_pathology": 0, "breast_key": "healthy"},
        {"cancer_pathology": 0, "breast_key": "doubted"},
        {"cancer_pathology": 1, "breast_key": "certain"},
        {"breast_key": "unread"},
    )
    beside = _rows(
        {"cancer_pathology": 1, "breast_key": "sick", "reason": "Q_TRUNCATED"},
        {"breast_key": "healthy", "reason": "X_PROCESSING"},
        {"cancer_pathology": 1, "breast_key": "doubted", "reason": "X_CONFLICT"},
        {"cancer_pathology": 0, "breast_key": "certain", "reason": "X_CONFLICT"},
        {"cancer_pathology": 0, "breast_key": "unread", "reason": "Q_BLANK"},
    )
    found = label(rows, Target(), beside)
    assert str(found.dtype) == "Int8"
    assert list(found.fillna(-1)) == [1, 0, -1, 1, -1]


def test_a_unit_of_images_does_not_ask_the_others() -> None:
    rows = _rows({"cancer_pathology": 0, "breast_key": "sick"})
    beside = _rows({"cancer_pathology": 1, "breast_key": "sick", "reason": "Q_BLANK"})
    assert list(label(rows, IMAGE, beside)) == [0]
