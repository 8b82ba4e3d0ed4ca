"""Make the cache of a site: resumable, atomic, same bytes with any number of workers.

The images that the import found usable are planned as pictures (`client.data.slots`),
ordered by ``row_id``, one to a slot of a memory map; slots are cut into chunks of
a size that depends on the image size only. A worker fills a chunk in place and flushes
it; then its record (checksum, index entries) is written. A run that was killed keeps
the chunks whose record stands and whose bytes match. ``snapshot.json`` comes last.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from client.data.confirm import confirm_files
from client.data.dicom_decode import decoder_versions
from client.data.manifest import (
    parquet_bytes,
    read_linkage,
    read_manifest,
    write_manifest,
)
from client.data.prepare_job import Job, counted, plan_job
from client.data.site_folder import obstacle_to_writing
from client.data.slots import verdicts
from client.data.snapshot import (
    IMAGES_FILE,
    INDEX_DTYPES,
    INDEX_FILE,
    SCHEMA,
    SNAPSHOT_FILE,
    CacheError,
    NothingToPrepareError,
    Snapshot,
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

_WORKER = "client.data.prepare_worker"


def prepare(
    site_folder: Path,
    archive_root: Path,
    preprocessing: Preprocessing,
    *,
    also: Sequence[Preprocessing] = (),
    workers: int = 1,
    progress: Progress = lambda done, total: None,
    verify: bool = False,
) -> Snapshot:
    """Decode and preprocess a site's images into a memory map.

    A complete cache is confirmed and returned; without the archive it is only opened.
    Patients who have withdrawn are left out, in a cache next to the one that holds
    them. Files that fail are quarantined with a code in the manifest; the next
    preparation with another preprocessing tries them again.

    Parameters
    ----------
    site_folder : holds manifest and linkage; the cache goes to ``cache/`` below it
    archive_root : the archive that was imported
    preprocessing : of the plan
    also : other sizes or crops to make from the same decoded pictures
    workers : processes; changes no byte of the result
    progress : called at the start and after each block of pictures
    verify : of a complete cache hash every file and every image again

    Returns
    -------
    The images prepared by ``preprocessing``; those of ``also`` wait to be opened.

    Raises
    ------
    NothingToPrepareError
        If nothing can be prepared.
    CacheError
        If a complete cache was made from other files, or one of them has changed; or
        ``also`` asks for what needs another decoding; or the folder cannot be written.
    FolderBusyError
        If another preparation is running here.
    WorkerError
        If the workers cannot run at all.
    """
    wanted = [preprocessing]
    wanted += [
        one
        for place, one in enumerate(also)
        if one not in (preprocessing, *also[:place])
    ]
    if any(_decoding(one) != _decoding(preprocessing) for one in also):
        raise CacheError(
            "Only sizes and crops can be made from one decoding: VOI, kinds of images "
            "and slices must be the same."
        )
    for folder in (site_folder, site_folder / "cache"):
        if obstacle := obstacle_to_writing(folder):
            raise CacheError(obstacle)
    with locked(site_folder / "cache"):
        jobs = [plan_job(site_folder, one) for one in wanted]
        _require_same_files(jobs)
        todo = [job for job in jobs if not (job.folder / SNAPSHOT_FILE).is_file()]
        there = archive_root.is_dir()
        if (todo or verify) and not there:
            raise CacheError(
                f"No archive folder {archive_root}. Mount it, or say where it is."
            )
        if there and len(todo) < len(jobs):
            files = jobs[0].files
            confirm_files(files, archive_root, verify=verify, progress=progress)
        if todo:
            for job in todo:
                _start(job)
            _fill(todo, archive_root, workers, progress)
            for job in todo:
                _finish(job, site_folder)
    snapshots = [open_snapshot(site_folder, one) for one in wanted]
    if verify:
        for snapshot in snapshots:
            snapshot.verify()
    return snapshots[0]


def _decoding(preprocessing: Preprocessing) -> Preprocessing:
    return replace(preprocessing, rows=1, columns=1, crop="none")


def _require_same_files(jobs: Sequence[Job]) -> None:
    for job in jobs:
        done = job.folder / SNAPSHOT_FILE
        if done.is_file() and json.loads(done.read_bytes()).get("job") != job.digest:
            raise CacheError(
                f"{job.folder} was prepared from other files than the manifest lists "
                f"now. Delete {job.folder} and run prepare again."
            )


def _start(job: Job) -> None:
    """Keep what an interrupted run of the same job left, else begin anew."""
    marker = job.unfinished / "job.json"
    content = canonical_json({"job": job.digest, "versions": decoder_versions()})
    if marker.is_file() and marker.read_bytes() == content:
        return
    shutil.rmtree(job.unfinished, ignore_errors=True)
    job.unfinished.mkdir(parents=True)
    with (job.unfinished / IMAGES_FILE).open("wb") as stream:
        stream.truncate(len(job.slots) * job.image_bytes)
        os.fsync(stream.fileno())
    write_atomic(marker, content)


def _fill(
    jobs: Sequence[Job], archive_root: Path, workers: int, progress: Progress
) -> None:
    """Decode every picture once, for all jobs; their slots are the same."""
    slots = len(jobs[0].slots)
    size = max(job.chunk_size for job in jobs)
    missing = [
        block for block in range(-(-slots // size)) if not _is_done(jobs, block, size)
    ]

    def count(block: int) -> int:
        return min(size, slots - block * size)

    done = slots - sum(map(count, missing))
    progress(done, slots)
    outputs = [
        {
            "preprocessing": preprocessing_facts(job.preprocessing),
            "images": str(job.unfinished / IMAGES_FILE),
            "chunk_size": job.chunk_size,
        }
        for job in jobs
    ]
    tasks = [jobs[0].task(block, size, archive_root) for block in missing]
    answers = run_tasks(_WORKER, {"outputs": outputs}, tasks, workers)
    for position, answer in answers:
        block = missing[position]
        for job, chunks in zip(jobs, answer["outputs"], strict=True):
            numbers = job.chunks_of(block, size)
            for number, chunk in zip(numbers, chunks, strict=True):
                write_atomic(job.record(number), canonical_json(chunk))
        done += count(block)
        progress(done, slots)


def _is_done(jobs: Sequence[Job], block: int, size: int) -> bool:
    return all(
        _stands(job, number) for job in jobs for number in job.chunks_of(block, size)
    )


def _stands(job: Job, number: int) -> bool:
    """Tell whether a chunk has its record, and its bytes are still those."""
    if not job.record(number).is_file():
        return False
    answer = json.loads(job.record(number).read_bytes())
    with (job.unfinished / IMAGES_FILE).open("rb") as stream:
        stream.seek(number * job.chunk_size * job.image_bytes)
        content = stream.read(len(job.chunk(number)) * job.image_bytes)
    return bool(hashlib.sha256(content).hexdigest() == answer["sha256"])


def _finish(job: Job, site_folder: Path) -> None:
    """Write the verdicts to the manifest, then index and snapshot; repeatable."""
    answers = [json.loads(job.record(n).read_bytes()) for n in range(job.chunks)]
    entries = [entry for answer in answers for entry in answer["entries"]]
    _update_manifest(job, site_folder, entries)
    index = _index(job, entries)
    if index.empty:
        shutil.rmtree(job.unfinished)  # the next call tries all files again
        counts = pd.Series([entry["code"] for entry in entries]).value_counts()
        raise NothingToPrepareError(
            f"None of {len(entries)} images could be prepared: {counted(counts)}."
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
        "slots": len(job.slots),
        "chunk_size": job.chunk_size,
        "chunks": chunks,
        "versions": decoder_versions(),
    }
    write_atomic(job.folder / INDEX_FILE, parquet_bytes(index))
    # A hard link, not a move: until the snapshot stands, a rerun finds everything.
    _link(job.unfinished / IMAGES_FILE, job.folder / IMAGES_FILE)
    write_atomic(job.folder / SNAPSHOT_FILE, canonical_json(facts))
    shutil.rmtree(job.unfinished)


def _index(job: Job, entries: list[dict[str, Any]]) -> pd.DataFrame:
    rows = [
        entry
        | {
            "slot": number,
            "row_id": job.files[slot.files[0]]["row_id"],
            "frame": slot.frame,
            "chunk": number // job.chunk_size,
        }
        for number, (slot, entry) in enumerate(zip(job.slots, entries, strict=True))
        if "code" not in entry
    ]
    return pd.DataFrame(rows, columns=list(INDEX_DTYPES)).astype(INDEX_DTYPES)


def _update_manifest(
    job: Job, site_folder: Path, entries: list[dict[str, Any]]
) -> None:
    manifest, linkage = read_manifest(site_folder), read_linkage(site_folder)
    position = {row_id: place for place, row_id in enumerate(manifest["row_id"])}
    status, reason = list(manifest["status"]), list(manifest["reason"].fillna(""))
    stage, exception = list(linkage["stage"]), list(linkage["exception_type"])
    imported = list(linkage["remarks"])
    for file, entry in verdicts(job.slots, entries).items():
        at = position[job.files[file]["row_id"]]
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
