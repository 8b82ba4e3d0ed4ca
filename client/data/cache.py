"""Make the cache of a site: resumable, atomic, same bytes with any number of workers.

The images that the import found usable, ordered by ``row_id``, are cut into chunks of
a size that depends on the image size only. A worker fills a chunk in place and flushes
it; then its record (checksum, index entries) is written. A run that was killed keeps
the chunks whose record stands and whose bytes match. ``snapshot.json`` comes last.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from client.data.codes import REASONS
from client.data.dicom_decode import decoder_versions
from client.data.importers.archive import decode_path
from client.data.manifest import (
    parquet_bytes,
    read_linkage,
    read_manifest,
    write_manifest,
)
from client.data.snapshot import (
    IMAGES_FILE,
    INDEX_DTYPES,
    INDEX_FILE,
    SCHEMA,
    SNAPSHOT_FILE,
    CacheError,
    NothingToPrepareError,
    Snapshot,
    cache_folder,
    index_digest,
    open_snapshot,
    preprocessing_facts,
)
from client.data.workers import run_tasks
from common.atomic import sync_folder, write_atomic
from common.canonical import canonical_json, sha256_hex
from common.lock import locked
from common.plan import Preprocessing

__all__ = ["CacheError", "Progress", "Snapshot", "open_snapshot", "prepare"]

Progress = Callable[[int, int], None]
"""Called with images done and images in total."""

_CHUNK_BYTES = 16 * 1024**2
_CHUNK_IMAGES = 64
_WORKER = "client.data.prepare_worker"
_TASK_FIELDS = {
    "row_id": "row_id",
    "source_path": "source",
    "file_sha256": "sha256",
    "reader": "reader",
    "bits_stored": "bits",
    "photometric": "photometric",
}


def prepare(
    site_folder: Path,
    archive_root: Path,
    preprocessing: Preprocessing,
    *,
    workers: int = 1,
    progress: Progress | None = None,
) -> Snapshot:
    """Decode and preprocess a site's images into a memory map.

    A complete cache is opened and returned at once. Patients who have withdrawn are
    left out, in a cache next to the one that holds them. Files that fail are
    quarantined with a code in the manifest; the next preparation with another
    preprocessing tries them again.

    Parameters
    ----------
    site_folder : holds manifest and linkage; the cache goes to ``cache/`` below it
    archive_root : the archive that was imported
    preprocessing : of the plan
    workers : processes; changes no byte of the result
    progress : called at the start and after each chunk

    Raises
    ------
    NothingToPrepareError
        If nothing can be prepared.
    CacheError
        If a complete cache was made from other files.
    FolderBusyError
        If another preparation is running here.
    WorkerError
        If the workers cannot run at all.
    """
    with locked(site_folder / "cache"):
        job = _plan_job(site_folder, preprocessing)
        if not (job.folder / SNAPSHOT_FILE).is_file():
            if not archive_root.is_dir():
                raise CacheError(
                    f"No archive folder {archive_root}. Mount it, or say where it is."
                )
            _start(job)
            _fill(job, archive_root, workers, progress)
            _finish(job, site_folder)
    snapshot = open_snapshot(site_folder, preprocessing)
    if snapshot.facts["job"] != job.digest:
        raise CacheError(
            f"{job.folder} was prepared from other files than the manifest lists now. "
            f"Delete {job.folder} and run prepare again."
        )
    return snapshot


@dataclass(frozen=True)
class _Job:
    """What has to be prepared: ``files`` fill the slots of the memory map in order."""

    folder: Path
    preprocessing: Preprocessing
    files: list[dict[str, Any]]

    @property
    def digest(self) -> str:
        return sha256_hex(
            canonical_json([[f["row_id"], f["sha256"]] for f in self.files])
        )

    @property
    def unfinished(self) -> Path:
        return self.folder / "unfinished"

    @property
    def image_bytes(self) -> int:
        return 2 * self.preprocessing.rows * self.preprocessing.columns

    @property
    def chunk_size(self) -> int:
        return max(1, min(_CHUNK_IMAGES, _CHUNK_BYTES // self.image_bytes))

    @property
    def chunks(self) -> int:
        return -(-len(self.files) // self.chunk_size)

    def chunk(self, number: int) -> list[dict[str, Any]]:
        first = number * self.chunk_size
        return self.files[first : first + self.chunk_size]

    def record(self, number: int) -> Path:
        return self.unfinished / f"{number:06d}.json"


def _plan_job(site_folder: Path, preprocessing: Preprocessing) -> _Job:
    """List what the import accepted, also what a preparation had to quarantine since.

    So the list, and with it every byte of the cache, depends on the import alone.
    """
    manifest, linkage = read_manifest(site_folder), read_linkage(site_folder)
    rows = manifest.merge(linkage, on="row_id", validate="one_to_one")
    accepted = (rows["status"] == "ok") | rows["stage"].str.startswith("prepare:")
    accepted &= rows["status"] != "excluded"  # withdrawn since
    wanted = rows["modality_kind"].isin(preprocessing.modalities)
    chosen = rows.loc[accepted.fillna(False).astype(bool) & wanted, list(_TASK_FIELDS)]
    if chosen.empty:
        raise NothingToPrepareError(_nothing_to_do(manifest, preprocessing))
    tasks = chosen.rename(columns=_TASK_FIELDS).to_json(orient="records")
    files = json.loads(tasks)
    return _Job(cache_folder(site_folder, preprocessing), preprocessing, files)


def _start(job: _Job) -> None:
    """Keep what an interrupted run of the same job left, else begin anew."""
    marker = job.unfinished / "job.json"
    content = canonical_json({"job": job.digest, "versions": decoder_versions()})
    if marker.is_file() and marker.read_bytes() == content:
        return
    shutil.rmtree(job.unfinished, ignore_errors=True)
    job.unfinished.mkdir(parents=True)
    with (job.unfinished / IMAGES_FILE).open("wb") as stream:
        stream.truncate(len(job.files) * job.image_bytes)
        os.fsync(stream.fileno())
    write_atomic(marker, content)


def _fill(
    job: _Job, archive_root: Path, workers: int, progress: Progress | None
) -> None:
    report = progress or (lambda done, total: None)
    missing = [number for number in range(job.chunks) if not _is_done(job, number)]
    done = len(job.files) - sum(len(job.chunk(number)) for number in missing)
    report(done, len(job.files))
    setup = {
        "preprocessing": preprocessing_facts(job.preprocessing),
        "images": str(job.unfinished / IMAGES_FILE),
    }
    tasks = [_task(job, number, archive_root) for number in missing]
    for position, answer in run_tasks(_WORKER, setup, tasks, workers):
        number = missing[position]
        write_atomic(job.record(number), canonical_json(answer))
        done += len(job.chunk(number))
        report(done, len(job.files))


def _task(job: _Job, number: int, archive_root: Path) -> dict[str, Any]:
    files = [
        file | {"path": str(archive_root / decode_path(file["source"]))}
        for file in job.chunk(number)
    ]
    return {"offset": number * job.chunk_size, "files": files}


def _is_done(job: _Job, number: int) -> bool:
    """Tell whether a chunk has its record, and its bytes are still those."""
    if not job.record(number).is_file():
        return False
    answer = json.loads(job.record(number).read_bytes())
    with (job.unfinished / IMAGES_FILE).open("rb") as stream:
        stream.seek(number * job.chunk_size * job.image_bytes)
        content = stream.read(len(job.chunk(number)) * job.image_bytes)
    return bool(hashlib.sha256(content).hexdigest() == answer["sha256"])


def _finish(job: _Job, site_folder: Path) -> None:
    """Write the verdicts to the manifest, then index and snapshot; repeatable."""
    answers = [json.loads(job.record(n).read_bytes()) for n in range(job.chunks)]
    entries = [entry for answer in answers for entry in answer["entries"]]
    _update_manifest(job, site_folder, entries)
    index = _index(job, entries)
    if index.empty:
        shutil.rmtree(job.unfinished)  # the next call tries all files again
        counts = pd.Series([entry["code"] for entry in entries]).value_counts()
        raise NothingToPrepareError(
            f"None of {len(entries)} images could be prepared: {_counted(counts)}."
        )
    preprocessing = preprocessing_facts(job.preprocessing)
    chunks = [answer["sha256"] for answer in answers]
    identity = {
        "preprocessing_sha256": sha256_hex(canonical_json(preprocessing)),
        "content_sha256": sha256_hex("".join(chunks).encode()),
        "index_sha256": index_digest(index),
    }
    facts = identity | {
        "schema": SCHEMA,
        "hash": sha256_hex(canonical_json(identity)),
        "preprocessing": preprocessing,
        "job": job.digest,
        "images": len(index),
        "slots": len(job.files),
        "chunk_size": job.chunk_size,
        "chunks": chunks,
        "versions": decoder_versions(),
    }
    write_atomic(job.folder / INDEX_FILE, parquet_bytes(index))
    # A hard link, not a move: until the snapshot stands, a rerun finds everything.
    _link(job.unfinished / IMAGES_FILE, job.folder / IMAGES_FILE)
    write_atomic(job.folder / SNAPSHOT_FILE, canonical_json(facts))
    shutil.rmtree(job.unfinished)


def _index(job: _Job, entries: list[dict[str, Any]]) -> pd.DataFrame:
    rows = [
        entry
        | {"slot": slot, "row_id": file["row_id"], "chunk": slot // job.chunk_size}
        for slot, (file, entry) in enumerate(zip(job.files, entries, strict=True))
        if "code" not in entry
    ]
    return pd.DataFrame(rows, columns=list(INDEX_DTYPES)).astype(INDEX_DTYPES)


def _update_manifest(
    job: _Job, site_folder: Path, entries: list[dict[str, Any]]
) -> None:
    manifest, linkage = read_manifest(site_folder), read_linkage(site_folder)
    position = {row_id: place for place, row_id in enumerate(manifest["row_id"])}
    status, reason = list(manifest["status"]), list(manifest["reason"].fillna(""))
    stage, exception = list(linkage["stage"]), list(linkage["exception_type"])
    imported = list(linkage["remarks"])
    for file, entry in zip(job.files, entries, strict=True):
        at = position[file["row_id"]]
        if "code" in entry:
            status[at], reason[at] = "quarantined", entry["code"]
            stage[at] = f"prepare:{entry['stage']}"
            exception[at] = entry["exception_type"]
        else:
            remarks = sorted({*imported[at].split(), *entry["remarks"]})
            status[at], reason[at] = "ok", " ".join(remarks)
            stage[at] = exception[at] = ""
    manifest = manifest.assign(
        status=pd.array(status, "string"),
        reason=pd.array([text or None for text in reason], "string"),
    )
    linkage = linkage.assign(
        stage=pd.array(stage, "string"), exception_type=pd.array(exception, "string")
    )
    write_manifest(site_folder, manifest, linkage)


def _link(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    target.hardlink_to(source)
    sync_folder(target.parent)


def _nothing_to_do(manifest: pd.DataFrame, preprocessing: Preprocessing) -> str:
    ready = manifest.loc[manifest["status"] == "ok", "modality_kind"].value_counts()
    if len(ready):
        return (
            "No image is of a kind that the plan wants "
            f"({', '.join(preprocessing.modalities)}); the site holds: "
            f"{_counted(ready)}. Change preprocessing.modalities."
        )
    counts = manifest["reason"].value_counts()
    meaning = "".join(f"\n  {code}: {REASONS[code]}" for code in counts.index)
    return f"No image to prepare: {len(manifest)} files found.{meaning}"


def _counted(counts: pd.Series) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())
