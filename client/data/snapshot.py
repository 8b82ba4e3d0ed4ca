"""The finished cache: what training reads, and how it proves to be the right one.

A folder below ``cache/`` holds ``images.u16`` (uint16, little endian, C order [slot,
row, column]), ``index.parquet`` (one row per image, with its slot) and
``snapshot.json``, which is written last: where it stands, the cache is complete. Files
that could not be decoded leave a slot of zeros without an index row. A withdrawal makes
a new folder necessary; the one before stays, because a run may have pinned it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from client.data.manifest import read_manifest
from client.data.withdrawn import read_withdrawn
from common.canonical import canonical_json, sha256_hex
from common.plan import Preprocessing

IMAGES_FILE = "images.u16"
INDEX_FILE = "index.parquet"
SNAPSHOT_FILE = "snapshot.json"
SCHEMA = 4
_DIGITS = 12

INDEX_DTYPES = {
    "slot": "int64",
    "row_id": "string",
    "frame": "int64",
    "chunk": "int64",
    "original_rows": "int64",
    "original_columns": "int64",
    "row0": "int64",
    "row1": "int64",
    "column0": "int64",
    "column1": "int64",
    "flipped": "bool",
    "row_spacing_mm": "float64",
    "column_spacing_mm": "float64",
    "decoder": "string",
    "voi": "string",
    "image_sha256": "string",
    "trimmed_sha256": "string",
}
"""Columns of the index; a spacing that is not known is missing.

``row_id`` is that of the first file and ``frame`` the first frame that an image is made
of: slices of one file share its ``row_id``, the other files of a slab are not named.
``image_sha256`` is of the cached image, ``trimmed_sha256`` of the decoded one, see
`client.data.trimmed`.
"""


class CacheError(RuntimeError):
    """A cache that cannot be made or trusted; the text says what to do."""


class NothingToPrepareError(CacheError):
    """None of the files found gives an image; the text says why, code by code."""


class Snapshot:
    """Prepared images of one site, read by position.

    Attributes
    ----------
    hash : identity of content and preprocessing, 64 hexadecimal digits
    rows : manifest rows of the cached images, in the order of the memory map; position
        in this table is what `read` takes. Slices of one file repeat its row
    beside : manifest rows of the same breasts that are not cached, whatever the reason
    index : crop, spacing and provenance, row by row as `rows`
    facts : content of ``snapshot.json``
    """

    def __init__(
        self,
        folder: Path,
        facts: dict[str, Any],
        rows: pd.DataFrame,
        beside: pd.DataFrame,
        index: pd.DataFrame,
    ) -> None:
        self.folder, self.facts, self.index = folder, facts, index
        self.rows, self.beside = rows, beside
        self.hash: str = facts["hash"]
        self._slots = index["slot"].to_numpy(dtype=np.int64)
        self._chunk_size = int(facts["chunk_size"])
        self._verified: set[int] = set()
        preprocessing = facts["preprocessing"]
        self._shape = (facts["slots"], preprocessing["rows"], preprocessing["columns"])
        self._images: np.ndarray | None = None

    @property
    def recipe(self) -> str:
        """Hash of the preprocessing alone, 12 digits: the same at every site."""
        return str(self.facts["preprocessing_sha256"])[:_DIGITS]

    def __len__(self) -> int:
        """Count the images."""
        return len(self._slots)

    def read(self, indices: np.ndarray) -> np.ndarray:
        """Copy images out of the memory map.

        Parameters
        ----------
        indices : int64, shape (images,), positions in `rows`; in any order

        Returns
        -------
        uint16, shape (images, rows, columns)

        Raises
        ------
        CacheError
            If a chunk that is read for the first time does not match its checksum.
        IndexError
            If a position is not in `rows`.
        """
        slots = self._slots[np.asarray(indices, dtype=np.int64)]
        images = self._map()
        for chunk in np.unique(slots // self._chunk_size):
            if int(chunk) not in self._verified:
                self._verify(images, int(chunk))
        return np.asarray(images[slots], dtype=np.uint16)

    def verify(self) -> None:
        """Compare every chunk with its checksum, also those that were read before.

        Raises
        ------
        CacheError
            At the first chunk that does not match.
        """
        for chunk in range(len(self.facts["chunks"])):
            self._verify(self._map(), chunk)

    def _map(self) -> np.ndarray:
        if self._images is None:
            self._images = np.memmap(
                self.folder / IMAGES_FILE, dtype="<u2", mode="r", shape=self._shape
            )
        return self._images

    def _verify(self, images: np.ndarray, chunk: int) -> None:
        first = chunk * self._chunk_size
        content = np.ascontiguousarray(images[first : first + self._chunk_size])
        if hashlib.sha256(content.data).hexdigest() != self.facts["chunks"][chunk]:
            raise CacheError(
                f"Chunk {chunk} of {self.folder / IMAGES_FILE} does not match its "
                f"checksum: the file is damaged. {_remedy(self.folder)}"
            )
        self._verified.add(chunk)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the memory map behind: every process opens its own."""
        return self.__dict__ | {"_images": None}


