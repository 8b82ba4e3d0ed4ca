"""The breast in slices, for some patients: a volume, and the 2D image made from it.

Tissue and findings are those of the patient's mammogram. Each structure has a height,
is sharp in a few neighbouring slices and faint in the others, so that the maximum over
all slices looks like the mammogram. All that is drawn anew has streams of its own:
what is written without tomosynthesis does not depend on it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from simulations.synthetic.anatomy import Grid, Image, draw_tissue, power_law_texture
from simulations.synthetic.dicom_writer import (
    ImageIdentity,
    encode_slice,
    encode_synthetic_2d,
    encode_volume,
)
from simulations.synthetic.lesions import paint
from simulations.synthetic.patients import random_generator
from simulations.synthetic.profiles import SiteProfile
from simulations.synthetic.render import Stored, View, acquire, chest_wall_right

SLICES = 12
SLICES_AS_CT = ("harbour",)
"""Sites that store each slice in a file of its own, as CT Image Storage."""

_SYNTHETIC_2D, _VOLUME = "synth2d", "dbt"  # in the names of files, and in UIDs

_EVERY = 3  # one patient of so many
_SPREAD = 1.5  # slices
_FAINT = 0.6  # share of the tissue that is in every slice


def object_names(profile: SiteProfile, index: int) -> tuple[str, ...]:
    """Name what a patient has of each view beside the mammogram; often nothing."""
    if index % _EVERY:
        return ()
    if profile.site not in SLICES_AS_CT:
        return _SYNTHETIC_2D, _VOLUME
    return _SYNTHETIC_2D, *(f"{_VOLUME}{number:02d}" for number in range(SLICES))


def encode_objects(
    profile: SiteProfile,
    mammogram: ImageIdentity,
    index: int,
    view: View,
    grid: Grid,
    with_lesions: bool = True,
) -> Iterator[tuple[str, bytes]]:
    """Yield name and DICOM file of everything that `object_names` names.

    Parameters
    ----------
    mammogram : the identity of that view's mammogram
    index, view, grid, with_lesions : see `render_volume`
    """
    names = object_names(profile, index)
    if not names:
        return
    volume, flat = render_volume(
        profile, mammogram.seed, index, view, grid, with_lesions
    )
    for name in names:
        identity = replace(mammogram, name=name)
        if name == _SYNTHETIC_2D:
            yield name, encode_synthetic_2d(profile, identity, flat)
        elif name == _VOLUME:
            yield name, encode_volume(profile, identity, volume)
        else:
            number = int(name.removeprefix(_VOLUME))
            yield name, encode_slice(profile, identity, volume[number], number)


def render_volume(
    profile: SiteProfile,
    seed: int,
    index: int,
    view: View,
    grid: Grid,
    with_lesions: bool = True,
) -> tuple[Stored, Stored]:
    """Render one view in slices, and the 2D image made from them.

    Parameters
    ----------
    profile : the hospital
    seed : of the archive
    index : number of the patient at this hospital, from 0
    view : of that patient, from `render.draw_views`
    grid : of the detector
    with_lesions : False leaves the findings out and changes nothing else

    Returns
    -------
    uint16, shape (slice, row, column), MONOCHROME2 at every hospital
    uint16, shape (row, column), stored as the hospital's mammograms are
    """
    names = (view.laterality, view.view)
    tissue_rng = random_generator(seed, profile, index, "tissue", *names)
    tissue = draw_tissue(tissue_rng, view.shape, view.density, grid)
    air = tissue == 0
    upright = replace(profile, monochrome1=False)
    volume = np.empty((SLICES, grid.rows, grid.columns), dtype=np.uint16)
    brightest = np.zeros_like(tissue)
    signals = _signals(profile, seed, index, view, grid, tissue, with_lesions)
    for number, signal in enumerate(signals):
        purpose = ("volume noise", *names, str(number))
        rng = random_generator(seed, profile, index, *purpose)
        volume[number] = acquire(rng, upright, signal, air, grid)
        np.maximum(brightest, signal, out=brightest)
    rng = random_generator(seed, profile, index, "synthetic 2D noise", *names)
    flat = acquire(rng, profile, brightest, air, grid)
    if chest_wall_right(profile, view.laterality):
        volume, flat = volume[:, :, ::-1], flat[:, ::-1]
    return np.ascontiguousarray(volume), np.ascontiguousarray(flat)


def _signals(
    profile: SiteProfile,
    seed: int,
    index: int,
    view: View,
    grid: Grid,
    tissue: Image,
    with_lesions: bool,
) -> Iterator[Image]:
    names = (view.laterality, view.view)
    rng = random_generator(seed, profile, index, "volume", *names)
    middle = (SLICES - 1) / 2
    heights = middle + power_law_texture(rng, grid) * SLICES / 4
    heights = np.clip(heights, 0, SLICES - 1)
    tops = rng.integers(2, SLICES - 2, len(view.findings))
    lesion_rng = random_generator(seed, profile, index, "lesions", *names)
    painted = [
        paint(lesion_rng, finding, view.shape, view.view, grid)
        for finding in (view.findings if with_lesions else ())
    ]
    for number in range(SLICES):
        signal = tissue * (_FAINT + (1 - _FAINT) * _sharpness(number - heights))
        for top, (box, added) in zip(tops[: len(painted)], painted, strict=True):
            part = signal[box.row0 : box.row1, box.column0 : box.column1]
            part += added * _sharpness(np.asarray(number - top, dtype=np.float64))
        yield signal


def _sharpness(distance: Image) -> Image:
    """Return 1 in the slice of a structure, falling to 0 in those far from it."""
    return np.asarray(np.exp(-np.square(distance / _SPREAD)))
