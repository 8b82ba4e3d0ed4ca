"""What crosses the wire is checked, and read without a copy."""

from __future__ import annotations

import io

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from common.records import WireError, decode, encode, pack_tensors

SCHEMA = {"site": str, "images": int, "loss": float}
FIELDS = {"site": "alpha", "images": 3, "loss": 0.5}


def with_data(data: bytes) -> RecordDict:
    arrays = ArrayRecord({"w": Array("float32", (2,), "numpy.ndarray", data)})
    return encode(FIELDS, arrays, SCHEMA)


def npy(header: str) -> bytes:
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + b"\0" * 8


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int64"])
@pytest.mark.parametrize("shape", [(), (0,), (5,), (2, 3, 4)])
def test_tensors_come_back_as_they_were(dtype: str, shape: tuple[int, ...]) -> None:
    tensor = np.random.default_rng(0).normal(size=shape).astype(dtype)
    packed = pack_tensors({"w": tensor, "turned": tensor.T})
    _, tensors = decode(encode(FIELDS, packed, SCHEMA), SCHEMA)
    assert np.array_equal(tensors["w"], tensor)
    assert np.array_equal(tensors["turned"], tensor.T)
    assert tensors["w"].dtype == tensor.dtype
    assert np.array_equal(packed["w"].numpy(), tensor), "numpy.load reads it too"


def test_what_numpy_saves_is_read() -> None:
    stream = io.BytesIO()
    np.save(stream, np.asfortranarray(np.arange(6.0).reshape(2, 3)))
    _, tensors = decode(with_data(stream.getvalue()), SCHEMA)
    assert np.array_equal(tensors["w"], np.arange(6.0).reshape(2, 3))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"garbage",
        npy("{'descr': ("),
        npy("{'descr': (), 'fortran_order': False, 'shape': (2,)}"),
        npy("  {'descr': '<f4',\n 'x'"),
        npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}"),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (10**12,)}"),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (99,)}"),
        npy("__import__('os').getcwd()"),
    ],
)
def test_a_hostile_tensor_is_one_refused_record(data: bytes) -> None:
    with pytest.raises(WireError, match="unreadable"):
        decode(with_data(data), SCHEMA)


@pytest.mark.parametrize(
    "fields",
    [
        {"site": "alpha", "images": 3},
        FIELDS | {"patient_name": "DOE^JANE"},
        FIELDS | {"images": 3.0},
        FIELDS | {"images": True},
        FIELDS | {"loss": 1},
    ],
)
def test_fields_outside_the_schema_are_refused_without_their_names(
    fields: dict[str, object],
) -> None:
    with pytest.raises(WireError) as caught:
        encode(fields, ArrayRecord(), SCHEMA)  # type: ignore[arg-type]
    assert "patient_name" not in str(caught.value)


def test_other_records_are_refused() -> None:
    content = RecordDict({"shared": ArrayRecord(), "numbers": MetricRecord()})
    with pytest.raises(WireError, match="three expected"):
        decode(content, SCHEMA)
    swapped = RecordDict(
        {"shared": ConfigRecord(), "numbers": MetricRecord(), "words": ConfigRecord()}
    )
    with pytest.raises(WireError, match="another type"):
        decode(swapped, SCHEMA)