def preprocessing_facts(preprocessing: Preprocessing) -> dict[str, Any]:
    """Return the fields of the plan's preprocessing as plain JSON data."""
    facts: dict[str, Any] = json.loads(canonical_json(asdict(preprocessing)))
    return facts


def cache_folder(site_folder: Path, preprocessing: Preprocessing) -> Path:
    """Name the folder of one preprocessing: the first 12 digits of its hash.

    Where patients have withdrawn, 8 digits of the hash of their pseudonyms follow.
    """
    digest = sha256_hex(canonical_json(preprocessing_facts(preprocessing)))
    name = digest[:_DIGITS]
    if withdrawn := read_withdrawn(site_folder):
        name += f"-{sha256_hex(canonical_json(withdrawn))[:8]}"
    return site_folder / "cache" / name


def joint_hash(hashes: Iterable[str]) -> str:
    """Identify several snapshots together; what a site tells at the handshake."""
    return sha256_hex("".join(hashes).encode())


def index_digest(index: pd.DataFrame) -> str:
    """Hash the content of an index, whatever version wrote its file."""
    columns = {
        name: [None if pd.isna(value) else value for value in index[name].tolist()]
        for name in INDEX_DTYPES
    }
    return sha256_hex(canonical_json(columns))


def open_snapshot(site_folder: Path, preprocessing: Preprocessing) -> Snapshot:
    """Open a finished cache and verify its index; pixels are verified when first read.

    Raises
    ------
    CacheError
        If there is none, or if index, memory map and manifest do not belong together.
    """
    folder = cache_folder(site_folder, preprocessing)
    path = folder / SNAPSHOT_FILE
    if not path.is_file():
        raise CacheError(
            f"No prepared images in {folder} for this preprocessing "
            f"({_describe(preprocessing)}). Run prepare for this site first."
        )
    facts = _read_facts(path)
    if facts.get("preprocessing") != preprocessing_facts(preprocessing):
        raise CacheError(f"{path} is of another preprocessing. {_remedy(folder)}")
    index = _read_index(folder, facts)
    expected = 2 * facts["slots"] * preprocessing.rows * preprocessing.columns
    images = folder / IMAGES_FILE
    if not images.is_file() or images.stat().st_size != expected:
        raise CacheError(f"{images} does not have {expected} bytes. {_remedy(folder)}")
    rows, beside = _rows(site_folder, folder, index)
    return Snapshot(folder, facts, rows, beside, index)


def _read_facts(path: Path) -> dict[str, Any]:
    try:
        facts = json.loads(path.read_bytes())
        if facts["schema"] == SCHEMA:
            return dict(facts)
    except (ValueError, KeyError, TypeError):
        pass
    raise CacheError(
        f"{path} is no snapshot of schema {SCHEMA}. {_remedy(path.parent)}"
    )


def _read_index(folder: Path, facts: dict[str, Any]) -> pd.DataFrame:
    path = folder / INDEX_FILE
    if not path.is_file():
        raise CacheError(f"{path} is missing. {_remedy(folder)}")
    try:
        index = pd.read_parquet(path).astype(INDEX_DTYPES)
        digest = index_digest(index)
    except (OSError, ValueError, KeyError):
        digest = "unreadable"
    if digest != facts.get("index_sha256"):
        raise CacheError(f"{path} does not match {SNAPSHOT_FILE}. {_remedy(folder)}")
    return index


def _rows(
    site_folder: Path, folder: Path, index: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame]:
    manifest = read_manifest(site_folder).set_index("row_id", drop=False)
    wanted = index["row_id"]
    if not wanted.isin(manifest["row_id"]).all():
        raise CacheError(
            f"{folder} holds images that are not in the manifest: the archive was "
            f"imported again since. {_remedy(folder)}"
        )
    rows = manifest.loc[wanted].reset_index(drop=True)
    if (rows["reason"] == "X_WITHDRAWN").fillna(False).any():
        raise CacheError(
            f"{folder} holds patients who have withdrawn. Restore withdrawn.json from "
            "your backup, then run prepare."
        )
    breasts = rows["breast_key"].dropna()
    others = manifest["breast_key"].isin(breasts) & ~manifest["row_id"].isin(wanted)
    return rows, manifest[others].reset_index(drop=True)


def _describe(preprocessing: Preprocessing) -> str:
    return (
        f"{preprocessing.rows} x {preprocessing.columns}, crop {preprocessing.crop}, "
        f"VOI {preprocessing.voi}"
    )


def _remedy(folder: Path) -> str:
    return f"Delete {folder} and run prepare again."
