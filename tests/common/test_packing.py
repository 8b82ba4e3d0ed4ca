"""Tensors in a message: as safetensors writes them, and read without a copy."""

from __future__ import annotations

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord
from safetensors.numpy import load, save

from common.packing import TENSORS, WireError, pack_tensors, unpack_tensors


def with_data(data: bytes, name: str = TENSORS, kind: str = TENSORS) -> ArrayRecord:
    return ArrayRecord({name: Array("uint8", (len(data),), kind, data)})


def blob(header: str, values: bytes = b"\0" * 8) -> bytes:
    return len(header).to_bytes(8, "little") + header.encode() + values


def entry(dtype: str = "F32", shape: str = "[2]") -> str:
    return f'{{"w": {{"dtype": "{dtype}", "shape": {shape}}}}}'


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int64", "uint16"])
@pytest.mark.parametrize("shape", [(), (0,), (5,), (2, 3, 4)])
def test_tensors_come_back_as_they_were(dtype: str, shape: tuple[int, ...]) -> None:
    tensor = (9 * np.random.default_rng(0).random(shape)).astype(dtype)
    sent = {"w": tensor, "turned": tensor.T, "a": np.ones(3, np.float16)}
    packed = pack_tensors(sent)
    tensors = unpack_tensors(packed)
    again = load(packed[TENSORS].data)
    assert list(tensors) == sorted(sent) and again.keys() == sent.keys()
    for name, array in sent.items():
        for found in (tensors[name], again[name]):  # safetensors reads the same
            assert np.array_equal(found, array) and found.dtype == array.dtype
            assert found.shape == array.shape


def test_what_safetensors_saves_is_read() -> None:
    tensors = {"b": np.arange(6.0).reshape(2, 3), "a": np.arange(3, dtype=np.uint16)}
    found = unpack_tensors(with_data(save(tensors)))
    assert found.keys() == tensors.keys()
    assert all(np.array_equal(found[key], tensors[key]) for key in tensors)


def test_all_tensors_are_one_array_that_is_read_without_a_copy() -> None:
    packed = pack_tensors({f"layer{n}": np.ones(4, np.float32) for n in range(300)})
    assert list(packed) == [TENSORS]
    tensors = unpack_tensors(packed)
    whole = np.frombuffer(packed[TENSORS].data, np.uint8)
    assert all(np.shares_memory(one, whole) for one in tensors.values())
    assert not any(one.flags.writeable for one in tensors.values())
    assert not pack_tensors({})


def test_tensors_are_aligned_whatever_stands_before_them() -> None:
    names = ("a", "bb", "ccc", "dddd")
    dtypes = (np.float16, np.float64, np.uint8, np.float32)
    sent = {name: np.ones(3, dtype) for name, dtype in zip(names, dtypes, strict=True)}
    for length in range(8):
        found = unpack_tensors(pack_tensors({"x" * (1 + length): np.ones(1), **sent}))
        assert all(one.ctypes.data % one.itemsize == 0 for one in found.values())


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
        blob(
            entry("F32", "[3]").replace(
                "{", '{"a": {"dtype": "F32", "shape": [-1]}, ', 1
            )
        ),
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
        unpack_tensors(with_data(data))


def test_an_array_of_another_name_or_kind_is_refused() -> None:
    good = pack_tensors({"w": np.ones(2, np.float32)})[TENSORS].data
    unpack_tensors(with_data(good))
    for name, kind in (("w", TENSORS), (TENSORS, "numpy.ndarray")):
        with pytest.raises(WireError, match="unreadable"):
            unpack_tensors(with_data(good, name, kind))
    two = ArrayRecord(
        {name: Array("uint8", (1,), TENSORS, good) for name in (TENSORS, "more")}
    )
    with pytest.raises(WireError, match="unreadable"):
        unpack_tensors(two)
