"""From a full-field image to the cached one: breast box, one side, one size, 16 bits.

The chest wall ends up at column 0 and is never cut. Aspect is kept: a square resize
would change the shape of masses. Boxes of findings follow with `to_cached`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from client.data.codes import Rejected
from common.plan import Preprocessing

_MASK_SIZE = 256
_MARGIN = 0.01


@dataclass(frozen=True)
class Geometry:
    """How an image was cut and turned.

    Attributes
    ----------
    original_rows, original_columns : before any step
    row0, row1, column0, column1 : crop box in the original image, half open
    flipped : the crop was mirrored left-right so that the chest wall is at column 0
    """

    original_rows: int
    original_columns: int
    row0: int
    row1: int
    column0: int
    column1: int
    flipped: bool


def preprocess(
    image: np.ndarray, preprocessing: Preprocessing
) -> tuple[np.ndarray, Geometry]:
    """Crop, flip, resize, pad and quantise one image.

    Parameters
    ----------
    image : float32, shape (rows, columns), range [0, 1], MONOCHROME2
    preprocessing : of the plan; gives crop and size

    Returns
    -------
    uint16, shape (preprocessing.rows, preprocessing.columns); 65535 stands for 1.0
    geometry that maps the original to it

    Raises
    ------
    Rejected
        ``Q_BLANK`` if all pixels are equal.
    """
    mask = breast_mask(image)
    flipped = chest_wall_is_right(mask)
    rows, columns = image.shape
    box = (0, rows, 0, columns)
    if preprocessing.crop == "breast":
        box = breast_box(mask, image.shape, flipped)
    crop = image[box[0] : box[1], box[2] : box[3]]
    if flipped:
        crop = crop[:, ::-1]
    fitted = fit(crop, preprocessing.rows, preprocessing.columns)
    # Adding one half and truncating is the rounding of non-negative numbers.
    cached = (fitted * np.float32(65535.0) + np.float32(0.5)).astype(np.uint16)
    return cached, Geometry(rows, columns, *box, flipped)


def breast_mask(image: np.ndarray) -> np.ndarray:
    """Mark the breast on a reduced image: largest bright region above background.

    The background is the commonest value below Otsu's threshold. The breast begins a
    tenth of the way from there to Otsu's threshold, which alone would cut the skin; or
    beyond the noise, as far above the background as its darkest hundredth lies below.

    Parameters
    ----------
    image : float32, shape (rows, columns), range [0, 1]

    Returns
    -------
    bool, aspect of the image, long side at most 256; never empty

    Raises
    ------
    Rejected
        ``Q_BLANK`` if nothing stands out.

    Notes
    -----
    Otsu 1979, "A threshold selection method from gray-level histograms".
    """
    scale = min(1.0, _MASK_SIZE / max(image.shape))
    size = tuple(max(1, round(side * scale)) for side in image.shape[::-1])
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    low, high = float(small.min()), float(small.max())
    if high <= low:
        raise Rejected("Q_BLANK", "preprocess")
    grey = ((small - low) * (255.0 / (high - low))).astype(np.uint8)
    otsu, _ = cv2.threshold(grey, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    histogram = np.bincount(grey.reshape(-1), minlength=256)
    background = int(np.argmax(histogram[: int(otsu) + 1]))
    darker = grey[grey <= background]
    noise = background - float(np.percentile(darker, 1))
    threshold = min(otsu, background + max(1.0, 0.1 * (otsu - background), noise))
    bright = (grey > threshold).astype(np.uint8)
    opened = cv2.morphologyEx(bright, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    return _largest_region(opened if opened.any() else bright)


def chest_wall_is_right(mask: np.ndarray) -> bool:
    """Tell the side by pixel mass: of the outer tenths, at a tie of the halves.

    The breast is widest where it touches the chest wall; in an image that is cropped
    tightly the halves alone can mislead. Where both ties, the answer is left.
    """
    columns = mask.sum(axis=0, dtype=np.int64)
    for share in (10, 2):
        part = max(1, len(columns) // share)
        left, right = int(columns[:part].sum()), int(columns[-part:].sum())
        if left != right:
            return right > left
    return False


def breast_box(
    mask: np.ndarray, shape: tuple[int, ...], chest_right: bool
) -> tuple[int, int, int, int]:
    """Bound the breast in the full image, with a small margin.

    Parameters
    ----------
    mask : bool, as `breast_mask` returns it
    shape : of the full image
    chest_right : on that side the box reaches the image's edge

    Returns
    -------
    row0, row1, column0, column1, half open
    """
    row0, row1 = _extent(mask.sum(axis=1), shape[0])
    column0, column1 = _extent(mask.sum(axis=0), shape[1])
    return (row0, row1, column0, shape[1]) if chest_right else (row0, row1, 0, column1)


def fit(image: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Resize with the aspect kept and pad with 0: right, and equally above and below.

    Shrinking averages areas, enlarging interpolates linearly.

    Returns
    -------
    float32, shape (rows, columns), range [0, 1]
    """
    new_rows, new_columns, top = fitted_size(image.shape, rows, columns)
    shrinks = new_rows <= image.shape[0]
    resized = cv2.resize(
        np.ascontiguousarray(image),
        (new_columns, new_rows),
        interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR,
    )
    padded = np.zeros((rows, columns), np.float32)
    padded[top : top + new_rows, :new_columns] = np.clip(resized, 0.0, 1.0)
    return padded


