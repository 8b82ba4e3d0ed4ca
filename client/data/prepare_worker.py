"""What one worker process does: read, decode and preprocess the files of one chunk.

A chunk is a run of neighbouring slots in the memory map. Its pixels are written and
flushed here; the answer holds facts only. What goes wrong with a file becomes a code.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from client.data.codes import Rejected
from client.data.dicom import Picture, read_picture
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
    task : ``offset`` (first slot) and ``files`` in slot order, each with ``path``,
        ``sha256``, ``reader``, ``bits``, ``photometric``, and ``lost`` after a death
    starting : called with the position of each file before it is touched

    Returns
    -------
    ``sha256`` of the chunk's bytes and ``entries``, one per file: its index fields; of
    a rejected file, whose slot is 0: ``code``, ``stage`` and ``exception_type``
    """
    cv2.setNumThreads(1)
    preprocessing = Preprocessing(**setup["preprocessing"])
    files = task["files"]
    shape = (len(files), preprocessing.rows, preprocessing.columns)
    chunk = np.zeros(shape, dtype="<u2")
    entries = []
    for position, file in enumerate(files):
        starting(position)
        try:
            chunk[position], entry = _prepare_file(file, preprocessing)
        except Rejected as verdict:
            entry = _rejected(verdict)
        except Exception as error:
            entry = _rejected(Rejected("Q_STRUCTURE", "decode", type(error).__name__))
        entries.append(entry)
    _write(Path(setup["images"]), chunk, task["offset"])
    return {"sha256": hashlib.sha256(chunk.data).hexdigest(), "entries": entries}


def _prepare_file(
    file: dict[str, Any], preprocessing: Preprocessing
) -> tuple[np.ndarray, dict[str, Any]]:
    if "lost" in file:
        code = {"crashed": "Q_CRASH", "hung": "Q_TIMEOUT"}[file["lost"]]
        raise Rejected(code, "decode", "WorkerDied")
    picture = _read(file, preprocessing)
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


def _read(file: dict[str, Any], preprocessing: Preprocessing) -> Picture:
    try:
        content = Path(file["path"]).read_bytes()
    except OSError as error:
        raise Rejected("Q_UNREADABLE", "read", type(error).__name__) from None
    if hashlib.sha256(content).hexdigest() != file["sha256"]:
        raise Rejected("Q_CHANGED", "read")
    if file["reader"] == "raster":
        return read_raster(content, file["bits"], file["photometric"])
    return read_picture(content, preprocessing.voi)


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
