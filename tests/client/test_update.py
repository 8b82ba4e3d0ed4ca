"""What a site sends of a round, and what it keeps back."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from client.update import update_of
from common.records import Code, Refusal
from common.transport import Transport, from_wire

SIGNIFICANT = {"float16": 11, "bfloat16": 8}


def half_step(value: np.ndarray, transport: Transport) -> np.ndarray:
    """Return half the distance of two numbers of the format around a value."""
    exponent = np.frexp(np.abs(value))[1] - SIGNIFICANT[transport]
    smallest = -24 if transport == "float16" else -133
    return np.ldexp(0.5, np.maximum(exponent, smallest))


@pytest.mark.parametrize("transport", ["float16", "bfloat16"])
def test_all_that_was_sent_is_all_that_was_learned_but_for_one_rounding(
    transport: Transport,
) -> None:
    """Over 300 rounds; the formula is that of the last rounding alone."""
    random = np.random.default_rng(0)
    drift = random.normal(size=2000) * 1e-3
    learned, sent_in_all, without = (np.zeros(2000) for _ in range(3))
    residual: dict[str, np.ndarray] = {}
    for _ in range(300):
        step = drift + random.normal(size=2000) * 1e-4
        received = {"w": torch.from_numpy(random.normal(size=2000).astype(np.float32))}
        trained = {"w": (received["w"].numpy() + step).astype(np.float32)}
        moved = trained["w"] - received["w"].numpy()  # what float32 made of the step
        sent, kept = update_of(trained, received, residual, transport)
        wanted = moved + residual.get("w", np.float32(0))
        learned += moved
        sent_in_all += from_wire(sent["w"], transport)
        without += from_wire(
            update_of(trained, received, {}, transport)[0]["w"], transport
        )
        residual = kept
    difference = np.abs(sent_in_all - learned)
    in_sums = 300 * 2.0**-24 * np.abs(wanted)  # of float32, in wanted
    assert (difference <= half_step(wanted, transport) + in_sums).all()
    assert np.abs(sent_in_all - learned + residual["w"]).max() < 1e-6
    lost = np.abs(without - learned)
    assert (lost > half_step(wanted, transport) + in_sums).mean() > 0.5


def test_float32_sends_the_weights_themselves_and_keeps_nothing_back() -> None:
    trained = {"w": np.array([1.0, 2.0], np.float32)}
    sent, kept = update_of(trained, {"w": torch.zeros(2)}, {}, "float32")
    assert sent["w"] is trained["w"]
    assert kept == {}


@pytest.mark.parametrize(
    ("value", "transport"),
    [
        (np.nan, "float32"),
        (np.inf, "float32"),
        (np.nan, "float16"),
        (7e4, "float16"),
        (-np.inf, "bfloat16"),
        (3.4e38, "bfloat16"),
    ],
)
def test_what_cannot_be_sent_is_refused(value: float, transport: Transport) -> None:
    trained = {"w": np.array([0.0, value], np.float32)}
    with pytest.raises(Refusal) as caught:
        update_of(trained, {"w": torch.zeros(2)}, {}, transport)
    assert caught.value.code == Code.NOT_FINITE
