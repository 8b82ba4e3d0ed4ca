"""From a patient to stored pixels, as one hospital's scanner would make them."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from simulations.synthetic.anatomy import Grid, Image, Shape, draw_shape, draw_tissue
from simulations.synthetic.lesions import Box, Finding, locate, paint
from simulations.synthetic.patients import Breast, draw_patient, random_generator
from simulations.synthetic.profiles import VIEWS, SiteProfile

Stored = NDArray[np.uint16]

SIGNAL_TOP = 1.25  # signal that reaches the top of the stored range
AIR = 0.01


@dataclass(frozen=True)
class View:
    """Where everything of one view is: enough to render it or to box its findings."""

    laterality: str
    view: str
    density: str
    shape: Shape
    findings: tuple[Finding, ...]


def render_patient(
    profile: SiteProfile,
    seed: int,
    index: int,
    rows: int,
    columns: int,
    with_lesions: bool = True,
) -> dict[tuple[str, str], Stored]:
    """Render the four images of one patient.

    Parameters
    ----------
    profile : the hospital
    seed : of the archive
    index : number of the patient at this hospital, from 0
    rows, columns : matrix size
    with_lesions : False leaves the findings out and changes nothing else

    Returns
    -------
    (laterality, view) -> uint16, shape (rows, columns): stored pixels, that is before
    the VOI LUT, inverted where the hospital stores MONOCHROME1
    """
    grid = make_grid(profile, rows, columns)
    return {
        (view.laterality, view.view): _render_view(
            profile, seed, index, view, grid, with_lesions
        )
        for view in draw_views(profile, seed, index)
    }


def make_grid(profile: SiteProfile, rows: int, columns: int) -> Grid:
    """Return the pixel grid of this hospital's detector at a matrix size."""
    return Grid(rows, columns, profile.field_height_mm / rows)


def draw_views(profile: SiteProfile, seed: int, index: int) -> list[View]:
    """Draw outline and findings of the four views, without any pixels."""
    patient = draw_patient(profile, seed, index)
    return [
        _draw_view(profile, seed, index, breast, view, patient.density)
        for breast in patient.breasts
        for view in VIEWS
    ]


def _draw_view(
    profile: SiteProfile, seed: int, index: int, breast: Breast, view: str, density: str
) -> View:
    names = ("outline", breast.laterality, view)
    rng = random_generator(seed, profile, index, *names)
    shape = draw_shape(rng, breast.size, view, profile.field_height_mm)
    return View(breast.laterality, view, density, shape, breast.findings)


def finding_boxes(profile: SiteProfile, view: View, grid: Grid) -> list[Box]:
    """Return one box per finding, in stored pixels, that holds all it changes."""
    margin = blur_reach(profile, grid)
    boxes = []
    for finding in view.findings:
        box = locate(finding, view.shape, view.view, grid)
        column0 = max(box.column0 - margin, 0)
        column1 = min(box.column1 + margin, grid.columns)
        if chest_wall_right(profile, view.laterality):
            column0, column1 = grid.columns - column1, grid.columns - column0
        row0, row1 = max(box.row0 - margin, 0), min(box.row1 + margin, grid.rows)
        boxes.append(Box(row0, column0, row1, column1))
    return boxes


def chest_wall_right(profile: SiteProfile, laterality: str) -> bool:
    """Tell on which side of the stored image the chest wall is."""
    return (laterality == "R") != profile.mirrored


def blur_reach(profile: SiteProfile, grid: Grid) -> int:
    """Return the radius of the blur kernel in pixels."""
    return int(np.ceil(3 * profile.blur_mm / grid.spacing))


def _render_view(
    profile: SiteProfile,
    seed: int,
    index: int,
    view: View,
    grid: Grid,
    with_lesions: bool,
) -> Stored:
    names = (view.laterality, view.view)
    tissue_rng = random_generator(seed, profile, index, "tissue", *names)
    signal = draw_tissue(tissue_rng, view.shape, view.density, grid)
    air = signal == 0
    if with_lesions:
        lesion_rng = random_generator(seed, profile, index, "lesions", *names)
        for finding in view.findings:
            box, added = paint(lesion_rng, finding, view.shape, view.view, grid)
            signal[box.row0 : box.row1, box.column0 : box.column1] += added
    noise_rng = random_generator(seed, profile, index, "noise", *names)
    stored = acquire(noise_rng, profile, signal, air, grid)
    if chest_wall_right(profile, view.laterality):
        stored = stored[:, ::-1]
    return np.ascontiguousarray(stored)


def acquire(
    rng: np.random.Generator,
    profile: SiteProfile,
    signal: Image,
    air: NDArray[np.bool_],
    grid: Grid,
) -> Stored:
    """Blur, add noise, apply gamma, quantise, pad and invert as the hospital does.

    Parameters
    ----------
    rng : of the noise; its draws do not depend on the signal
    signal : float64, shape (rows, columns), 0 in air
    air : bool, same shape

    Returns
    -------
    uint16, same shape; at most ``profile.top``. Where the hospital pads, the padding
    value (0, or the top under MONOCHROME1) stands in air and nowhere else.
    """
    size = 2 * blur_reach(profile, grid) + 1
    sigma = profile.blur_mm / grid.spacing
    blurred = cv2.GaussianBlur(signal, (size, size), sigma)
    blurred += AIR
    noise = rng.standard_normal(signal.shape)
    # noise is that of a 512-row detector; smaller pixels see fewer quanta each
    level = profile.noise * np.sqrt(grid.rows / 512)
    noisy = blurred + level * np.sqrt(blurred) * noise
    fraction = np.clip(noisy / SIGNAL_TOP, 0, 1) ** profile.gamma
    stored = np.rint(fraction * profile.top)
    if profile.padded:
        stored = np.where(air, 0, np.maximum(stored, 1))
    if profile.monochrome1:
        stored = profile.top - stored
    return np.asarray(stored, dtype=np.uint16)
