"""What an imported archive is good for: a verdict per image, a remedy per problem.

Headers alone cannot tell: the check decodes every image once, small, into a cache of
its own. It is resumable and contained like any preparation, see `client.data.cache`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from client.data.cache import Progress, prepare
from client.data.codes import REASONS, REMEDIES
from client.data.manifest import LABEL_FIELDS, read_manifest
from client.data.snapshot import NothingToPrepareError, Snapshot
from common.plan import Preprocessing

CHECKED = Preprocessing(
    modalities=("FFDM", "SFM", "SYNTH2D", "DBT", "CESM_LE"), rows=256, columns=128
)
"""How images are prepared to be looked at."""

MINIMUM_CLASS = 10
"""Patients of a class below which no interval is given, see `common.statistics`."""

Severity = Literal["error", "warning", "note"]
STATUSES = ("cached", "excluded", "quarantined")


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
    progress: Progress | None = None,
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
    found = [*_coded(manifest), *_raw_alone(manifest)]
    if snapshot is not None:
        manifest = manifest.assign(status=_status(manifest, snapshot))
        rows = snapshot.rows.reset_index(drop=True)
        index = snapshot.index.reset_index(drop=True).drop(columns="row_id")
        found += _looked_at(rows.join(index))
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


def _raw_alone(manifest: pd.DataFrame) -> Iterator[Problem]:
    """Find raw images whose processed twin, which training wants, is not there."""
    used = manifest[(manifest["status"] == "ok") & (manifest["modality_kind"] != "DBT")]
    have = set(zip(used["breast_key"], used["view"], strict=True))
    raw = manifest[manifest["reason"] == "X_PROCESSING"]
    alone = [
        pair not in have for pair in zip(raw["breast_key"], raw["view"], strict=True)
    ]
    problem = _problem(
        "raw_alone",
        "warning",
        raw[np.asarray(alone, dtype=bool)],
        "only the raw image for processing is there, which is not used",
        "Export the images for presentation too: raw ones look different at every "
        "vendor.",
    )
    if problem is not None:
        yield problem


def _looked_at(images: pd.DataFrame) -> Iterator[Problem]:
    """Apply every rule to the usable images; ``images`` has manifest and index."""
    for rule in _RULES:
        problem = rule(images)
        if problem is not None:
            yield problem


def _side_against_pixels(images: pd.DataFrame) -> Problem | None:
    """Compare the side with where the chest wall is: left of a left breast."""
    known = images["laterality"].notna()
    wrong = images[known & (images["flipped"] != (images["laterality"] == "R"))]
    return _problem(
        "side_against_pixels",
        "warning",
        wrong,
        "the chest wall is not where it belongs for the recorded side",
        "Look at them below. If all images of a machine are concerned, its export "
        "mirrors; if single ones, correct the side in the label table.",
    )


def _same_pixels(images: pd.DataFrame) -> Problem | None:
    return _problem(
        "same_pixels",
        "warning",
        images[images["image_sha256"].duplicated(keep=False)],
        "identical after cropping to another image with another SOP instance UID",
        "Copies of one patient do no harm beyond their weight. Remove them if their "
        "labels differ.",
    )


def _same_pixels_of_two_patients(images: pd.DataFrame) -> Problem | None:
    patients = images.groupby("image_sha256")["patient_key"].transform("nunique")
    return _problem(
        "same_pixels_of_two_patients",
        "error",
        images[patients > 1],
        "identical pixels that belong to several patients",
        "A split by patient leaks here. Find which patient is right and exclude the "
        "others.",
    )


def _patient_in_two_splits(images: pd.DataFrame) -> Problem | None:
    parts = images.groupby("patient_key")["split_official"].transform("nunique")
    return _problem(
        "patient_in_two_splits",
        "error",
        images[parts > 1],
        "the patient is in the official training and test part",
        "Use the split of the plan (split.official: false), or repair the table.",
    )


def _missing_view(images: pd.DataFrame) -> Problem | None:
    """Find breasts of an exam that lack one of the two standard views."""
    known = images[images["breast_key"].notna()]
    views = known.groupby("breast_key")["view"].agg(list)
    lacking = views.index[[not {"CC", "MLO"} <= set(found) for found in views]]
    return _problem(
        "missing_view",
        "note",
        known[known["breast_key"].isin(lacking)],
        "the breast has no CC, or no MLO, in this exam",
        "Fine for training. If there are many, the export may be incomplete.",
    )


def _implant(images: pd.DataFrame) -> Problem | None:
    return _problem(
        "implant",
        "note",
        images[(images["implant"] == 1).fillna(False)],
        "an implant is declared",
        "They stay in. Exclude them in the label table if the plan does not want them.",
    )


def _unknown_vendor(images: pd.DataFrame) -> Problem | None:
    known = images["vendor"].notna() & (images["vendor"] != "other")
    return _problem(
        "unknown_vendor",
        "note",
        images[~known],
        "the manufacturer is missing or none that we know",
        "Domains by vendor cannot be told apart here; nothing else depends on it.",
    )


def _no_label(images: pd.DataFrame) -> Problem | None:
    return _problem(
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


def _problem(
    code: str, severity: Severity, images: pd.DataFrame, what: str, remedy: str
) -> Problem | None:
    if images.empty:
        return None
    rows = tuple(map(str, images["row_id"]))
    return Problem(code, severity, rows, len(rows), what, remedy)


_RULES: Sequence[Callable[[pd.DataFrame], Problem | None]] = (
    _same_pixels_of_two_patients,
    _patient_in_two_splits,
    _side_against_pixels,
    _same_pixels,
    _no_label,
    _small_class,
    _missing_view,
    _implant,
    _unknown_vendor,
)
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
