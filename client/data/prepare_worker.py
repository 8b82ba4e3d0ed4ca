"""What one worker process does: read, decode and preprocess a block of pictures.

A chunk is a run of neighbouring slots in the memory map. Its pixels are written and
flushed here; the answer holds facts only. What goes wrong with a file becomes a code.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial, reduce
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np

from client.data.codes import Rejected
from client.data.dicom import Picture, brightest, read_picture
from client.data.preprocessing import preprocess
from client.data.raster import read_raster
from client.data.trimmed import trimmed_sha256
from client.data.workers import LOST_CODES, serve
from common.plan import Preprocessing

_T = TypeVar("_T")


def prepare_block(
    setup: dict[str, Any], task: dict[str, Any], starting: Callable[[int], None]
) -> dict[str, Any]:
    """Fill a run of slots in one memory map or several.

    Parameters
    ----------
    setup : ``outputs``, each with ``preprocessing`` (fields of the plan), ``images``
        (path of the map) and ``chunk_size``; they differ in size and crop only
    task : ``offset`` (first slot, at a chunk's border in every map); ``files``, each
        with ``path``, ``sha256``, ``reader``, ``bits``, ``photometric``, and ``lost``
        after a death; and ``slots``, each with ``files`` (positions) and ``frames``
    starting : called with the position of each file before it is touched

    Returns
    -------
    ``outputs``: of each map its chunks in order, with ``sha256`` of the chunk's bytes
    and ``entries``, one per slot: its index fields; of a rejected one, which is left 0,
    ``code``, ``stage`` and ``exception_type``
    """
    cv2.setNumThreads(1)
    files, slots = task["files"], task["slots"]
    outputs = [_Output(one, task["offset"], len(slots)) for one in setup["outputs"]]
    for slot in slots:
        pictures = _pictures(slot, files, outputs[0].preprocessing, starting)
        shown = _or_verdict(lambda: reduce(brightest, pictures))  # noqa: B023
        for output in outputs:
            output.take(shown)
    return {"outputs": [output.chunks for output in outputs]}


class _Output:
    """One memory map, filled slot by slot and written chunk by chunk."""

    def __init__(self, facts: dict[str, Any], offset: int, slots: int) -> None:
        self.preprocessing = Preprocessing(**facts["preprocessing"])
        self.chunks: list[dict[str, Any]] = []
        self._images, self._size = Path(facts["images"]), int(facts["chunk_size"])
        self._next, self._stop = offset, offset + slots
        self._begin()

    def _begin(self) -> None:
        size = min(self._size, self._stop - self._next)
        shape = (size, self.preprocessing.rows, self.preprocessing.columns)
        self._chunk = np.zeros(shape, dtype="<u2")
        self._entries: list[dict[str, Any]] = []

    def take(self, shown: Picture | Rejected) -> None:
        """Fill the next slot; the last one of a chunk has it written."""
        if isinstance(shown, Picture):
            picture = shown
            prepared = _or_verdict(lambda: _prepare(picture, self.preprocessing))
        else:
            prepared = shown
        if isinstance(prepared, Rejected):
            self._entries.append(_rejected(prepared))
        else:
            self._chunk[len(self._entries)] = prepared[0]
            self._entries.append(prepared[1])
        if len(self._entries) < len(self._chunk):
            return
        _write(self._images, self._chunk, self._next)
        digest = hashlib.sha256(self._chunk.data).hexdigest()
        self.chunks.append({"sha256": digest, "entries": self._entries})
        self._next += len(self._chunk)
        if self._next < self._stop:
            self._begin()


def _or_verdict(step: Callable[[], _T]) -> _T | Rejected:
    """Take one step with one picture; what goes wrong becomes its code."""
    try:
        return step()
    except Rejected as verdict:
        return verdict
    except BrokenPipeError:  # nobody listens any more: leave the slots alone
        raise
    except Exception as error:
        return Rejected("Q_STRUCTURE", "decode", type(error).__name__)


def _pictures(
    slot: dict[str, Any],
    files: list[dict[str, Any]],
    preprocessing: Preprocessing,
    starting: Callable[[int], None],
) -> Iterator[Picture]:
    for at in slot["files"]:
        starting(at)
        if "lost" in files[at]:
            raise Rejected(LOST_CODES[files[at]["lost"]], "decode", "WorkerDied")
        yield _read(files[at], slot["frames"], preprocessing, partial(starting, at))


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
        "trimmed_sha256": trimmed_sha256(picture.image),
    }


def _read(
    file: dict[str, Any],
    frames: list[int] | None,
    preprocessing: Preprocessing,
    alive: Callable[[], None],
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
    voi, voi_of = preprocessing.voi, preprocessing.voi_of
    return read_picture(content, voi, wanted, voi_of, alive)


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
    serve(prepare_block)
