"""A patient withdraws: out of every new snapshot, and a list of what has used them.

What a run has learnt stays in its weights. The list says which rounds and which of the
site's models trained, validated or tested on the patient.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from client.data.manifest import read_manifest
from client.data.pseudonyms import Pseudonymiser, stored_secret
from client.data.snapshot import INDEX_FILE, SNAPSHOT_FILE, joint_hash
from client.data.split import assign_split
from client.data.withdrawn import (
    UnknownPatientError,
    read_withdrawn,
    write_withdrawn,
)
from client.local_state import used_rounds
from common.lock import locked
from common.plan import read_plan

UNKNOWN = "unknown"
_Place = tuple[str, str, str, Path | None]  # run, plan, rounds, model


@dataclass(frozen=True)
class Use:
    """Rounds of a run, or one model, that used a patient.

    Attributes
    ----------
    run, plan : the run's id; the plan's short name, or 12 digits where it is not kept
    rounds : ``3`` or ``1 to 12``
    part : ``train``, ``validation`` or ``test``; ``unknown`` without the plan
    certain : False where the snapshot is gone, so that nobody can look
    model : folder of the model; None for the rounds of a run
    """

    run: str
    plan: str
    rounds: str
    part: str
    certain: bool
    model: Path | None = None


def find_patient(site_folder: Path, patient: str) -> str:
    """Return the pseudonym of a patient of the site.

    Parameters
    ----------
    patient : as the label table, or else the headers, name them: PatientID, or the
        StudyInstanceUID where an archive has no patients and exams stand for them

    Raises
    ------
    UnknownPatientError
        If no file of the site is of this patient.
    SecretError, ManifestError
        If nothing was imported here, or its secret is gone.
    """
    keys = set(read_manifest(site_folder)["patient_key"].dropna())
    pseudonymiser = Pseudonymiser(stored_secret(site_folder))
    name = patient.strip()
    for identifier in (name, f"study:{name}"):
        if (key := pseudonymiser.patient(identifier)) in keys:
            return key
    raise UnknownPatientError(
        f"No file in {site_folder} is of this patient. Give the identifier exactly as "
        "it stands in the label table, or else in the headers (PatientID)."
    )


def withdraw(site_folder: Path, key: str) -> bool:
    """Leave a patient out of every preparation from now on.

    Returns
    -------
    False if the patient had withdrawn already

    Raises
    ------
    FolderBusyError
        If a preparation is running, which would still take the patient in.
    """
    with locked(site_folder / "cache"):
        before = read_withdrawn(site_folder)
        write_withdrawn(site_folder, [*before, key])
    return key not in before


def caches_with(site_folder: Path, key: str) -> list[Path]:
    """List the cache folders that hold a patient's images, or cannot be looked into."""
    rows = set(_rows_of(site_folder, key)["row_id"])
    folders = (path for path in (site_folder / "cache").glob("*") if path.is_dir())
    return sorted(
        folder
        for folder in folders
        if (images := _images_in(folder)) is None or images & rows
    )


def delete_copies(site_folder: Path, caches: Sequence[Path]) -> list[Path]:
    """Delete caches, and the last check, whose page shows images.

    Returns
    -------
    What was deleted

    Raises
    ------
    FolderBusyError
        If a preparation is running.
    """
    pages = [site_folder / name for name in ("check.html", "check.json")]
    found = [*caches, *(page for page in pages if page.is_file())]
    with locked(site_folder / "cache"):
        for path in found:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
    return found


def uses_of(site_folder: Path, key: str, state: Path, models: Path) -> list[Use]:
    """List the rounds and the models that used a patient.

    Where the snapshot of a run is not there any more, it counts as having held them.

    Parameters
    ----------
    state : the site's local state: generations, and every plan it has approved
    models : folder of the site's finished models
    """
    rows = _rows_of(site_folder, key)
    snapshots = dict(_snapshots(site_folder))
    uses: list[Use] = []
    for used in used_rounds(state):
        rounds = f"{used.first} to {used.last}"
        rounds = rounds if used.first != used.last else str(used.last)
        place: _Place = (used.run, used.plan, rounds, None)
        uses += _use(place, used.snapshot, rows, snapshots, state)
    for path in sorted(models.glob("*/*/model.json")):
        info: dict[str, Any] = json.loads(path.read_bytes())
        place = (info["run"], info["plan_hash"][:12], str(info["round"]), path.parent)
        uses += _use(place, info.get("snapshot", ""), rows, snapshots, state)
    return uses


def _use(
    place: _Place,
    snapshot: str,
    rows: pd.DataFrame,
    snapshots: dict[str, set[str]],
    state: Path,
) -> Iterator[Use]:
    """Yield one use, unless the snapshot is there and does not hold the patient."""
    run, plan, rounds, model = place
    images = snapshots.get(snapshot)
    if images is not None:
        rows = rows[rows["row_id"].isin(images)]
    if len(rows):
        name, part = _plan_and_part(state / f"plan-{plan}.json", plan, rows)
        yield Use(run, name, rounds, part, images is not None, model)


def _plan_and_part(path: Path, plan: str, rows: pd.DataFrame) -> tuple[str, str]:
    if not path.is_file():
        return plan, UNKNOWN
    kept = read_plan(path)
    parts = assign_split(rows["patient_key"], kept.split, rows["split_official"])
    return kept.id, str(parts.iloc[0])


def _rows_of(site_folder: Path, key: str) -> pd.DataFrame:
    manifest = read_manifest(site_folder)
    return manifest[(manifest["patient_key"] == key).fillna(False)]


def _snapshots(site_folder: Path) -> Iterator[tuple[str, set[str]]]:
    """Yield what a session calls each snapshot, and the images in it."""
    for path in (site_folder / "cache").glob(f"*/{SNAPSHOT_FILE}"):
        images = _images_in(path.parent)
        if images is not None:
            yield joint_hash([json.loads(path.read_bytes())["hash"]]), images


def _images_in(folder: Path) -> set[str] | None:
    """Return the rows of a finished cache; None for one that is not."""
    if not (folder / SNAPSHOT_FILE).is_file():
        return None
    try:
        return set(pd.read_parquet(folder / INDEX_FILE, columns=["row_id"])["row_id"])
    except (OSError, ValueError, KeyError):
        return None
