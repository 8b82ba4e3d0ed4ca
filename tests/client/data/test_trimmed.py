"""An empty border changes nothing of what tells a copy; the image itself does."""

from __future__ import annotations

import numpy as np
import pytest

from client.data.trimmed import trimmed, trimmed_sha256

IMAGE = np.random.default_rng(0).integers(1, 4000, (37, 23)).astype(np.uint16)


@pytest.mark.parametrize("value", [0, 7])
def test_a_border_on_any_side_is_cut_off(value: int) -> None:
    for border in (
        (5, 0, 0, 0),
        (0, 4, 0, 0),
        (0, 0, 3, 0),
        (0, 0, 0, 2),
        (5, 4, 3, 2),
    ):
        above, below, left, right = border
        padded = np.pad(IMAGE, ((above, below), (left, right)), constant_values=value)
        assert (trimmed(padded) == IMAGE).all()
        assert trimmed_sha256(padded) == trimmed_sha256(IMAGE)


def test_a_border_inside_a_border_is_cut_off_too() -> None:
    inner = np.pad(IMAGE, 3, constant_values=5)
    assert (trimmed(np.pad(inner, 2)) == IMAGE).all()
    assert trimmed_sha256(np.pad(inner, ((0, 6), (0, 1)))) == trimmed_sha256(IMAGE)


def test_another_image_or_a_part_of_it_is_no_copy() -> None:
    found = {
        trimmed_sha256(other)
        for other in (IMAGE, IMAGE[1:], IMAGE[:, :-1], IMAGE[::-1], IMAGE + 1, IMAGE.T)
    }
    assert len(found) == 6


@pytest.mark.parametrize("shape", [(4, 5), (1, 1), (1, 7), (7, 1), (0, 3)])
def test_an_image_of_one_value_is_trimmed_to_nothing(shape: tuple[int, int]) -> None:
    assert trimmed(np.full(shape, 3, np.uint16)).size == 0
