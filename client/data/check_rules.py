"""Rules of the check that look at usable images: one function, one problem."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from common.plan import Preprocessing

RARE, RARE_SHARE = 10, 0.01
"""Patients, and share of patients, below both of which a vendor is unexpected."""

_SAME = ("image_sha256", "trimmed_sha256")
"""Equal where the breast is, whatever stands beside it; or equal but for a border."""

_OF_VOLUMES = ("DBT", "SYNTH2D")

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
        "Look at them on the page, left and right as in the file: the chest wall of a "
        "left breast belongs at the left, of a right one at the right. If all images "
        "of a machine are concerned, its export mirrors; if single ones, correct the "
        "side in the label table.",
    )


def _same_pixels(images: pd.DataFrame) -> Problem | None:
    again = [images[key].duplicated(keep=False) for key in _SAME]
    return make_problem(
        "same_pixels",
        "warning",
        images[np.logical_or.reduce(again)],
        "identical after cropping to another image with another SOP instance UID",
        "Copies of one patient do no harm beyond their weight. Remove them if their "
        "labels differ.",
    )


def _same_pixels_of_two_patients(images: pd.DataFrame) -> Problem | None:
    several = [
        images.groupby(key)["patient_key"].transform("nunique") > 1 for key in _SAME
    ]
    return make_problem(
        "same_pixels_of_two_patients",
        "error",
        images[np.logical_or.reduce(several)],
        "identical pixels that belong to several patients",
        "A split by patient leaks here. Find which patient is right and exclude the "
        "others.",
    )


def _patient_in_two_splits(images: pd.DataFrame) -> Problem | None:
    parts = images.groupby("patient_key")["split_official"].transform("nunique")
    return make_problem(
        "patient_in_two_splits",
        "warning",
        images[parts > 1],
        "the patient is in the official training and test part",
        "Nothing leaks: with split.official: true all of them train or validate, none "
        "tests. Repair the table if they should test.",
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
    """Find breasts without a standard view of a kind that their exam has.

    Each kind on its own: a volume does not stand in for a full-field image. What is
    made of volumes may have fewer views, so nothing is asked of it beside a full-field
    image of both views.
    """
    known = images[images["breast_key"].notna()]
    exam_of: dict[str, str] = {}
    kinds: dict[str, set[str]] = {}
    views: dict[tuple[str, str], set[str]] = {}
    columns = ["exam_key", "breast_key", "modality_kind", "view"]
    for exam, breast, kind, view in known[columns].to_numpy().tolist():
        exam_of[breast] = exam
        kinds.setdefault(exam, set()).add(kind)
        views.setdefault((breast, kind), set()).add(view)
    whole = {place for place, found in views.items() if {"CC", "MLO"} <= found}
    lacking = {
        breast
        for breast, exam in exam_of.items()
        for kind in kinds[exam]
        if (breast, kind) not in whole
        and not (kind in _OF_VOLUMES and (breast, "FFDM") in whole)
    }
    return make_problem(
        "missing_view",
        "note",
        known[known["breast_key"].isin(lacking)],
        "the breast has no CC, or no MLO, of a kind of image that its exam has",
        "Fine for training. If there are many, the export may be incomplete.",
    )


def _repeats(images: pd.DataFrame) -> Problem | None:
    return make_problem(
        "repeats",
        "note",
        images[(images["repeat"] > 0).fillna(False)],
        "another image of the same view is preferred: larger, later, or with the "
        "implant displaced",
        "Plans use them all; with preprocessing.repeats: best only the preferred ones.",
    )


def _left_out(images: pd.DataFrame) -> Problem | None:
    left = [kind for kind in _OF_VOLUMES if kind not in Preprocessing().modalities]
    return make_problem(
        "left_out",
        "note",
        images[images["modality_kind"].isin(left)],
        "tomosynthesis, or a 2D image made of it, which plans leave out by default",
        f"To train on them, name {' or '.join(left)} in preprocessing.modalities.",
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
    return make_problem(
        "unknown_vendor",
        "note",
        images[~_of_known_vendor(images)],
        "the manufacturer is missing or none that we know",
        "Domains by vendor cannot be told apart here; nothing else depends on it.",
    )


def _unexpected_vendor(images: pd.DataFrame) -> Problem | None:
    """Find what may have come from another hospital, as an exam of years before."""
    known = images[_of_known_vendor(images)]
    patients = known.groupby("vendor")["patient_key"].nunique()
    few = min(RARE, RARE_SHARE * known["patient_key"].nunique())
    return make_problem(
        "unexpected_vendor",
        "warning",
        known[known["vendor"].isin(patients.index[patients < few])],
        f"a manufacturer of under {RARE} patients and under {RARE_SHARE:.0%} of all",
        "Look at them on the page, by vendor: they may come from elsewhere.",
    )


def _of_known_vendor(images: pd.DataFrame) -> pd.Series[bool]:
    return images["vendor"].notna() & (images["vendor"] != "other")


def _no_label(images: pd.DataFrame) -> Problem | None:
    return make_problem(
        "no_label",
        "warning",
        images[images[["cancer_pathology", "birads"]].isna().all(axis=1)],
        "neither pathology nor BI-RADS is known",
        "They are not trained on. If there should be labels, check the key that joins "
        "the table: unmatched rows are counted by mammo-data import.",
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
    _missing_view,
    _implant,
    _repeats,
    _left_out,
    _unknown_vendor,
    _unexpected_vendor,
)
