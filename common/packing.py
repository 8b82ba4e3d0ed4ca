"""Tensors inside a message: one array in the safetensors format.

Flower moves every array of a record by requests of its own, and a network has hundreds.
The format is a table of names, types and shapes, and then the values; our reader gives
views where that of the safetensors package copies.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping

import numpy as np
from flwr.app import Array, ArrayRecord

TENSORS = "safetensors"
"""Name and serialisation of the one array that holds all tensors of a message."""

_CODES = {
    **{"float64": "F64", "float32": "F32", "float16": "F16"},
    **{"int64": "I64", "int32": "I32", "uint16": "U16", "uint8": "U8"},
}
_DTYPES = {code: dtype for dtype, code in _CODES.items()}


class WireError(ValueError):
    """A record that does not fit its schema; the text names fields, never values."""


def pack_tensors(shared: Mapping[str, np.ndarray]) -> ArrayRecord:
    """Pack tensors for Flower; the record may be part of any number of messages.

    All travel as one array. Without tensors the record is empty.
    """
    return ArrayRecord({TENSORS: _pack(shared)} if shared else {})


def unpack_tensors(record: ArrayRecord) -> dict[str, np.ndarray]:
    """Look at the tensors inside a record, trusting nothing.

    Returns
    -------
    Read-only views of the record, in the order of their names.

    Raises
    ------
    WireError
        If the record is not one that `pack_tensors` makes.
    """
    if not record:
        return {}
    try:
        (array,) = record.values()
        if TENSORS not in record or array.stype != TENSORS:
            raise ValueError("serialised in another way than expected")
        return dict(sorted(_views(array.data)))
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise WireError(f"tensors are unreadable ({type(error).__name__})") from None


def _pack(tensors: Mapping[str, np.ndarray]) -> Array:
    """Serialise as ``safetensors.numpy.save`` does, with two copies fewer."""
    names = sorted(tensors, key=lambda name: (-tensors[name].itemsize, name))
    header, end = {}, 0
    for name in names:
        array, begin = tensors[name], end
        end += array.nbytes
        header[name] = {
            "dtype": _CODES[array.dtype.name],
            "shape": array.shape,
            "data_offsets": (begin, end),
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that tensors are aligned
    values = (
        np.asarray(tensors[name], order="C").reshape(-1).view(np.uint8).data
        for name in names
    )
    data = b"".join([len(text).to_bytes(8, "little"), text, *values])
    return Array("uint8", (len(data),), TENSORS, data)


def _views(data: bytes) -> Iterator[tuple[str, np.ndarray]]:
    """Read what `_pack` wrote: tensors follow each other, and no byte is left over."""
    start = 8 + int.from_bytes(data[:8], "little")
    header, flat = json.loads(data[8:start]), np.frombuffer(data, np.uint8)
    if not isinstance(header, dict):
        raise ValueError("the header is no table")
    for name, entry in header.items():
        dtype, shape = np.dtype(_DTYPES[entry["dtype"]]), tuple(entry["shape"])
        if any(side < 0 for side in shape):
            raise ValueError("a side is negative")
        end = start + math.prod(shape) * dtype.itemsize
        yield name, flat[start:end].view(dtype).reshape(shape)
        start = end
    if start != len(data):
        raise ValueError("bytes are left over")
