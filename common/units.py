"""What a score belongs to: an image, a breast of an exam, or an exam."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Unit = Literal["image", "breast", "exam"]


@dataclass(frozen=True)
class Units:
    """The scored units of one site under one arm.

    Attributes
    ----------
    patient_keys : str, shape (patient,); sorted, each once
    patient : int64, shape (unit,); index into ``patient_keys``
    target : int64, shape (unit,); 0 or 1
    score : float64, shape (unit,); probability in [0, 1]
    corrected : float64, shape (unit,); the score after `prior_corrected`, or the score
    threshold : operating point in units of ``score``; NaN if there is none
    """

    patient_keys: NDArray[np.str_]
    patient: Integers
    target: Integers
    score: Floats
    corrected: Floats
    threshold: float

    @property
    def patient_outcome(self) -> NDArray[np.bool_]:
        """Tell for each patient whether any of the units is positive."""
        positives = np.bincount(
            self.patient, weights=self.target, minlength=len(self.patient_keys)
        )
        return positives > 0


def make_units(
    table: pd.DataFrame, threshold: float, corrected: Floats | None = None
) -> Units:
    """Build `Units` from a score table.

    Parameters
    ----------
    table : columns ``patient_key, unit_key, target, score``; see `aggregate_units`
    threshold : operating point, from `threshold_at_specificity` on validation
    corrected : float64, shape (unit,), in the order of ``table``; None = the score

    Returns
    -------
    Units, ordered by ``unit_key``, so that two arms over the same units are paired.

    Raises
    ------
    ValueError
        If a target is not 0 or 1, a score is outside [0, 1] or not finite, or a unit
        is listed twice.
    """
    order = np.argsort(table["unit_key"].to_numpy(dtype=str), kind="stable")
    target = table["target"].to_numpy(dtype=np.float64)[order]
    score = table["score"].to_numpy(dtype=np.float64)[order]
    _check_scores(target, score)
    if table["unit_key"].duplicated().any():
        raise ValueError("The score table lists a unit twice. Aggregate it first.")
    keys, patient = np.unique(
        table["patient_key"].to_numpy(dtype=str)[order], return_inverse=True
    )
    return Units(
        patient_keys=keys,
        patient=patient.astype(np.int64),
        target=target.astype(np.int64),
        score=score,
        corrected=score if corrected is None else np.asarray(corrected)[order],
        threshold=float(threshold),
    )


def aggregate_units(rows: pd.DataFrame, unit: Unit) -> pd.DataFrame:
    """Turn image scores into scores of breasts or exams.

    A breast of an exam scores the mean probability over its rows: views, and slices
    where a volume was read as such; an image, the mean over its slices; an exam, the
    maximum over its breasts. A unit is positive if any of its images is.

    Parameters
    ----------
    rows : one row per image; columns ``patient_key, exam_key, breast_key, row_id,
        target, score`` (only those the unit needs)
    unit : ``image``, ``breast`` (of an exam) or ``exam``

    Returns
    -------
    Columns ``patient_key, unit_key, target, score``, ordered by ``unit_key``.

    Raises
    ------
    ValueError
        If a key is missing, or a unit belongs to two patients.
    """
    columns = ["patient_key", "unit_key", "target", "score"]
    keys = {
        "image": ["row_id"],
        "breast": ["breast_key"],
        "exam": ["breast_key", "exam_key"],
    }[unit]
    table = rows
    for key in keys:
        table = _group(table, key, "max" if key == "exam_key" else "mean")
    return table.rename(columns={keys[-1]: "unit_key"})[columns]


def _group(table: pd.DataFrame, key: str, how: str) -> pd.DataFrame:
    if table[key].isna().any():
        raise ValueError(
            f"{int(table[key].isna().sum())} rows have no {key}, so they belong to no "
            "unit. Score by image, or exclude them in the plan."
        )
    groups = table.groupby(key, sort=True)
    if (groups["patient_key"].nunique() != 1).any():
        raise ValueError(f"A {key} belongs to two patients, or to none: check keys.")
    carried = [name for name in ("patient_key", "exam_key") if name in table]
    how_to = dict.fromkeys(carried, "first") | {"target": "max", "score": how}
    how_to.pop(key, None)
    return groups.agg(how_to).reset_index()


def _check_scores(target: Floats, score: Floats) -> None:
    if not np.isin(target, (0.0, 1.0)).all():
        raise ValueError("Targets must be 0 or 1; drop units whose truth is unknown.")
    if not (np.isfinite(score).all() and (score >= 0).all() and (score <= 1).all()):
        raise ValueError("Scores must be finite probabilities in [0, 1].")
