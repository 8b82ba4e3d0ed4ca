"""The manifest: one pseudonymous row of facts per image; and its private linkage.

The manifest is what training reads. The linkage leads back to files and original UIDs,
has mode 0600 and never leaves the preparation host. Both are ordered by ``row_id``.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from client.data.codes import REASONS
from client.data.withdrawn import read_withdrawn
from common.atomic import write_atomic

NEW_FOLDER = (
    "It needs a new folder: copy secret.key and, if there is one, withdrawn.json into "
    "it first. With them patients keep their pseudonyms, and those who have withdrawn "
    "stay out."
)
"""What to tell whoever has to import an archive again."""

MANIFEST_FILE = "manifest.parquet"
LINKAGE_FILE = "linkage.parquet"


class ManifestError(ValueError):
    """A manifest that breaks its contract; the text names field and row."""


@dataclass(frozen=True)
class Field:
    """One column: its dtype, and what it may hold besides missing values.

    ``required`` columns have no missing value. Texts are checked against `allowed`
    or the whole-match `pattern`, numbers against `low` and `high` (inclusive).
    """

    dtype: str = "string"
    allowed: tuple[str, ...] = ()
    pattern: str = ""
    low: int = 0
    high: int = 0
    required: bool = False

    def holds(self, value: object) -> bool:
        """Tell whether one value, not missing, may stand in the column."""
        if self.allowed:
            return value in self.allowed
        if self.pattern:
            return isinstance(value, str) and bool(re.fullmatch(self.pattern, value))
        return isinstance(value, int) and self.low <= value <= self.high


_KEY = r"[0-9a-f]{32}"
SLUG = r"[a-z][a-z0-9_]*"
_TEXT = r"[a-z0-9][a-z0-9_.+-]*"

FIELDS: dict[str, Field] = {
    "row_id": Field(pattern=_KEY, required=True),
    "dataset": Field(pattern=SLUG, required=True),
    "site": Field(pattern=SLUG, required=True),
    "patient_key": Field(pattern=_KEY),
    "exam_key": Field(pattern=_KEY),
    "breast_key": Field(pattern=_KEY),
    "exam_order": Field("Int64", low=0, high=10_000),
    "laterality": Field(allowed=("L", "R")),
    "view": Field(
        allowed=("CC", "MLO", "ML", "LM", "LMO", "AT", "XCCL", "FB", "OTHER")
    ),
    "modality_kind": Field(allowed=("FFDM", "SFM", "SYNTH2D", "DBT", "CESM_LE")),
    "intent": Field(allowed=("presentation", "processing", "unknown")),
    "cancer_pathology": Field("Int64", low=0, high=1),
    "pathology_class": Field(
        allowed=("malignant", "high_risk", "benign", "benign_no_callback", "normal")
    ),
    "birads": Field("Int64", low=0, high=6),
    "birads_sub": Field(allowed=("4a", "4b", "4c")),
    "density": Field(allowed=("A", "B", "C", "D")),
    "label_level": Field(allowed=("lesion", "image", "breast", "exam", "patient")),
    "label_source": Field(
        allowed=("pathology", "registry", "radiologist", "dataset", "assumed")
    ),
    "split_official": Field(allowed=("train", "test")),
    "age_years": Field("Int64", low=0, high=89),
    "implant": Field("Int64", low=0, high=1),
    "vendor": Field(pattern=_TEXT),
    "model": Field(pattern=_TEXT),
    "machine": Field(pattern=_TEXT),
    "bits_stored": Field("Int64", low=1, high=32),
    "photometric": Field(allowed=("MONOCHROME1", "MONOCHROME2")),
    "voi_applied": Field(allowed=("lut", "sigmoid", "linear", "linear_exact", "range")),
    "frames": Field("Int64", low=1, high=10_000),
    "volume_key": Field(pattern=_KEY),
    "slice_order": Field("Int64", low=0, high=1_000_000),
    "repeat": Field("Int64", low=0, high=1_000_000),
    "status": Field(allowed=("ok", "excluded", "quarantined"), required=True),
    "reason": Field(pattern=r"[XQ]_[A-Z0-9_]+|W_[A-Z]+( W_[A-Z]+)*"),
}
"""Columns of the manifest in order.

``voi_applied`` is what the policy ``first`` finds in the header; a cache that was made
with another policy says so in its index. ``frames`` is what the header declares.
``volume_key`` tells usable tomosynthesis volumes apart; ``slice_order`` ranks a file
among the slices of its volume, and is missing where the file is the whole volume.
``repeat`` ranks the images of one breast, view and kind, 0 is the one to keep, see
`client.data.importers.repeats`; it is missing where that cannot be told.
``reason`` of a row that is ``ok`` holds its remarks (``W_``), joined by spaces.
"""

LABEL_FIELDS = ("cancer_pathology", "pathology_class", "birads", "birads_sub")
"""Fields that `label_level` and `label_source` are about."""

LINKAGE_FIELDS = (
    "row_id",
    "source_path",
    "sop_instance_uid",
    "file_sha256",
    "file_size",
    "file_mtime_ns",
    "reader",
    "stage",
    "exception_type",
    "remarks",
)
"""``source_path`` is relative to the archive and percent-encoded (see
`client.data.importers.archive.decode_path`); ``file_size`` (bytes) and
``file_mtime_ns`` tell a changed file without reading it; ``reader`` is ``dicom`` or
``raster``;
``stage`` tells where a quarantine happened and is empty otherwise; ``remarks`` are the
``W_`` codes of the import, which a preparation adds to."""


def empty_row() -> dict[str, Any]:
    """Return a row in which nothing is known yet."""
    return dict.fromkeys(FIELDS)


def manifest_frame(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Turn rows into a checked manifest, ordered by ``row_id``."""
    frame = pd.DataFrame(list(rows), columns=list(FIELDS))
    frame = _typed(frame).sort_values("row_id", ignore_index=True)
    check_manifest(frame)
    return frame


