"""The healthy breast: outline, pectoral muscle and parenchyma.

Everything is in millimetres in the plane of the detector, with the chest wall at x = 0
and y pointing down; `render` turns it to the side a hospital stores. The signal is 0 in
air and about 1 in the brightest tissue.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float64]

FAT, GLAND, MUSCLE = 0.28, 0.26, 0.56
TEXTURE_EXPONENT = 3.0  # power spectrum 1 / f ** 3, Burgess et al., Med Phys 2001
DENSITY_THRESHOLD = {"A": 1.5, "B": 0.8, "C": 0.1, "D": -0.6}
SKIN_MM = 8.0


@dataclass(frozen=True)
class Grid:
    """Pixel centres in millimetres.

    Attributes
    ----------
    rows, columns : matrix size
    spacing : millimetres per pixel, the same in both directions
    """

    rows: int
    columns: int
    spacing: float

    def axes(
        self, row0: int = 0, column0: int = 0, row1: int = -1, column1: int = -1
    ) -> tuple[Image, Image]:
        """Return x, shape (1, columns), and y, shape (rows, 1), of a part."""
        row1 = self.rows if row1 < 0 else row1
        column1 = self.columns if column1 < 0 else column1
        x = (np.arange(column0, column1, dtype=np.float64) + 0.5) * self.spacing
        y = (np.arange(row0, row1, dtype=np.float64) + 0.5) * self.spacing
        return x[None, :], y[:, None]


@dataclass(frozen=True)
class Shape:
    """Outline of a compressed breast: half a superellipse, upper and lower part.

    Attributes
    ----------
    depth : chest wall to nipple
    upper, lower : half heights above and below the nipple line
    nipple : y of the nipple line
    muscle : x and y where the edge of the pectoral muscle meets the top and the
        chest wall; None in CC
    """

    depth: float
    upper: float
    lower: float
    nipple: float
    muscle: tuple[float, float] | None

    def radius(self, x: Image, y: Image) -> Image:
        """Return 0 at the middle of the chest wall, 1 on the skin, above 1 in air."""
        half = np.where(y < self.nipple, self.upper, self.lower)
        power = (x / self.depth) ** 2.2 + (np.abs(y - self.nipple) / half) ** 2.2
        return np.asarray(power ** (1 / 2.2))

    def thickness(self, radius: Image) -> Image:
        """Return 0 in air, rising to 1 within `SKIN_MM` below the skin."""
        inside = np.clip((1 - radius) * self.depth / SKIN_MM, 0, 1)
        return np.asarray(1 - (1 - inside) ** 2)


def draw_shape(rng: np.random.Generator, size: float, view: str, field: float) -> Shape:
    """Draw the outline of one view.

    Parameters
    ----------
    rng : consumed the same way for both views
    size : of this patient, about 0.85 to 1.1
    view : ``CC`` or ``MLO``
    field : height of the detector in millimetres
    """
    depth, half, shift = rng.normal([92.0, 88.0, 0.0], [3.0, 2.5, 3.0])
    top_x, wall_y = rng.uniform([38.0, 85.0], [58.0, 125.0])
    if view == "CC":
        return Shape(depth * size, half * size, half * size, field / 2 + shift, None)
    nipple = 0.53 * field + shift
    lower = min(half * size, field - nipple - 6.0)
    return Shape(depth * size, 1.18 * nipple, lower, nipple, (top_x, wall_y))


def draw_tissue(
    rng: np.random.Generator, shape: Shape, density: str, grid: Grid
) -> Image:
    """Draw fat, glandular tissue and muscle of one view.

    Parameters
    ----------
    rng : its draws do not depend on shape or density
    shape : outline from `draw_shape`
    density : ``A`` (fatty) to ``D`` (extremely dense)
    grid : where to sample

    Returns
    -------
    float64, shape (rows, columns); 0 in air and nowhere else
    """
    x, y = grid.axes()
    radius = shape.radius(x, y)
    texture = power_law_texture(rng, grid)
    central = 0.9 * (0.5 - radius)
    dense = texture + central - DENSITY_THRESHOLD[density]
    gland = 1 / (1 + np.exp(-np.clip(dense / 0.7, -30, 30)))
    tissue = FAT + GLAND * gland + 0.015 * texture
    if shape.muscle is not None:
        top_x, wall_y = shape.muscle
        beyond = (1 - x / top_x - y / wall_y) * top_x  # mm inside the muscle's edge
        muscle = 1 / (1 + np.exp(-np.clip(beyond / 1.5, -30, 30)))
        tissue += muscle * (MUSCLE + 0.02 * texture - tissue)
    return np.asarray(tissue * shape.thickness(radius))


def power_law_texture(rng: np.random.Generator, grid: Grid) -> Image:
    """Draw a Gaussian field with power spectrum ``1 / f ** TEXTURE_EXPONENT``.

    Returns
    -------
    float64, shape (rows, columns), mean 0, expected standard deviation 1
    """
    amplitude = _amplitude(grid)
    noise = rng.standard_normal((2, *amplitude.shape))
    spectrum = amplitude * (noise[0] + 1j * noise[1])
    return np.fft.irfft2(spectrum, s=(grid.rows, grid.columns))


@lru_cache(maxsize=8)
def _amplitude(grid: Grid) -> Image:
    """Return the half-plane amplitude spectrum that gives a field of variance 1."""
    fy = np.fft.fftfreq(grid.rows, grid.spacing)[:, None]
    fx = np.fft.rfftfreq(grid.columns, grid.spacing)[None, :]
    frequency = np.maximum(np.hypot(fx, fy), 1 / 120)  # nothing larger than the breast
    amplitude = frequency ** (-TEXTURE_EXPONENT / 2)
    amplitude[0, 0] = 0.0
    power = 2 * np.square(amplitude)
    power[:, 1:] *= 2  # columns of the other half plane
    scale = grid.rows * grid.columns / np.sqrt(power.sum())
    amplitude = np.asarray(amplitude * scale)
    amplitude.setflags(write=False)
    return amplitude
