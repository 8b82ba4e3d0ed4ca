"""A finished model scores new DICOM files, for the hospital's own eyes.

The files go the way of an archive: import, preparation as the model wants it, decoders
in workers. All of that happens in a folder that is deleted afterwards. What remains is
a table of scores, see `client.score_table`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from pydantic import TypeAdapter
from torch import nn

from client.approval import last_approved
from client.data.cache import Progress
from client.data.dataset import Loader, SiteDataset, in_order
from client.data.norm_domains import NormDomains, vendor_names
from client.data.pseudonyms import stored_secret
from client.data.site_data import import_site, prepare_site
from client.data.snapshot import NothingToPrepareError, Snapshot
from client.data.withdrawn import read_withdrawn, write_withdrawn
from client.evaluation import predict
from client.model_folder import (
    ModelInfo,
    norm_domains_of,
    preprocessing_of,
    read_model_folder,
)
from common.checkpoint import CheckpointError
from common.contract import tensor_hash
from common.lock import locked
from common.plan import Model, Preprocessing

_INFO = "model.json"
_BATCH = 8
"""Images at a time: decoding takes longer, and large images of a large network fit."""


class PredictionError(RuntimeError):
    """Nothing can be scored; the text says why and what to do, and names nobody."""


@dataclass(frozen=True)
class Finished:
    """A model that is ready to score.

    Attributes
    ----------
    model : on `device`, in evaluation mode
    preprocessing : how images must be prepared for it
    hash : of its tensors, as its model card gives it
    domains : which of its norms an image goes through; None where all share one
    """

    folder: Path
    model: nn.Module
    device: torch.device
    info: ModelInfo
    preprocessing: Preprocessing
    hash: str
    domains: NormDomains | None = None

    def fits(self, rows: pd.DataFrame) -> np.ndarray:
        """Tell for each manifest row whether the model has norms for it, bool [row].

        It has none of its own for a vendor whose few images at the site went with those
        of another one.
        """
        if self.domains is None:
            return np.ones(len(rows), dtype=bool)
        return np.isin(vendor_names(rows), self.domains.learnt)

    def threshold(self, site: str) -> float | None:
        """Return the operating point by breast: a site's, else that of its origin."""
        if self.info.unit != "breast":
            return None
        points = self.info.thresholds
        return points.get(site, points.get(self.info.site))


def choose_model(state_folder: Path) -> Path:
    """Choose among the models that a site kept.

    One of the plan that was approved last comes before any other, then a selected one
    before the last of a run, then the newest.

    Raises
    ------
    PredictionError
        If there is none.
    """
    models = state_folder / "models"
    found = [path.parent for path in models.glob(f"*/*/{_INFO}")]
    if not found:
        raise PredictionError(
            f"No finished model in {models}: a site keeps one when a run ends. Name "
            "the folder of another one with --model."
        )
    approved = last_approved(state_folder)

    def rank(folder: Path) -> tuple[bool, bool, int]:
        info = _info(folder)
        agreed = approved is not None and info.plan_hash == approved.hash
        written = (folder / _INFO).stat().st_mtime_ns
        return agreed, info.role == "selected", written

    return max(found, key=rank)


def load_model(folder: Path, device: torch.device) -> Finished:
    """Load a model as an evaluation holds it, so that it gives the same scores.

    Raises
    ------
    PredictionError
        If the folder holds none, or a damaged one.
    """
    info = _info(folder)
    try:
        model, _ = read_model_folder(folder)
        wanted, domains = preprocessing_of(info), norm_domains_of(model, info)
    except (CheckpointError, ValueError, TypeError) as error:
        raise _damaged(folder, error) from None
    state = model.state_dict()
    model.to(device).to(memory_format=torch.channels_last)
    content_hash = tensor_hash(state, state)
    return Finished(folder, model, device, info, wanted, content_hash, domains)