def fitted_size(
    shape: tuple[int, ...], rows: int, columns: int
) -> tuple[int, int, int]:
    """Return rows and columns after the resize, and the rows of padding above."""
    scale = min(rows / shape[0], columns / shape[1])
    new_rows = min(rows, max(1, round(shape[0] * scale)))
    new_columns = min(columns, max(1, round(shape[1] * scale)))
    return new_rows, new_columns, (rows - new_rows) // 2


def to_cached(
    row: float, column: float, geometry: Geometry, preprocessing: Preprocessing
) -> tuple[float, float]:
    """Map a point of the original image to the cached one; may fall outside it."""
    shape = (geometry.row1 - geometry.row0, geometry.column1 - geometry.column0)
    new_rows, new_columns, top = fitted_size(
        shape, preprocessing.rows, preprocessing.columns
    )
    along = geometry.column1 - column if geometry.flipped else column - geometry.column0
    return (
        (row - geometry.row0) * new_rows / shape[0] + top,
        along * new_columns / shape[1],
    )


def apply_lut(image: np.ndarray, lut: Mapping[str, Any]) -> np.ndarray:
    """Change the tone scale of an image, as another vendor's display would.

    Parameters
    ----------
    image : float32, any shape, range [0, 1]; not changed
    lut : ``{kind: linear}``; ``{kind: gamma, gamma: g}`` gives x**g;
        ``{kind: sigmoid, center: c, width: w}`` gives 1/(1+exp(-4(x-c)/w)), stretched
        so that 0 stays 0 and 1 stays 1

    Returns
    -------
    float32, same shape, range [0, 1]

    Raises
    ------
    ValueError
        If the kind is none of these, or gamma or width is not positive.
    """
    kind = lut.get("kind")
    if kind == "linear":
        return image.astype(np.float32)
    if kind == "gamma" and lut.get("gamma", 0) > 0:
        return np.asarray(np.power(image, lut["gamma"]), dtype=np.float32)
    if kind == "sigmoid" and lut.get("width", 0) > 0:
        center, width = float(lut.get("center", 0.5)), float(lut["width"])
        ends = 1.0 / (1.0 + np.exp(-4.0 * (np.array([0.0, 1.0]) - center) / width))
        curve = 1.0 / (1.0 + np.exp(-4.0 * (image.astype(np.float64) - center) / width))
        stretched = (curve - ends[0]) / (ends[1] - ends[0])
        return np.asarray(stretched, dtype=np.float32)
    raise ValueError(
        f"lut.kind is {kind}: expected linear, gamma (gamma > 0) or sigmoid (width > 0)"
    )


def _largest_region(bright: np.ndarray) -> np.ndarray:
    if not bright.any():
        raise Rejected("Q_BLANK", "preprocess")
    _, regions, stats, _ = cv2.connectedComponentsWithStats(bright, connectivity=8)
    largest = 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
    return np.asarray(regions == largest)


def _extent(present: np.ndarray, length: int) -> tuple[int, int]:
    found = np.flatnonzero(present)
    scale = length / len(present)
    margin = _MARGIN * length
    first = int(np.floor(found[0] * scale - margin))
    last = int(np.ceil((found[-1] + 1) * scale + margin))
    return max(0, first), min(length, last)
