"""Rounding to 16 bits, against torch's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from common.transport import WIRE_TYPES, RangeError, Transport, from_wire, to_wire

HALVES: tuple[Transport, ...] = ("float16", "bfloat16")


def by_torch(array: np.ndarray, transport: str) -> np.ndarray:
    half = torch.from_numpy(array).to(getattr(torch, transport))
    return half.float().numpy()


def every_kind_of_value() -> np.ndarray:
    """Random values of every size, ties, the smallest, zeros of both signs."""
    random = np.random.default_rng(0)
    sizes = 10.0 ** random.uniform(-12, 4, 50_000)
    values = (random.normal(size=50_000) * sizes).astype(np.float32)
    grid = np.arange(0x3F80_0000, 0x3F84_0000, 0x800, dtype=np.uint32)  # with all ties
    ends = np.array([0.0, -0.0, 1e-45, 6e-8, 3e-8, 65504.0, 65519.9], np.float32)
    return np.concatenate([values, grid.view(np.float32), -grid.view(np.float32), ends])


@pytest.mark.parametrize("transport", HALVES)
def test_rounding_is_that_of_torch_bit_for_bit(transport: Transport) -> None:
    values = every_kind_of_value()
    values = values[np.abs(values) < 65520.0]
    wire = to_wire(values, transport)
    assert wire.dtype.name == WIRE_TYPES[transport]
    assert wire.nbytes * 2 == values.nbytes
    read = from_wire(wire, transport)
    assert read.dtype == np.float32
    expected = by_torch(values, transport)
    assert np.array_equal(read.view(np.uint32), expected.view(np.uint32))


@pytest.mark.parametrize("transport", HALVES)
def test_rounding_twice_changes_nothing_and_its_error_is_exact(
    transport: Transport,
) -> None:
    values = every_kind_of_value()
    once = from_wire(to_wire(values, transport), transport)
    assert np.array_equal(from_wire(to_wire(once, transport), transport), once)
    error = values - once
    assert np.array_equal(once.astype(np.float64) + error, values.astype(np.float64))


@pytest.mark.parametrize(
    ("value", "refusing"),
    [
        (65519.99, ()),
        (65520.0, ("float16",)),
        (-1e30, ("float16",)),
        (3.4e38, HALVES),
        (np.inf, HALVES),
        (np.nan, HALVES),
        (np.uint32(0x7FFF_FFFF).view(np.float32), HALVES),
    ],
)
def test_what_a_format_cannot_hold_is_refused(
    value: float, refusing: tuple[str, ...]
) -> None:
    array = np.array([1.0, value], np.float32)
    assert np.array_equal(to_wire(array, "float32"), array, equal_nan=True)
    for transport in HALVES:
        if transport in refusing:
            with pytest.raises(RangeError, match=r"too large|not finite"):
                to_wire(array, transport)
        else:
            assert np.isfinite(from_wire(to_wire(array, transport), transport)).all()


@pytest.mark.parametrize("transport", HALVES)
def test_strides_and_scalars_are_kept(transport: Transport) -> None:
    values = np.random.default_rng(1).normal(size=(3, 4, 5, 2)).astype(np.float32)
    for array in (values.transpose(0, 3, 1, 2), values[0, 0, 0, 0].reshape(())):
        read = from_wire(to_wire(array, transport), transport)
        assert read.shape == array.shape
        expected = by_torch(np.ascontiguousarray(array).reshape(array.shape), transport)
        assert np.array_equal(read, expected)


def test_float32_goes_through_as_it_is() -> None:
    values = every_kind_of_value()
    assert to_wire(values, "float32") is values
    assert from_wire(values, "float32") is values
