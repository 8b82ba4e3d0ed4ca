"""From stored pixel values to [0, 1] with bright tissue: PS3.3 C.11 and C.7.6.3.

Every scale comes from the header (LUT depth, window, bits stored), never from the
image's own extremes: those differ per image and would undo what the window says.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from client.data.dicom_header import Header, Lut

Voi = Literal["first", "none"]

_NARROWEST = 0.005
"""A window that spans less of the stored range is that of another bit depth: two files
of CMMD have 16 bits and the window of the 8-bit ones, 256 wide."""

_BLOCK = 2**16
"""Pixels looked up at a time."""


def to_unit_range(
    stored: np.ndarray, header: Header, voi: Voi
) -> tuple[np.ndarray, str]:
    """Apply padding mask, modality LUT, VOI, inversion and padding, in this order.

    Parameters
    ----------
    stored : integer, shape (rows, columns), values as decoded; not changed
    header : of the same image
    voi : ``first`` = item 0 of the VOI LUT sequence if valid, else window 0 with its
        function; ``none`` = the stored range. Data that are stored in 8 bits are
        display values already and get the stored range.

    Returns
    -------
    float32, shape (rows, columns), range [0, 1], MONOCHROME2; padding is 0
    name of the VOI step: ``lut sigmoid linear linear_exact range``
    """
    low, high = int(stored.min()), int(stored.max())
    if high - low >= stored.size:
        return _shown(stored, header, voi)
    table, step = _shown(np.arange(low, high + 1, dtype=stored.dtype), header, voi)
    return _each(table, stored, low), step


def _each(table: np.ndarray, stored: np.ndarray, low: int) -> np.ndarray:
    """Look every pixel up: all steps depend on its value alone, and values are few.

    Blocks of rows stay in the processor's cache; a whole image would not.
    """
    image = np.empty(stored.shape, np.float32)
    rows = max(1, _BLOCK // max(1, stored[0].size))
    for row in range(0, len(stored), rows):
        position = np.subtract(stored[row : row + rows], low, dtype=np.intp)
        table.take(position, out=image[row : row + rows], mode="clip")
    return image


def _shown(stored: np.ndarray, header: Header, voi: Voi) -> tuple[np.ndarray, str]:
    """Take every step in float64: twins that are inverse to each other end equal."""
    padding = padding_mask(stored, header)
    values, low, high = _modality(stored, header)
    step = _chosen_voi(header) if voi == "first" else "range"
    if step == "lut" and header.voi_lut is not None:
        image = _look_up(values, header.voi_lut)
    elif step == "range":
        image = (values - low) / (high - low)
    else:
        image = window(values, *_window(header), step)
    np.clip(image, 0.0, 1.0, out=image)
    if header.text("PhotometricInterpretation").upper() == "MONOCHROME1":
        np.subtract(1.0, image, out=image)
    if padding is not None:
        image[padding] = 0.0
    return image.astype(np.float32, copy=False), step


def window(
    values: np.ndarray, center: float, width: float, function: str
) -> np.ndarray:
    """Apply a window; not clipped.

    Parameters
    ----------
    values : float32 or float64, after the modality LUT
    center, width : in the unit of `values`
    function : ``linear``, ``linear_exact`` or ``sigmoid``

    Returns
    -------
    type of `values`, 0 at the lower and 1 at the upper end of the window

    Notes
    -----
    PS3.3 C.11.2.1.2.1 (LINEAR), C.11.2.1.3.1 (SIGMOID), C.11.2.1.3.2 (LINEAR_EXACT).
    """
    if function == "sigmoid":
        scaled = (values - center) * (-4.0 / width)
        # Beyond 80 the result is 0 in float32; the bound avoids an overflow.
        return np.asarray(1.0 / (1.0 + np.exp(np.minimum(scaled, 80.0))))
    if function == "linear_exact":
        return (values - center) / width + 0.5
    if width == 1:
        return (values > center - 0.5).astype(values.dtype)
    return (values - (center - 0.5)) / (width - 1) + 0.5


def header_voi(header: Header) -> str:
    """Name the step that policy ``first`` takes for this header."""
    return _chosen_voi(header)


def voi_is_unusable(header: Header) -> bool:
    """Tell whether a window or LUT is there, but the stored range must be used."""
    offered = bool(header.numbers["WindowCenter"] or header.numbers["WindowWidth"])
    return offered and not _is_display(header) and _chosen_voi(header) == "range"


def padding_mask(stored: np.ndarray, header: Header) -> np.ndarray | None:
    """Mark pixel padding on stored values (PS3.3 C.7.5.1.1.2); None if undeclared.

    The two ends of the range may come in either order.
    """
    value = header.number("PixelPaddingValue")
    if value is None:
        return None
    limit = header.number("PixelPaddingRangeLimit")
    ends = [_as_stored(value, stored), _as_stored(limit, stored)]
    low, high = min(ends[0], ends[1]), max(ends[0], ends[1])
    if limit is None:
        low = high = ends[0]
    return np.asarray((stored >= low) & (stored <= high))


def _as_stored(value: float | None, stored: np.ndarray) -> int:
    # A padding value of -1 in unsigned data means the largest value of the container.
    number = int(value or 0)
    info = np.iinfo(stored.dtype)
    if info.min == 0 and number < 0:
        return number + int(info.max) + 1
    if info.min < 0 and number > info.max:
        return number - 2 * (int(info.max) + 1)
    return number


def _modality(stored: np.ndarray, header: Header) -> tuple[np.ndarray, float, float]:
    if header.modality_lut is not None:
        lut = header.modality_lut
        return _look_up(stored, lut) * lut.maximum, 0.0, float(lut.maximum)
    slope = header.number("RescaleSlope") or 1.0
    intercept = header.number("RescaleIntercept") or 0.0
    if not (math.isfinite(slope) and math.isfinite(intercept)):
        slope, intercept = 1.0, 0.0
    bits = header.integer("BitsStored", stored.dtype.itemsize * 8)
    signed = header.integer("PixelRepresentation", 0) == 1
    low, high = (
        (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    )
    values = stored.astype(np.float64)
    if (slope, intercept) != (1.0, 0.0):
        values = values * slope + intercept
    ends = (low * slope + intercept, high * slope + intercept)
    return values, min(ends), max(ends)


def _look_up(values: np.ndarray, lut: Lut) -> np.ndarray:
    first = lut.first
    if first > 32767 and values.min() < 0:
        first -= 65536
    position = np.clip(
        np.rint(values).astype(np.int64) - first, 0, len(lut.entries) - 1
    )
    return np.asarray(lut.entries[position] / lut.maximum)


def _is_display(header: Header) -> bool:
    return header.integer("BitsStored", 16) <= 8


def _window(header: Header) -> tuple[float, float]:
    center, width = header.number("WindowCenter"), header.number("WindowWidth")
    return (
        math.nan if center is None else center,
        math.nan if width is None else width,
    )


def _chosen_voi(header: Header) -> str:
    if _is_display(header):
        return "range"
    if header.voi_lut is not None:
        return "lut"
    center, width = _window(header)
    function = header.text("VOILUTFunction").upper() or "LINEAR"
    slope = abs(header.number("RescaleSlope") or 1.0)
    bits = 0 if header.modality_lut is not None else header.integer("BitsStored", 16)
    smallest = 1.0 if function == "LINEAR" else 0.0
    smallest = max(smallest, _NARROWEST * slope * 2**bits if bits else 0.0)
    usable = math.isfinite(center) and math.isfinite(width) and width >= smallest
    if (
        not usable
        or width <= 0
        or function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID")
    ):
        return "range"
    return function.lower()
