"""Where the time of a preparation goes: each of its steps alone, on one core."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import TypeVar

import cv2
import numpy as np

from client.data.dicom_decode import decode
from client.data.dicom_header import header_of, read_dataset
from client.data.intensity import to_unit_range
from client.data.preprocessing import breast_mask, preprocess
from client.data.trimmed import trimmed_sha256
from common.plan import Preprocessing

_T = TypeVar("_T")


class Clock:
    """Collects how long the steps of one picture after the other take."""

    def __init__(self) -> None:
        self._seconds: dict[str, list[float]] = {}

    def time(self, name: str, step: Callable[[], _T]) -> _T:
        """Take a step and remember its time."""
        began = time.perf_counter()
        result = step()
        self._seconds.setdefault(name, []).append(time.perf_counter() - began)
        return result

    def medians(self) -> dict[str, float]:
        """Return median seconds by step."""
        return {name: median(values) for name, values in self._seconds.items()}


def measure_stages(paths: Sequence[Path], size: Preprocessing) -> dict[str, float]:
    """Time the steps of `client.data.prepare_worker` over DICOM files.

    Returns
    -------
    Median seconds per image by step, in their order. ``crop, resize, round`` holds
    finding the breast a second time; that is taken off.
    """
    clock, threads = Clock(), cv2.getNumThreads()
    cv2.setNumThreads(1)  # as a worker does
    try:
        for path in paths:
            _prepare(path, size, clock)
    finally:
        cv2.setNumThreads(threads)
    seconds = clock.medians()
    seconds["crop, resize, round"] -= seconds["find the breast"]
    return seconds


def _prepare(path: Path, size: Preprocessing, clock: Clock) -> None:
    content = clock.time("read the file", path.read_bytes)
    clock.time("hash the file", lambda: hashlib.sha256(content).hexdigest())
    ds = clock.time("parse", lambda: read_dataset(content, pixels=True))
    header = clock.time("keep-list", lambda: header_of(ds))
    stored, _ = clock.time("decode", lambda: decode(content, ds, header))
    image, _ = clock.time(
        "stored values to [0, 1]", lambda: to_unit_range(stored, header, size.voi)
    )
    clock.time("find the breast", lambda: breast_mask(image))
    cached, _ = clock.time("crop, resize, round", lambda: preprocess(image, size))
    clock.time("hash the image", lambda: hashlib.sha256(_bytes(cached)).hexdigest())
    clock.time("hash without borders", lambda: trimmed_sha256(image))


def _bytes(cached: np.ndarray) -> bytes:
    return cached.astype("<u2").tobytes()
