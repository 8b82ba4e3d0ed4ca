"""What a preparation has to do: which files, which pictures, which chunks."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from client.data.codes import REASONS
from client.data.importers.files import decode_path
from client.data.manifest import read_linkage, read_manifest
from client.data.slots import Slot, plan_slots
from client.data.snapshot import NothingToPrepareError, cache_folder
from common.canonical import canonical_json, sha256_hex
from common.plan import Preprocessing

_CHUNK_BYTES = 16 * 1024**2
_CHUNK_IMAGES = 64
_TASK_FIELDS = {
    "row_id": "row_id",
    "source_path": "source",
    "file_sha256": "sha256",
    "file_size": "size",
    "file_mtime_ns": "mtime_ns",
    "reader": "reader",
    "bits_stored": "bits",
    "photometric": "photometric",
}


@dataclass(frozen=True)
class Job:
    """What has to be prepared: pictures of ``files`` fill the slots in order."""

    folder: Path
    preprocessing: Preprocessing
    files: list[dict[str, Any]]
    slots: list[Slot]

    @property
    def digest(self) -> str:
        files = [[file["row_id"], file["sha256"]] for file in self.files]
        slots = [[slot.files, slot.frames] for slot in self.slots]
        return sha256_hex(canonical_json({"files": files, "slots": slots}))

    @property
    def unfinished(self) -> Path:
        return self.folder / "unfinished"

    @property
    def image_bytes(self) -> int:
        return 2 * self.preprocessing.rows * self.preprocessing.columns

    @property
    def chunk_size(self) -> int:
        """Return a power of two, so that chunks of several sizes share borders."""
        fitting = max(1, min(_CHUNK_IMAGES, _CHUNK_BYTES // self.image_bytes))
        return 1 << (fitting.bit_length() - 1)

    @property
    def chunks(self) -> int:
        return -(-len(self.slots) // self.chunk_size)

    def chunk(self, number: int) -> list[Slot]:
        first = number * self.chunk_size
        return self.slots[first : first + self.chunk_size]

    def chunks_of(self, block: int, size: int) -> range:
        """Number the chunks that lie in a block of so many slots."""
        first, stop = block * size, min((block + 1) * size, len(self.slots))
        return range(first // self.chunk_size, -(-stop // self.chunk_size))

    def record(self, number: int) -> Path:
        return self.unfinished / f"{number:06d}.json"

    def task(self, block: int, size: int, archive_root: Path) -> dict[str, Any]:
        """Describe a block of slots for `client.data.prepare_worker`."""
        chosen = self.slots[block * size : (block + 1) * size]
        used = sorted({file for slot in chosen for file in slot.files})
        place = {file: position for position, file in enumerate(used)}
        files = [
            file | {"path": str(archive_root / decode_path(file["source"]))}
            for file in map(self.files.__getitem__, used)
        ]
        slots = [
            {"files": [place[file] for file in slot.files], "frames": slot.frames}
            for slot in chosen
        ]
        return {"offset": block * size, "files": files, "slots": slots}


def plan_job(site_folder: Path, preprocessing: Preprocessing) -> Job:
    """List what the import accepted, also what a preparation had to quarantine since.

    So the list, and with it every byte of the cache, depends on the import alone.
    """
    manifest, linkage = read_manifest(site_folder), read_linkage(site_folder)
    rows = manifest.merge(linkage, on="row_id", validate="one_to_one")
    # By what the import said: a kill may leave the manifest behind the linkage.
    accepted = ~rows["stage"].str.startswith("import:")
    accepted &= rows["status"] != "excluded"  # withdrawn since
    wanted = rows["modality_kind"].isin(preprocessing.modalities)
    if preprocessing.repeats == "best":
        wanted &= (rows["repeat"].fillna(0) == 0).astype(bool)
    chosen = rows[accepted.fillna(False).astype(bool) & wanted]
    if chosen.empty:
        raise NothingToPrepareError(_nothing_to_do(manifest, preprocessing))
    tasks = chosen[list(_TASK_FIELDS)].rename(columns=_TASK_FIELDS)
    files = json.loads(tasks.to_json(orient="records"))
    slots = plan_slots(chosen, preprocessing)
    return Job(cache_folder(site_folder, preprocessing), preprocessing, files, slots)


def _nothing_to_do(manifest: pd.DataFrame, preprocessing: Preprocessing) -> str:
    ready = manifest.loc[manifest["status"] == "ok", "modality_kind"].value_counts()
    if len(ready):
        return (
            "No image is of a kind that the plan wants "
            f"({', '.join(preprocessing.modalities)}); the site holds: "
            f"{counted(ready)}. Change preprocessing.modalities."
        )
    counts = manifest["reason"].value_counts()
    meaning = "".join(f"\n  {code}: {REASONS[code]}" for code in counts.index)
    return f"No image to prepare: {len(manifest)} files found.{meaning}"


def counted(counts: pd.Series) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())
