"""Outline and texture against their formulas."""

import numpy as np
import pytest

from simulations.synthetic.anatomy import (
    TEXTURE_EXPONENT,
    Grid,
    draw_shape,
    draw_tissue,
    power_law_texture,
)

GRID = Grid(rows=256, columns=128, spacing=240 / 256)


def test_texture_has_unit_variance_and_mean_zero():
    fields = [power_law_texture(np.random.default_rng(i), GRID) for i in range(60)]
    assert np.mean(fields) == pytest.approx(0, abs=1e-9)
    assert np.mean(np.square(fields)) == pytest.approx(1, rel=0.15)


def test_texture_follows_the_power_law():
    rng = np.random.default_rng(3)
    power = np.zeros((GRID.rows, GRID.columns))
    for _ in range(40):
        power += np.abs(np.fft.fft2(power_law_texture(rng, GRID))) ** 2
    fy = np.fft.fftfreq(GRID.rows, GRID.spacing)[:, None]
    fx = np.fft.fftfreq(GRID.columns, GRID.spacing)[None, :]
    frequency = np.hypot(fy, fx)
    middle = (frequency > 0.03) & (frequency < 0.4)
    slope = np.polyfit(np.log(frequency[middle]), np.log(power[middle]), 1)[0]
    assert slope == pytest.approx(-TEXTURE_EXPONENT, abs=0.05)


@pytest.mark.parametrize("view", ["CC", "MLO"])
@pytest.mark.parametrize("size", [0.82, 1.12])
def test_breast_touches_the_chest_wall_and_stays_in_the_field(view, size):
    rng = np.random.default_rng(0)
    for _ in range(20):
        shape = draw_shape(rng, size, view, 240.0)
        radius = shape.radius(*GRID.axes())
        assert (radius[:, 0] < 1).sum() > GRID.rows / 2
        assert (radius[:, -1] > 1).all(), "the nipple is cut off"
        assert (radius[-1] > 1).all(), "the lower end is cut off"
        assert (shape.muscle is not None) == (view == "MLO")


def test_denser_classes_are_brighter_and_air_is_zero():
    shape = draw_shape(np.random.default_rng(1), 1.0, "CC", 240.0)
    tissues = [
        draw_tissue(np.random.default_rng(2), shape, density, GRID)
        for density in "ABCD"
    ]
    assert np.all(np.diff([tissue.mean() for tissue in tissues]) > 0.01)
    air = shape.radius(*GRID.axes()) >= 1
    assert all(np.array_equal(tissue == 0, air) for tissue in tissues)


def test_muscle_brightens_the_upper_corner_of_mlo():
    shape = draw_shape(np.random.default_rng(1), 1.0, "MLO", 240.0)
    tissue = draw_tissue(np.random.default_rng(2), shape, "A", GRID)
    corner, middle = tissue[5:20, 2:12], tissue[150:165, 40:50]
    assert corner.mean() > middle.mean() + 0.15
