"""The number format of tensors in messages: float32 as they are, or half the bytes.

float16 has 11 significant bits and ends at 65504; bfloat16 has 8 and float32's range.
numpy has no bfloat16: such a tensor travels as uint16, the upper halves of float32.
Which of the two 16 bits are, the plan says, and the fingerprint holds both ends to it.
No torch: the per-message process at a hospital imports this.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

Transport = Literal["float32", "float16", "bfloat16"]

WIRE_TYPES: dict[Transport, str] = {
    "float32": "float32",
    "float16": "float16",
    "bfloat16": "uint16",
}
"""numpy's name of the type that a tensor has in a message."""


class RangeError(ValueError):
    """Values that a format cannot hold, or that are not finite."""


def to_wire(array: np.ndarray, transport: Transport) -> np.ndarray:
    """Round to the nearest value of a format, to the even one of two.

    Parameters
    ----------
    array : float32, any shape; float32 goes through as it is

    Returns
    -------
    Of the same shape, of the type in `WIRE_TYPES`.

    Raises
    ------
    RangeError
        If a value is not finite before or after rounding.
    """
    if transport == "float32":
        return array
    if not np.isfinite(array).all():
        raise RangeError("values are not finite")
    wire: np.ndarray
    if transport == "float16":
        with np.errstate(over="ignore"):
            wire = array.astype(np.float16)
        ends = np.isfinite(wire)
    else:
        bits = array.view(np.uint32)
        half = 0x7FFF + ((bits >> 16) & 1)  # a tie goes up where the last bit is odd
        wire = np.asarray((bits + half) >> 16, np.uint16)
        ends = (wire & 0x7F80) != 0x7F80
    if not ends.all():
        raise RangeError(f"values are too large for {transport}")
    return wire


def from_wire(wire: np.ndarray, transport: Transport) -> np.ndarray:
    """Read what `to_wire` made; exact, and never refused.

    Parameters
    ----------
    wire : of the type in `WIRE_TYPES`; may hold bits that are not finite

    Returns
    -------
    float32
    """
    if transport == "float32":
        return wire
    if transport == "float16":
        return wire.astype(np.float32)
    return (wire.astype(np.uint32) << 16).view(np.float32)
