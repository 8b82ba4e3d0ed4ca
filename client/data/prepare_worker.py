"""What one worker process does: read, decode and preprocess the files of one chunk.

A chunk is a run of neighbouring slots in the memory map. Its pixels are written and
flushed here; the answer holds facts only. What goes wrong with a file becomes a code.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import reduce
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from client.data.codes import Rejected
from client.data.dicom import Picture, brightest, read_picture
from client.data.preprocessing import preprocess
from client.data.raster import read_raster
from client.data.workers import serve
from common.plan import Preprocessing


def prepare_chunk(
    setup: dict[str, Any], task: dict[str, Any], starting: Callable[[int], None]
) -> dict[str, Any]:
    """Fill one chunk of the memory map.

    Parameters
    ----------
    setup : ``preprocessing`` (fields of the plan) and ``images`` (path of the map)
    task : ``offset`` (first slot); ``files``, each with ``path``, ``sha256``,
        ``reader``, ``bits``, ``photometric``, and ``lost`` after a death; and
        ``slots``, each with ``files`` (their positions) and ``frames``
    starting : called with the position of each file before it is touched

    Returns
    -------
    ``sha256`` of the chunk's bytes and ``entries``, one per slot: its index fields; of
    a rejected one, which is left 0: ``code``, ``stage`` and ``exception_type``
    """
    cv2.setNumThreads(1)
    preprocessing = Preprocessing(**setup["preprocessing"])
    files, slots = task["files"], task["slots"]
    shape = (len(slots), preprocessing.rows, preprocessing.columns)
    chunk = np.zeros(shape, dtype="<u2")
    entries = []
    for position, slot in enumerate(slots):
        pictures = _pictures(slot, files, preprocessing, starting)
        try:
            picture = reduce(brightest, pictures)
            chunk[position], entry = _prepare(picture, preprocessing)
        except Rejected as verdict:
            entry = _rejected(verdict)
        except BrokenPipeError:  # nobody listens any more: leave the slots alone
            raise
        except Exception as error:
            entry = _rejected(Rejected("Q_STRUCTURE", "decode", type(error).__name__))
        entries.append(entry)
    _write(Path(setup["images"]), chunk, task["offset"])
    return {"sha256": hashlib.sha256(chunk.data).hexdigest(), "entries": entries}


def _pictures(
    slot: dict[str, Any],
    files: list[dict[str, Any]],
    preprocessing: Preprocessing,
    starting: Callable[[int], None],
) -> Iterator[Picture]:
    for at in slot["files"]:
        starting(at)
        if "lost" in files[at]:
            code = {"crashed": "Q_CRASH", "hung": "Q_TIMEOUT"}[files[at]["lost"]]
            raise Rejected(code, "decode", "WorkerDied")
        yield _read(files[at], slot["frames"], preprocessing)


def _prepare(
    picture: Picture, preprocessing: Preprocessing
) -> tuple[np.ndarray, dict[str, Any]]:
    cached, geometry = preprocess(picture.image, preprocessing)
    row_spacing, column_spacing = picture.spacing or (None, None)
    return cached, asdict(geometry) | {
        "row_spacing_mm": row_spacing,
        "column_spacing_mm": column_spacing,
        "decoder": picture.decoder,
        "voi": picture.voi,
        "remarks": list(picture.remarks),
        "image_sha256": hashlib.sha256(cached.astype("<u2").tobytes()).hexdigest(),
    }


def _read(
    file: dict[str, Any], frames: list[int] | None, preprocessing: Preprocessing
) -> Picture:
    try:
        content = Path(file["path"]).read_bytes()
    except OSError as error:
        raise Rejected("Q_UNREADABLE", "read", type(error).__name__) from None
    if hashlib.sha256(content).hexdigest() != file["sha256"]:
        raise Rejected("Q_CHANGED", "read")
    if file["reader"] == "raster":
        return read_raster(content, file["bits"], file["photometric"])
    wanted = None if frames is None else (frames[0], frames[1])
    return read_picture(content, preprocessing.voi, wanted)


def _rejected(verdict: Rejected) -> dict[str, Any]:
    return {
        "code": verdict.code,
        "stage": verdict.stage,
        "exception_type": verdict.exception_type,
    }


def _write(images: Path, chunk: np.ndarray, offset: int) -> None:
    descriptor = os.open(images, os.O_WRONLY)
    try:
        view = memoryview(chunk.tobytes())
        place = offset * (chunk.nbytes // len(chunk))
        while view:
            written = os.pwrite(descriptor, view, place)
            view, place = view[written:], place + written
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


if __name__ == "__main__":
    serve(prepare_chunk)
