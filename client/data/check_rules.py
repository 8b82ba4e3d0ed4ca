"""Rules of the check that look at usable images: one function, one problem."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import pandas as pd

MINIMUM_CLASS = 10
"""Patients of a class below which no interval is given, see `common.statistics`."""

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Problem:
    """One kind of problem, with the images that have it.

    Attributes
    ----------
    code : reason code of the manifest, or the name of a rule of this module
    severity : ``error`` would spoil results, mend it before training; ``warning``
        should be looked at; ``note`` is as it should be
    images : ``row_id`` of each; they never leave the site
    count : what `what` counts; usually images
    what, remedy : sentences for the person who prepares the data
    """

    code: str
    severity: Severity
    images: tuple[str, ...]
    count: int
    what: str
    remedy: str


def problems_of(images: pd.DataFrame) -> Iterator[Problem]:
    """Apply every rule; ``images`` has manifest, index and what `marked` found."""
    for rule in RULES:
        problem = rule(images)
        if problem is not None:
            yield problem


def _side_against_pixels(images: pd.DataFrame) -> Problem | None:
    """Compare the side with where the chest wall is: left of a left breast."""
    known = images["laterality"].notna()
    wrong = images[known & (images["flipped"] != (images["laterality"] == "R"))]
    return make_problem(
        "side_against_pixels",
        "warning",
        wrong,
        "the chest wall is not where it belongs for the recorded side",
        "Look at them below. If all images of a machine are concerned, its export "
        "mirrors; if single ones, correct the side in the label table.",
    )


def _same_pixels(images: pd.DataFrame) -> Problem | None:
    return make_problem(
        "same_pixels",
        "warning",
        images[images["image_sha256"].duplicated(keep=False)],
        "identical after cropping to another image with another SOP instance UID",
        "Copies of one patient do no harm beyond their weight. Remove them if their "
        "labels differ.",
    )


def _same_pixels_of_two_patients(images: pd.DataFrame) -> Problem | None:
    patients = images.groupby("image_sha256")["patient_key"].transform("nunique")
    return make_problem(
        "same_pixels_of_two_patients",
        "error",
        images[patients > 1],
        "identical pixels that belong to several patients",
        "A split by patient leaks here. Find which patient is right and exclude the "
        "others.",
    )


def _patient_in_two_splits(images: pd.DataFrame) -> Problem | None:
    parts = images.groupby("patient_key")["split_official"].transform("nunique")
    return make_problem(
        "patient_in_two_splits",
        "error",
        images[parts > 1],
        "the patient is in the official training and test part",
        "Use the split of the plan (split.official: false), or repair the table.",
    )


def _marks(images: pd.DataFrame) -> Problem | None:
    return make_problem(
        "marks",
        "warning",
        images[images["mark"]],
        "something bright stands beside the breast: a label, tape, text, or a nipple",
        "Look at them: side and view are harmless, a name is not. Ask for an export "
        "without annotations, or exclude the images that show one.",
    )


def _missing_view(images: pd.DataFrame) -> Problem | None:
    """Find breasts of an exam that lack one of the two standard views."""
    known = images[images["breast_key"].notna()]
    views = known.groupby("breast_key")["view"].agg(list)
    lacking = views.index[[not {"CC", "MLO"} <= set(found) for found in views]]
    return make_problem(
        "missing_view",
        "note",
        known[known["breast_key"].isin(lacking)],
        "the breast has no CC, or no MLO, in this exam",
        "Fine for training. If there are many, the export may be incomplete.",
    )


def _implant(images: pd.DataFrame) -> Problem | None:
    return make_problem(
        "implant",
        "note",
        images[(images["implant"] == 1).fillna(False)],
        "an implant is declared",
        "They stay in. Exclude them in the label table if the plan does not want them.",
    )


def _unknown_vendor(images: pd.DataFrame) -> Problem | None:
    known = images["vendor"].notna() & (images["vendor"] != "other")
    return make_problem(
        "unknown_vendor",
        "note",
        images[~known],
        "the manufacturer is missing or none that we know",
        "Domains by vendor cannot be told apart here; nothing else depends on it.",
    )


def _no_label(images: pd.DataFrame) -> Problem | None:
    return make_problem(
        "no_label",
        "warning",
        images[images[["cancer_pathology", "birads"]].isna().all(axis=1)],
        "neither pathology nor BI-RADS is known",
        "They are not trained on. If there should be labels, check the key that joins "
        "the table: unmatched rows are counted by mammo-data import.",
    )


def _small_class(images: pd.DataFrame) -> Problem | None:
    known = images[images["cancer_pathology"].notna()]
    if known.empty:
        return None
    sick = known.groupby("patient_key")["cancer_pathology"].max()
    smaller = min(int((sick == 1).sum()), int((sick == 0).sum()))
    if smaller >= MINIMUM_CLASS:
        return None
    return Problem(
        "small_class",
        "warning",
        (),
        smaller,
        f"patients in the smaller class; under {MINIMUM_CLASS} there is no interval",
        "Results of this site alone will be given without an interval.",
    )


def make_problem(
    code: str, severity: Severity, images: pd.DataFrame, what: str, remedy: str
) -> Problem | None:
    """Name the images that have a problem; None if there are none."""
    if images.empty:
        return None
    rows = tuple(map(str, images["row_id"]))
    return Problem(code, severity, rows, len(rows), what, remedy)


RULES: Sequence[Callable[[pd.DataFrame], Problem | None]] = (
    _same_pixels_of_two_patients,
    _patient_in_two_splits,
    _side_against_pixels,
    _same_pixels,
    _marks,
    _no_label,
    _small_class,
    _missing_view,
    _implant,
    _unknown_vendor,
)
