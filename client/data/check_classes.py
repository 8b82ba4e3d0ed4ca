"""Whether images can be trained on at all: by labels, as a plan would make them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import pandas as pd

from client.data.check_rules import Problem, make_problem
from client.data.labels import label
from common.plan import Target

MINIMUM_CLASS = 10
"""Patients of a class below which no interval is given, see `common.statistics`."""

_Unit = Literal["breast", "image"]

_Sources = tuple[
    Literal["pathology", "registry", "radiologist", "dataset", "assumed"], ...
]

_SOURCES: _Sources = ("pathology", "registry", "radiologist", "dataset", "assumed")
_TARGETS = {
    "by pathology": Target("cancer_pathology", 1, "breast", _SOURCES),
    "by BI-RADS, 4 and above": Target("birads", 4, "breast", _SOURCES),
}
"""The most that a plan can ask for."""


@dataclass(frozen=True)
class _Labelled:
    """Images with a label, 1 or 0, by one rule of a plan."""

    words: str
    target: pd.Series[int]

    @property
    def has_both(self) -> bool:
        return self.target.nunique() == 2


def class_problems(
    images: pd.DataFrame, beside: pd.DataFrame | None = None
) -> list[Problem]:
    """Tell whether both classes are there, and enough patients of each.

    A class is missing by what plans label, a breast: most women with cancer have one
    healthy breast too. Intervals are by patient, so that smallness is.

    Parameters
    ----------
    images : manifest rows of the usable images
    beside : further rows of the same breasts, as for `client.data.labels.label`

    Returns
    -------
    ``nothing_to_learn``, an error, where nothing is labelled or all are of one class by
    pathology and by BI-RADS. Else ``only_birads`` where a plan by pathology, as plans
    are by default, would have nothing to learn; and ``small_class``.
    """
    # Where a breast is not known, no plan can take the breast.
    unit: _Unit = "image" if images["breast_key"].isna().any() else "breast"
    pathology, birads = (
        _Labelled(words, label(images, replace(target, unit=unit), beside).dropna())
        for words, target in _TARGETS.items()
    )
    if pathology.has_both:
        found = [_small_class(images, pathology)]
    elif birads.has_both:
        found = [_only_birads(images, birads), _small_class(images, birads)]
    elif len(pathology.target) or len(birads.target):
        one = pathology if len(pathology.target) else birads
        found = [_one_class(images, one, unit)]
    else:
        found = [_unlabelled(images)]
    return [problem for problem in found if problem is not None]


def _unlabelled(images: pd.DataFrame) -> Problem | None:
    return make_problem(
        "nothing_to_learn",
        "error",
        images,
        "no usable image has a label that tells sick from healthy",
        "Check the label table and the key that joins it: unmatched rows are counted "
        "by mammo-data import. BI-RADS 0 tells nothing, and what is sick in an exam or "
        "a patient does not tell which breast.",
    )


def _only_birads(images: pd.DataFrame, birads: _Labelled) -> Problem | None:
    return make_problem(
        "only_birads",
        "warning",
        images.loc[birads.target.index],
        "only BI-RADS, 4 and above, has both classes; by pathology, which plans ask "
        "for by default, nothing can be trained",
        "Take a plan with target.field: birads, at_least: 4 and label_sources: "
        "[radiologist].",
    )


def _one_class(images: pd.DataFrame, way: _Labelled, unit: _Unit) -> Problem | None:
    found = "sick" if way.target.max() == 1 else "healthy"
    return make_problem(
        "nothing_to_learn",
        "error",
        images.loc[way.target.index],
        f"all labelled {unit}s are {found}, {way.words}: a model cannot learn, nor "
        "be measured, on one class",
        "If the other class should be here, check the label table and the key that "
        "joins it. If not, this site is of use only beside others that have it.",
    )


def _small_class(images: pd.DataFrame, way: _Labelled) -> Problem | None:
    patients = images.loc[way.target.index, "patient_key"]
    sick = way.target.groupby(patients).max()
    counts = {"with a sick breast": int((sick == 1).sum())}
    counts["without a sick breast"] = int((sick == 0).sum())
    words, smaller = min(counts.items(), key=lambda item: item[1])
    if smaller >= MINIMUM_CLASS:
        return None
    return Problem(
        "small_class",
        "warning",
        (),
        smaller,
        f"patients {words}, {way.words}; under {MINIMUM_CLASS} there is no interval",
        "Results of this site alone will be given without an interval.",
    )
