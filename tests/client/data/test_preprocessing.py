"""Crop, side, size and depth of the cached image."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from client.data.codes import Rejected
from client.data.preprocessing import (
    apply_lut,
    breast_mask,
    chest_wall_is_right,
    fit,
    preprocess,
    to_cached,
)
from common.plan import Preprocessing

PLAN = Preprocessing(rows=64, columns=32)


def _breast(noise: float = 0.0) -> np.ndarray:
    row, column = np.mgrid[0:200, 0:150]
    inside = ((row - 100) / 60) ** 2 + ((column - 8) / 80) ** 2 < 1
    image = np.where(inside & (column >= 8), 0.5, 0.02).astype(np.float32)
    image[90:95, 50:55] = 0.9
    return np.clip(image + _noise(noise), 0, 1)


def _noise(deviation: float) -> np.ndarray:
    drawn = np.random.default_rng(0).normal(0, deviation, (200, 150))
    return drawn.astype(np.float32)


@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_crop_bounds_the_breast_and_reaches_the_chest_wall_edge(noise: float) -> None:
    _, geometry = preprocess(_breast(noise=noise), PLAN)
    assert geometry.column0 == 0 and not geometry.flipped
    assert 35 <= geometry.row0 <= 41 and 159 <= geometry.row1 <= 165
    assert 87 <= geometry.column1 <= 92
    assert (geometry.original_rows, geometry.original_columns) == (200, 150)


def test_mirrored_image_gives_the_same_cached_image() -> None:
    left, _ = preprocess(_breast(), PLAN)
    right, geometry = preprocess(np.ascontiguousarray(_breast()[:, ::-1]), PLAN)
    assert geometry.flipped and geometry.column1 == 150
    np.testing.assert_array_equal(left, right)


def test_tight_crop_with_most_mass_at_the_nipple_is_still_turned_right() -> None:
    mask = np.zeros((100, 60), bool)
    mask[:, :3] = True
    mask[20:80, 3:] = True
    mask[10:90, 40:55] = True
    assert int(mask[:, 30:].sum()) > int(mask[:, :30].sum())
    assert not chest_wall_is_right(mask) and chest_wall_is_right(mask[:, ::-1])


def test_label_in_the_background_is_not_the_breast() -> None:
    image = _breast()
    image[5:15, 130:145] = 1.0
    assert preprocess(image, PLAN)[1] == preprocess(_breast(), PLAN)[1]


def test_bright_film_background_is_not_the_breast() -> None:
    uneven = cv2.GaussianBlur(_noise(1.0), (0, 0), 8)
    film = 0.2 + 0.8 * _breast() + uneven * (0.03 / uneven.std())
    film[180:190, 100:120] = 0.0
    mask = breast_mask(film.astype(np.float32))
    assert not mask[:, 100:].any() and mask[100, 9:80].all()


def test_no_crop_keeps_the_whole_image() -> None:
    _, geometry = preprocess(_breast(), Preprocessing(crop="none", rows=64, columns=64))
    assert (geometry.row0, geometry.row1) == (0, 200)
    assert (geometry.column0, geometry.column1) == (0, 150)


@pytest.mark.parametrize("shape", [(200, 50), (200, 150), (50, 200), (10, 5), (1, 1)])
def test_aspect_is_kept_and_the_rest_is_zero(shape: tuple[int, int]) -> None:
    fitted = fit(np.ones(shape, np.float32), 64, 32)
    rows = np.flatnonzero(fitted[:, 0] > 0)
    columns = np.flatnonzero(fitted[rows[0]] > 0)
    assert columns[0] == 0 and fitted.shape == (64, 32)
    scale = min(64 / shape[0], 32 / shape[1])
    assert len(rows) == pytest.approx(shape[0] * scale, abs=0.51)
    assert len(columns) == pytest.approx(shape[1] * scale, abs=0.51)
    assert rows[0] == (64 - len(rows)) // 2
    assert fitted.sum() == pytest.approx(len(rows) * len(columns))


def test_shrinking_averages_areas() -> None:
    image = np.random.default_rng(1).random((128, 64)).astype(np.float32)
    blocks = image.reshape(64, 2, 32, 2).mean(axis=(1, 3))
    np.testing.assert_allclose(fit(image, 64, 32), blocks, atol=1e-6)


def test_sixteen_bits_are_kept() -> None:
    image = (np.arange(64 * 32).reshape(64, 32) * 31 / 65535).astype(np.float32)
    plan = Preprocessing(crop="none", rows=64, columns=32)
    cached, geometry = preprocess(image, plan)
    expected = np.arange(64 * 32).reshape(64, 32) * 31
    expected = expected[:, ::-1] if geometry.flipped else expected
    assert cached.dtype == np.uint16
    np.testing.assert_array_equal(cached, expected)


@pytest.mark.parametrize("mirrored", [False, True])
def test_points_follow_into_the_cached_image(mirrored: bool) -> None:
    image = _breast()
    image = np.ascontiguousarray(image[:, ::-1]) if mirrored else image
    cached, geometry = preprocess(image, PLAN)
    column = 150 - 52.5 if mirrored else 52.5
    row, column = to_cached(92.5, column, geometry, PLAN)
    brightest = np.argwhere(cached > 0.75 * cached.max()).mean(axis=0) + 0.5
    np.testing.assert_allclose((row, column), brightest, atol=0.6)


def test_blank_image_is_rejected() -> None:
    with pytest.raises(Rejected, match="Q_BLANK"):
        preprocess(np.full((20, 20), 0.3, np.float32), PLAN)


def test_luts_are_monotone_and_keep_the_ends() -> None:
    ramp = np.linspace(0, 1, 101, dtype=np.float32)
    sigmoid = {"kind": "sigmoid", "center": 0.4, "width": 0.6}
    for lut in ({"kind": "gamma", "gamma": 0.6}, sigmoid, {"kind": "linear"}):
        changed = apply_lut(ramp, lut)
        assert changed.dtype == np.float32 and (np.diff(changed) > 0).all()
        np.testing.assert_allclose(changed[[0, -1]], [0, 1], atol=1e-6)
    np.testing.assert_allclose(
        apply_lut(ramp, {"kind": "gamma", "gamma": 2.0}), ramp**2, atol=1e-6
    )
    with pytest.raises(ValueError, match="gamma"):
        apply_lut(ramp, {"kind": "gamma", "gamma": 0})
