"""Stored pixels: repeatable, as the hospital stores them, changed only in the boxes."""

from dataclasses import replace

import numpy as np
import pytest

from common.canonical import sha256_hex
from simulations.synthetic.generate import GENERATOR_VERSION
from simulations.synthetic.profiles import ALL_SITES, FEDERATION
from simulations.synthetic.render import (
    chest_wall_right,
    draw_views,
    finding_boxes,
    make_grid,
    render_patient,
)

LAKESIDE = next(profile for profile in FEDERATION if profile.monochrome1)


@pytest.mark.parametrize("profile", ALL_SITES, ids=lambda p: p.site)
def test_findings_change_pixels_only_inside_their_boxes(profile):
    grid = make_grid(profile, 512, 256)
    for index in range(3):
        with_lesions = render_patient(profile, 7, index, 512, 256)
        without = render_patient(profile, 7, index, 512, 256, with_lesions=False)
        for view in draw_views(profile, 7, index):
            key = (view.laterality, view.view)
            changed = with_lesions[key] != without[key]
            for box in finding_boxes(profile, view, grid):
                part = changed[box.row0 : box.row1, box.column0 : box.column1]
                assert part.any(), "a finding is invisible"
            for box in finding_boxes(profile, view, grid):
                changed[box.row0 : box.row1, box.column0 : box.column1] = False
            assert not changed.any()


def test_both_views_of_a_breast_show_the_same_findings():
    for index in range(20):
        views = {(v.laterality, v.view): v for v in draw_views(LAKESIDE, 7, index)}
        for laterality in "LR":
            cc, mlo = views[laterality, "CC"], views[laterality, "MLO"]
            assert cc.findings == mlo.findings
            grid = make_grid(LAKESIDE, 512, 256)
            assert len(finding_boxes(LAKESIDE, cc, grid)) == len(mlo.findings)


def test_monochrome1_is_the_inverse_of_monochrome2():
    twin = replace(LAKESIDE, monochrome1=False)
    ours = render_patient(LAKESIDE, 1, 0, 128, 64)
    theirs = render_patient(twin, 1, 0, 128, 64)
    for key, stored in ours.items():
        np.testing.assert_array_equal(LAKESIDE.top - stored, theirs[key])


@pytest.mark.parametrize("profile", ALL_SITES, ids=lambda p: p.site)
def test_pixels_fit_the_bits_and_the_chest_wall_is_where_it_should_be(profile):
    for (laterality, _), stored in render_patient(profile, 1, 0, 128, 64).items():
        assert stored.dtype == np.uint16
        assert stored.max() <= profile.top
        bright = profile.top - stored.astype(int) if profile.monochrome1 else stored
        right = bright[:, 32:].sum() > bright[:, :32].sum()
        assert right == chest_wall_right(profile, laterality)


def test_padding_value_stands_in_air_only():
    padded = next(profile for profile in FEDERATION if profile.padded)
    unpadded = replace(padded, padded=False)
    stored = render_patient(padded, 1, 0, 128, 64)["L", "CC"]
    plain = render_patient(unpadded, 1, 0, 128, 64)["L", "CC"]
    value = padded.top if padded.monochrome1 else 0
    air = stored == value
    assert 0.2 < air.mean() < 0.8
    np.testing.assert_array_equal(stored[~air], plain[~air])


def test_a_finer_matrix_shows_the_same_breast():
    profile = FEDERATION[0]
    small = render_patient(profile, 4, 2, 208, 160)["R", "MLO"].astype(float)
    large = render_patient(profile, 4, 2, 1664, 1280)["R", "MLO"].astype(float)
    assert large.shape == (1664, 1280)
    reduced = large.reshape(208, 8, 160, 8).mean(axis=(1, 3))
    outline = [image > 0.1 * profile.top for image in (small, reduced)]
    assert np.mean(outline[0] != outline[1]) < 0.01


GOLDEN_VERSION = 1
GOLDEN = {
    "north": "0a28ac81441cbf4a6e0223a56d81cbe2f7990f79d3cff435d481f39efe6f3835",
    "harbour": "613b360fedcec47ef5d40e7602ab4dbaeb0c5935998df6b5151d16b319632833",
    "lakeside": "b730b96d38640d7a243e0088569b9e3662292e44b17854a9a1de3286f2fc4aae",
    "hilltop": "ebac69807001879a7d097f5f728aaa597f2baf09c0b60f5a7dd83e345b6dd380",
    "public": "31222b8a1546f4ce900983423ac6bdb5cbe715f4cef26d751490e46b2c90decd",
}


def digest(profile) -> str:
    images = render_patient(profile, 20260101, 3, 512, 256)
    return sha256_hex(b"".join(i.astype("<u2").tobytes() for i in images.values()))


@pytest.mark.parametrize("profile", ALL_SITES, ids=lambda p: p.site)
def test_golden_pixels(profile):
    assert GENERATOR_VERSION == GOLDEN_VERSION
    assert digest(profile) == GOLDEN[profile.site], (
        "The generator makes other pixels: raise GENERATOR_VERSION, renew the hashes."
    )