def device_of(setting: str, threads: int | None) -> torch.device:
    """Return the device of a site's settings; torch keeps to its threads from now on.

    Parameters
    ----------
    setting : ``auto``, ``cpu`` or ``cuda``
    threads : None leaves them as they are

    Raises
    ------
    PredictionError
        If it wants a GPU and there is none.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    there = torch.cuda.is_available()
    if setting == "cuda" and not there:
        raise PredictionError(
            "The site's settings say device: cuda, but torch finds no GPU. Write auto "
            "there, or cpu."
        )
    return torch.device("cuda" if there and setting != "cpu" else "cpu")


@contextmanager
def lent_folder(state_folder: Path, root: Path) -> Iterator[Path]:
    """Lend a folder for data, mode 0700; however the block ends, it is deleted.

    It lies on the disk of the site's state, which is the site's own. What a killed
    process left there is deleted first.

    Raises
    ------
    FolderBusyError
        If another process is scoring.
    PredictionError
        If it would lie among the files that are scored.
    """
    place = state_folder / "predict"
    if place.resolve().is_relative_to(root.resolve()):
        raise PredictionError(
            f"{state_folder}, where the site keeps its state, lies among the files "
            "that are to be scored. Name the folder that holds only them."
        )
    with locked(place):
        folder = place / "site"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700)
        try:
            yield folder
        finally:
            shutil.rmtree(folder)


def import_new(
    root: Path,
    folder: Path,
    site: str,
    site_folder: Path,
    *,
    film: bool,
    workers: int,
    progress: Progress,
) -> None:
    """Read the headers of all files below ``root``, without any label table.

    Parameters
    ----------
    folder : empty; gets manifest and linkage
    site_folder : of the site itself; patients who have withdrawn there are left out
    film : the files are digitised film

    Raises
    ------
    ImporterError
        If there is no file.
    """
    gone = read_withdrawn(site_folder)
    secret = stored_secret(site_folder) if gone else None  # the same pseudonyms
    write_withdrawn(folder, gone)
    import_site(
        "hospital",
        root,
        folder,
        site,
        {"film": film},
        secret=secret,
        workers=workers,
        progress=progress,
    )


def prepare_new(
    root: Path,
    folder: Path,
    wanted: Preprocessing,
    *,
    workers: int,
    progress: Progress,
) -> Snapshot | None:
    """Prepare what was imported as a model wants it; None where it reads no file."""
    try:
        return prepare_site(folder, root, wanted, workers=workers, progress=progress)
    except NothingToPrepareError:
        return None


def left_out(manifest: pd.DataFrame, finished: Finished) -> list[str]:
    """Tell, kind by kind, which readable images a model is not for."""
    said, wanted = [], finished.preprocessing
    reads = " and ".join(wanted.modalities)
    usable = manifest[manifest["status"] == "ok"]
    fitting = usable["modality_kind"].isin(wanted.modalities)
    kinds = usable.loc[~fitting, "modality_kind"].value_counts()
    for kind, count in sorted(kinds.items()):
        said.append(f"{count} files are {kind}: not scored, the model reads {reads}.")
    if raw := int((manifest["reason"] == "X_PROCESSING").sum()):
        said.append(
            f"{raw} files are raw, for processing: not scored, the model reads images "
            "for presentation. Export those."
        )
    again = (usable.loc[fitting, "repeat"].fillna(0) > 0).sum()
    if wanted.repeats == "best" and again:
        said.append(f"{again} files repeat a view: not scored, the model reads one.")
    strange = usable[fitting.to_numpy() & ~finished.fits(usable)]
    if len(strange) and finished.domains:
        learnt = ", ".join(finished.domains.learnt)
        for vendor, count in zip(
            *np.unique(vendor_names(strange), return_counts=True), strict=True
        ):
            said.append(
                f"{count} files are of vendor {vendor}: not scored, the model has "
                f"BatchNorm statistics of {learnt}."
            )
    return said


def score_new(
    finished: Finished, snapshot: Snapshot, progress: Progress
) -> pd.DataFrame:
    """Score every prepared image that the model has norms for.

    Returns
    -------
    Manifest rows of the images, and ``score``: float64, a probability.
    """
    places = np.flatnonzero(finished.fits(snapshot.rows))
    rows = snapshot.rows.iloc[places].assign(
        target=pd.array([pd.NA] * len(places), "Int8"), source=0, position=places
    )
    spec = TypeAdapter(Model).validate_python(finished.info.model)
    dataset = SiteDataset({finished.info.site: snapshot}, rows)
    loader = Loader(
        dataset,
        finished.device,
        spec.mean,
        spec.scale,
        spec.channels,
        finished.domains,
    )
    scores = np.empty(len(rows))
    progress(0, len(rows))
    for batch in in_order(np.arange(len(rows)), _BATCH):
        scores[batch] = predict(finished.model, loader, batch, _BATCH)
        progress(int(batch[-1]) + 1, len(rows))
    return rows.assign(score=scores)


def _info(folder: Path) -> ModelInfo:
    path = folder / _INFO
    if not path.is_file():
        raise PredictionError(
            f"No finished model in {folder}: it has no {_INFO}. Name a folder such as "
            "models/PLAN/ROUND."
        )
    try:
        return ModelInfo(**json.loads(path.read_bytes()))
    except (ValueError, TypeError) as error:
        raise _damaged(folder, error) from None


def _damaged(folder: Path, error: Exception) -> PredictionError:
    return PredictionError(
        f"The model in {folder} cannot be used ({type(error).__name__}): it is damaged "
        "or of another version. Restore it, or name another one with --model."
    )
