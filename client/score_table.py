"""The table of scores that a hospital reads: its own words for patients and exams.

It leads straight to patients. It is written where a person of the site wants it, with
mode 0600, and nothing here is ever sent.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from client.data.cache import Progress
from client.data.dicom_header import read_header
from client.data.importers.files import decode_path, load
from client.data.manifest import read_linkage
from client.prediction import PredictionError
from common.atomic import write_atomic
from common.units import Unit, aggregate_units

NOTE = "not a medical device; for research only"
COLUMNS = (
    "level",
    "patient",
    "exam",
    "study",
    "laterality",
    "views",
    "images",
    "score",
    "threshold",
    "above_threshold",
    "model",
    "note",
)
"""One row for each breast of an exam, one for each exam.

``level`` is ``breast`` or ``exam``; ``patient`` the PatientID; ``exam`` the accession
number, or the study's UID where there is none; ``study`` that UID. ``laterality`` and
``views`` list what the score comes from, ``images`` counts it. ``above_threshold``
(``True`` at or above it) is empty where the model has no operating point. ``model`` is
the hash of its tensors, ``note`` is `NOTE`, so that no row goes without it.
"""


def require_free(out: Path, root: Path, *, replace: bool) -> None:
    """Refuse a place where the table cannot go.

    Raises
    ------
    PredictionError
        If it lies among the files that are scored, or there is one that may not be
        replaced, or its folder cannot be written.
    """
    if out.resolve().is_relative_to(root.resolve()):
        raise PredictionError(
            f"{out} would lie among the files that are scored, where nothing is "
            "written. Name another place with --out."
        )
    if out.is_dir() or (out.exists() and not replace):
        raise PredictionError(
            f"{out} is there already. Name another file with --out, or replace it with "
            "--force."
        )
    if not (out.parent.is_dir() and os.access(out.parent, os.W_OK)):
        raise PredictionError(f"{out.parent} is no folder that can be written to.")


def identify(
    scores: pd.DataFrame, folder: Path, root: Path, progress: Progress
) -> pd.DataFrame:
    """Find out how the hospital names the exams: from the header of one file of each.

    Parameters
    ----------
    scores : as `client.prediction.score_new` gives them
    folder : with the linkage that leads back to the files
    root : the files
    progress : called with exams named and exams in total

    Returns
    -------
    Columns ``patient, exam, study``, see `COLUMNS`; index ``exam_key``.

    Raises
    ------
    PredictionError
        If a file is not the one that was scored.
    """
    linkage = read_linkage(folder).set_index("row_id")
    names: dict[object, tuple[str, str, str]] = {}
    exams = scores.groupby("exam_key")["row_id"].first()
    for exam_key, row_id in exams.items():
        progress(len(names), len(exams))
        link = linkage.loc[str(row_id)]
        found, content = load(root, decode_path(str(link["source_path"])))
        if found.sha256 != link["file_sha256"]:
            raise PredictionError(
                "A file has changed while the folder was scored. Type the command "
                "again when nobody writes there."
            )
        header = read_header(content)
        study = header.text("StudyInstanceUID")
        exam = header.text("AccessionNumber") or study
        names[exam_key] = (header.text("PatientID"), exam, study)
    return pd.DataFrame.from_dict(
        names, orient="index", columns=["patient", "exam", "study"]
    )


def table_of(
    scores: pd.DataFrame, names: pd.DataFrame, threshold: float | None, model: str
) -> pd.DataFrame:
    """Turn scores of images into those of breasts and exams, as an evaluation does.

    Parameters
    ----------
    scores : as `client.prediction.score_new` gives them
    names : as `identify` gives them
    threshold : operating point by breast; an exam is above it where a breast is
    model : hash of its tensors

    Returns
    -------
    The columns of `COLUMNS`, ordered by patient and exam, breasts before their exam.
    """
    table = pd.concat([_units_of(scores, "breast"), _units_of(scores, "exam")])
    above = pd.Series(pd.NA, table.index, dtype="boolean")
    if threshold is not None:
        above = table["score"] >= threshold
    table = table.join(names, on="exam_key").assign(
        threshold=threshold, above_threshold=above, model=model, note=NOTE
    )
    order = ["patient", "exam", "study", "level", "laterality"]
    return table.sort_values(order, ignore_index=True)[list(COLUMNS)]


def write_table(out: Path, table: pd.DataFrame) -> None:
    """Write the table as CSV in UTF-8, mode 0600; scores keep every digit."""
    text = table.to_csv(index=False, lineterminator="\n")
    write_atomic(out, text.encode(), 0o600)


def _units_of(scores: pd.DataFrame, level: Unit) -> pd.DataFrame:
    # The slices of a volume are one image, whether in one file or in many.
    images = scores.assign(image=scores["volume_key"].fillna(scores["row_id"]))
    groups = images.groupby(f"{level}_key")
    return pd.DataFrame(
        {
            "level": level,
            "exam_key": groups["exam_key"].first(),
            "laterality": groups["laterality"].agg(_listed),
            "views": groups["view"].agg(_listed),
            "images": groups["image"].nunique(),
            "score": aggregate_units(scores, level).set_index("unit_key")["score"],
        }
    )


def _listed(words: Iterable[str]) -> str:
    return " ".join(sorted(set(words)))
