"""What crosses the wire is checked, and read without a copy."""

from __future__ import annotations

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from safetensors.numpy import load, save

from common.records import TENSORS, WireError, decode, encode, pack_tensors

SCHEMA = {"site": str, "images": int, "loss": float}
FIELDS = {"site": "alpha", "images": 3, "loss": 0.5}


def with_data(data: bytes, name: str = TENSORS, kind: str = TENSORS) -> RecordDict:
    arrays = ArrayRecord({name: Array("uint8", (len(data),), kind, data)})
    return encode(FIELDS, arrays, SCHEMA)


def blob(header: str, values: bytes = b"\0" * 8) -> bytes:
    return len(header).to_bytes(8, "little") + header.encode() + values


def entry(dtype: str = "F32", shape: str = "[2]", more: str = "") -> str:
    return f'{{"w": {{"dtype": "{dtype}", "shape": {shape}{more}}}}}'


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int64", "uint16"])
@pytest.mark.parametrize("shape", [(), (0,), (5,), (2, 3, 4)])
def test_tensors_come_back_as_they_were(dtype: str, shape: tuple[int, ...]) -> None:
    tensor = (9 * np.random.default_rng(0).random(shape)).astype(dtype)
    sent = {"w": tensor, "turned": tensor.T, "a": np.ones(3, np.float16)}
    packed = pack_tensors(sent)
    _, tensors = decode(encode(FIELDS, packed, SCHEMA), SCHEMA)
    again = load(packed[TENSORS].data)
    assert list(tensors) == sorted(sent) and again.keys() == sent.keys()
    for name, array in sent.items():
        for found in (tensors[name], again[name]):  # safetensors reads the same
            assert np.array_equal(found, array) and found.dtype == array.dtype
            assert found.shape == array.shape


def test_what_safetensors_saves_is_read() -> None:
    tensors = {"b": np.arange(6.0).reshape(2, 3), "a": np.arange(3, dtype=np.uint16)}
    _, found = decode(with_data(save(tensors)), SCHEMA)
    assert found.keys() == tensors.keys()
    assert all(np.array_equal(found[key], tensors[key]) for key in tensors)


def test_all_tensors_are_one_array_that_is_read_without_a_copy() -> None:
    packed = pack_tensors({f"layer{n}": np.ones(4, np.float32) for n in range(300)})
    assert list(packed) == [TENSORS]
    _, tensors = decode(encode(FIELDS, packed, SCHEMA), SCHEMA)
    whole = np.frombuffer(packed[TENSORS].data, np.uint8)
    assert all(np.shares_memory(one, whole) for one in tensors.values())
    assert not any(one.flags.writeable for one in tensors.values())
    assert not pack_tensors({})


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"garbage",
        b"\xff" * 64,
        blob("{"),
        blob("[1]"),
        blob('{"w": 3}'),
        blob('{"w": [1]}'),
        blob('{"w": {"dtype": "F32"}}'),
        blob(entry("O")),
        blob(entry("F32", "[-2]")),
        blob(entry("F32", "[1.0, 2]")),
        blob(entry("F32", "[true, 2]")),
        blob(entry("F32", '"2"')),
        blob(entry("F32", "[1000000000000000]")),
        blob(entry("F32", f"[{'9' * 400}]")),
        blob(entry("F32", "[3]")),
        blob(entry("F32", "[1]")),
        blob("[" * 100_000),
    ],
)
def test_a_hostile_tensor_is_one_refused_record(data: bytes) -> None:
    with pytest.raises(WireError, match="unreadable"):
        decode(with_data(data), SCHEMA)


def test_an_array_of_another_name_or_kind_is_refused() -> None:
    good = pack_tensors({"w": np.ones(2, np.float32)})[TENSORS].data
    decode(with_data(good), SCHEMA)
    for name, kind in (("w", TENSORS), (TENSORS, "numpy.ndarray")):
        with pytest.raises(WireError, match="unreadable"):
            decode(with_data(good, name, kind), SCHEMA)
    two = ArrayRecord(
        {name: Array("uint8", (1,), TENSORS, good) for name in (TENSORS, "more")}
    )
    with pytest.raises(WireError, match="unreadable"):
        decode(encode(FIELDS, two, SCHEMA), SCHEMA)


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
