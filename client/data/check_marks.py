"""Find what stands beside the breast in a prepared image: labels, tape, text."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np

from client.data.codes import Rejected
from client.data.preprocessing import breast_mask
from client.data.snapshot import Snapshot

_CLEARANCE = 5  # pixels around the breast that may be skin, or noise of its edge
_SMALLEST = 4  # pixels of a mark, at 256 x 128: 4 mm by 4 mm or so
_AT_ONCE = 64


def has_mark(image: np.ndarray) -> bool:
    """Tell whether something as bright as the breast stands apart from it.

    Whether it is a letter, and which, is for a person to see: the side and the view
    are harmless, a name is not. What touches the breast is not found.

    Parameters
    ----------
    image : uint16 [row, column], prepared
    """
    values = image.astype(np.float32) / np.float32(65535.0)
    try:
        breast = breast_mask(values)
    except Rejected:  # an image without a breast has nothing beside it
        return False
    around = np.ones((2 * _CLEARANCE + 1,) * 2, np.uint8)
    near = cv2.dilate(breast.astype(np.uint8), around) > 0
    bright = (values > np.median(values[breast])) & ~near
    regions, _, stats, _ = cv2.connectedComponentsWithStats(bright.astype(np.uint8))
    return regions > 1 and int(stats[1:, cv2.CC_STAT_AREA].max()) >= _SMALLEST


def marked(snapshot: Snapshot) -> np.ndarray:
    """Look at every image of a snapshot.

    Returns
    -------
    bool [image], in the order of ``snapshot.rows``
    """
    return np.fromiter(_marked(snapshot), dtype=bool, count=len(snapshot))


def _marked(snapshot: Snapshot) -> Iterator[bool]:
    for start in range(0, len(snapshot), _AT_ONCE):
        stop = min(start + _AT_ONCE, len(snapshot))
        yield from map(has_mark, snapshot.read(np.arange(start, stop)))