def linkage_frame(rows: Sequence[Mapping[str, str]]) -> pd.DataFrame:
    """Turn rows into a linkage, ordered by ``row_id``; missing texts are empty."""
    frame = pd.DataFrame(list(rows), columns=list(LINKAGE_FIELDS), dtype="string")
    frame = frame.fillna("")
    return frame.sort_values("row_id", ignore_index=True)


def check_manifest(manifest: pd.DataFrame) -> None:
    """Check columns, order, values, and that each status has a reason.

    Raises
    ------
    ManifestError
        Naming the first field that fails and the number of its rows.
    """
    if list(manifest.columns) != list(FIELDS):
        raise ManifestError("The columns are not those of client.data.manifest.FIELDS.")
    for name, field in FIELDS.items():
        bad = _violations(manifest[name], field)
        if bad.any():
            raise ManifestError(
                f"Field {name}: {int(bad.sum())} rows break the rule {field}; the "
                f"first is row {int(bad.to_numpy().argmax())}."
            )
    _check_rows(manifest)


def write_manifest(folder: Path, manifest: pd.DataFrame, linkage: pd.DataFrame) -> None:
    """Write both tables; each file is whole or absent, the manifest comes last.

    Raises
    ------
    ManifestError
        If the manifest fails its check or the two have other rows.
    """
    check_manifest(manifest)
    if list(manifest["row_id"]) != list(linkage["row_id"]):
        raise ManifestError("Manifest and linkage do not hold the same rows.")
    write_atomic(folder / LINKAGE_FILE, parquet_bytes(linkage), mode=0o600)
    write_atomic(folder / MANIFEST_FILE, parquet_bytes(manifest), mode=0o600)


def read_manifest(folder: Path) -> pd.DataFrame:
    """Read the manifest of a site folder, with the dtypes of `FIELDS`.

    Every row of a patient who has withdrawn is excluded with ``X_WITHDRAWN``, whatever
    the file says: so the next preparation, check and list leave the patient out.

    Raises
    ------
    ManifestError
        If there is none, it cannot be read or was written by another version.
    WithdrawnError
        If the list of withdrawn patients is damaged.
    """
    manifest = _read(folder / MANIFEST_FILE)
    if list(manifest.columns) != list(FIELDS):
        raise ManifestError(
            f"{folder / MANIFEST_FILE} has other columns than this version writes. "
            f"Import the archive again. {NEW_FOLDER}"
        )
    manifest = _typed(manifest)
    gone = manifest["patient_key"].isin(read_withdrawn(folder))
    manifest = manifest.assign(
        status=manifest["status"].mask(gone, "excluded"),
        reason=manifest["reason"].mask(gone, "X_WITHDRAWN"),
    )
    check_manifest(manifest)
    return manifest


def read_linkage(folder: Path) -> pd.DataFrame:
    """Read the linkage of a site folder; stays on the preparation host."""
    linkage = _read(folder / LINKAGE_FILE)
    return linkage.reindex(columns=list(LINKAGE_FIELDS), fill_value="").astype("string")


def parquet_bytes(frame: pd.DataFrame) -> bytes:
    """Encode a table; equal tables give equal bytes with one version of pyarrow."""
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False)
    return buffer.getvalue()


def _read(path: Path) -> pd.DataFrame:
    try:
        with path.open("rb") as stream:
            return pd.read_parquet(stream)
    except (FileNotFoundError, NotADirectoryError):
        told = f"No {path.name} in {path.parent}. Import the archive first."
    except PermissionError:
        told = (
            f"You may not read {path}. Work as the user who imported the archive, or "
            "change the permissions of the file and its folder."
        )
    except (OSError, ValueError):  # the table library's errors are some of these
        told = (
            f"{path} is damaged or cannot be read. Restore it from your backup, or "
            f"import the archive again. {NEW_FOLDER}"
        )
    raise ManifestError(told)


def _typed(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.astype({name: field.dtype for name, field in FIELDS.items()})


def _violations(column: pd.Series[Any], field: Field) -> pd.Series[bool]:
    missing = column.isna()
    if field.allowed:
        fine = column.isin(field.allowed)
    elif field.pattern:
        fine = column.str.fullmatch(re.compile(field.pattern)).fillna(False)
    else:
        fine = column.between(field.low, field.high).fillna(False)
    bad: pd.Series[bool] = ~fine.astype(bool) & ~missing
    return (bad | missing) if field.required else bad


def _check_rows(manifest: pd.DataFrame) -> None:
    ids = manifest["row_id"]
    if not (ids.is_unique and ids.is_monotonic_increasing):
        raise ManifestError("Field row_id: rows must be unique and in ascending order.")
    prefix = {"ok": "W_", "excluded": "X_", "quarantined": "Q_"}
    pairs = manifest[["status", "reason"]].drop_duplicates()
    for status, reason in pairs.itertuples(index=False):
        if pd.isna(reason) and status == "ok":
            continue
        codes = [] if pd.isna(reason) else str(reason).split()
        if not codes or any(
            code not in REASONS or not code.startswith(prefix[status]) for code in codes
        ):
            raise ManifestError(f"Field reason: {reason} does not fit status {status}.")
