"""What an imported archive is good for: a verdict per image, a remedy per problem.

Headers alone cannot tell: the check decodes every image once, small, into a cache of
its own. It is resumable and contained like any preparation, see `client.data.cache`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from client.data.cache import Progress, prepare
from client.data.check_classes import class_problems
from client.data.check_marks import marked
from client.data.check_rules import Problem, Severity, make_problem, problems_of
from client.data.codes import NOTES, REASONS, REMEDIES
from client.data.manifest import LABEL_FIELDS, read_manifest
from client.data.site_data import import_notes
from client.data.snapshot import NothingToPrepareError, Snapshot
from common.plan import Preprocessing

CHECKED = Preprocessing(
    modalities=("FFDM", "SFM", "SYNTH2D", "DBT", "CESM_LE"), rows=256, columns=128
)
"""How images are prepared to be looked at."""


@dataclass(frozen=True)
class Check:
    """The result for one site.

    Attributes
    ----------
    manifest : every file found, with the status that this check gives it
    snapshot : the images that are usable, 256 x 128; None if there is none
    problems : worst first
    """

    manifest: pd.DataFrame
    snapshot: Snapshot | None
    problems: tuple[Problem, ...]

    @property
    def images(self) -> pd.DataFrame:
        """Return the manifest's rows of the usable images, in the snapshot's order."""
        return self.manifest[:0] if self.snapshot is None else self.snapshot.rows

    @property
    def obstacle(self) -> Problem | None:
        """Return the problem for which nothing can be trained here, if there is one."""
        return next((one for one in self.problems if one.code in _OBSTACLES), None)

    @property
    def counts(self) -> dict[str, int]:
        """Count files: ``found``, and how it adds up, ``cached excluded quarantined``.

        Slices in files of their own are counted as such, though they give one image.
        """
        status = self.manifest["status"].value_counts()
        return {
            "found": len(self.manifest),
            "cached": int(status.get("ok", 0)),
            "excluded": int(status.get("excluded", 0)),
            "quarantined": int(status.get("quarantined", 0)),
        }


def check_site(
    site_folder: Path,
    archive_root: Path,
    *,
    workers: int = 1,
    progress: Progress = lambda done, total: None,
) -> Check:
    """Decode everything usable once and look for problems.

    Raises
    ------
    CacheError, WorkerError, FolderBusyError
        As `client.data.cache.prepare`, except that finding nothing is a result too.
    ManifestError
        If nothing was imported here.
    """
    snapshot = None
    with suppress(NothingToPrepareError):
        snapshot = prepare(
            site_folder, archive_root, CHECKED, workers=workers, progress=progress
        )
    manifest = read_manifest(site_folder)
    found = [*_coded(manifest), *_raw_alone(manifest), *_noted(site_folder)]
    if snapshot is not None:
        manifest = manifest.assign(status=_status(manifest, snapshot))
        rows = snapshot.rows.reset_index(drop=True)
        index = snapshot.index.reset_index(drop=True).drop(columns="row_id")
        found += problems_of(rows.join(index).assign(mark=marked(snapshot)))
        found += class_problems(rows, snapshot.beside)
    else:
        what, remedy = "no file gives an image", "See the codes below."
        found.append(Problem("no_image", "error", (), 0, what, remedy))
    rank: dict[Severity, int] = {"error": 0, "warning": 1, "note": 2}
    ordered = sorted(found, key=lambda p: (rank[p.severity], -p.count, p.code))
    return Check(manifest, snapshot, tuple(ordered))


def _status(manifest: pd.DataFrame, snapshot: Snapshot) -> pd.Series[str]:
    """Return each file's status as this check saw it, whatever came before or after."""
    usable = manifest["row_id"].isin(snapshot.rows["row_id"])
    volumes = snapshot.rows["volume_key"].dropna()  # the images are slabs: all or none
    usable |= manifest["volume_key"].isin(volumes)
    seen = manifest["status"].where(manifest["status"] == "excluded", "quarantined")
    return seen.mask(usable, "ok")


def _coded(manifest: pd.DataFrame) -> Iterator[Problem]:
    """List what import and decoding found: one problem per reason code."""
    codes = manifest.set_index("row_id")["reason"].dropna().str.split().explode()
    severity: dict[str, Severity] = {"Q": "warning", "W": "warning", "X": "note"}
    for code, rows in codes.groupby(codes):
        name = str(code)
        images = tuple(map(str, rows.index))
        kind = severity[name[0]]
        remedy = REMEDIES.get(name, "Nothing to do." if kind == "note" else _LOOK)
        yield Problem(name, kind, images, len(images), REASONS[name], remedy)


def _noted(site_folder: Path) -> Iterator[Problem]:
    """List what the import has mended, such as an official split that leaked."""
    for name, count in import_notes(site_folder).items():
        what, consequence = NOTES[name]
        remedy = "Nothing to do. Say so where you compare with published results."
        yield Problem(name, "note", (), count, f"{what}; {consequence}", remedy)


def _raw_alone(manifest: pd.DataFrame) -> Iterator[Problem]:
    """Find raw images whose processed twin, which training wants, is not there."""
    used = manifest[(manifest["status"] == "ok") & (manifest["modality_kind"] != "DBT")]
    have = set(zip(used["breast_key"], used["view"], strict=True))
    raw = manifest[manifest["reason"] == "X_PROCESSING"]
    alone = [
        pair not in have for pair in zip(raw["breast_key"], raw["view"], strict=True)
    ]
    problem = make_problem(
        "raw_alone",
        "warning",
        raw[np.asarray(alone, dtype=bool)],
        "only the raw image for processing is there, which is not used",
        "Export the images for presentation too: raw ones look different at every "
        "vendor.",
    )
    if problem is not None:
        yield problem


_OBSTACLES = ("no_image", "nothing_to_learn")

_LOOK = "Look at a few of them; `linkage` leads back to the files."

GROUPS = (
    "vendor",
    "modality_kind",
    "intent",
    "view",
    "laterality",
    "density",
    "birads",
    *LABEL_FIELDS[:2],
    "label_source",
    "split_official",
)
"""Manifest fields that pages and summaries count by."""


def counts_by_field(images: pd.DataFrame) -> dict[str, dict[str, int]]:
    """Count images by the values of each field of `GROUPS`; ``unknown`` is a value."""
    return {
        name: {
            str(value): int(count)
            for value, count in images[name]
            .astype("string")
            .fillna("unknown")
            .value_counts()
            .items()
        }
        for name in GROUPS
    }
