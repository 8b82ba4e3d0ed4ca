"""Malignant and benign findings differ in shape and in nothing else."""

from dataclasses import replace

import numpy as np
import pytest

from simulations.synthetic.anatomy import Grid, Shape
from simulations.synthetic.lesions import (
    ATYPICAL,
    CONSPICUITY,
    SPECK_MM,
    SPICULE_MM,
    draw_findings,
    extent_mm,
    paint,
)
from simulations.synthetic.profiles import ALL_SITES

GRID = Grid(rows=512, columns=256, spacing=240 / 512)
SHAPE = Shape(depth=110.0, upper=88.0, lower=88.0, nipple=120.0, muscle=None)


def draw(number: int, malignant: bool) -> list:
    return [
        draw_findings(np.random.default_rng(seed), malignant) for seed in range(number)
    ]


def added_signal(seed: int, malignant: bool, kind: str) -> np.ndarray:
    (finding, *_), *_ = [f for f in draw(40, False)[seed : seed + 20] if f]
    finding = replace(
        finding, kind=kind, malignant=malignant, atypical=False, conspicuity=1.0
    )
    _, added = paint(np.random.default_rng(seed), finding, SHAPE, "CC", GRID)
    return added


def test_only_the_mark_of_the_first_finding_depends_on_the_label():
    for malignant, benign in zip(draw(50, True), draw(50, False), strict=True):
        assert [f.malignant for f in malignant] == [i == 0 for i in range(len(benign))]
        assert tuple(replace(f, malignant=False) for f in malignant) == benign


def test_conspicuity_spans_its_range_and_both_kinds_occur():
    findings = [f for breast in draw(400, False) for f in breast]
    values = np.array([f.conspicuity for f in findings])
    assert CONSPICUITY[0] <= values.min() < 1.1 * CONSPICUITY[0]
    assert 0.9 * CONSPICUITY[1] < values.max() <= CONSPICUITY[1]
    share = np.mean([f.kind == "mass" for f in findings])
    assert share == pytest.approx(0.5, abs=0.08)


@pytest.mark.parametrize("kind", ["mass", "calcification"])
def test_malignant_and_benign_add_the_same_integral(kind):
    for seed in range(15):
        pair = [
            added_signal(seed, malignant, kind).sum() for malignant in (True, False)
        ]
        assert pair[0] == pytest.approx(pair[1], rel=1e-9)


def test_few_findings_look_like_the_other_class():
    findings = [f for breast in draw(1500, True) for f in breast]
    share = np.mean([f.suspicious != f.malignant for f in findings])
    assert share == pytest.approx(ATYPICAL, abs=0.02)


MEASURES = {
    "power": lambda added: np.sum(added**2),
    "area": lambda added: np.sum(added > 0.3),
    "contrast": lambda added: np.mean(added[added > 0.3]),
}


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("kind", ["mass", "calcification"])
def test_malignant_and_benign_are_alike_on_average(kind, measure):
    means = [
        np.mean([MEASURES[measure](added_signal(s, label, kind)) for s in range(20)])
        for label in (True, False)
    ]
    assert means[0] == pytest.approx(means[1], rel=0.15)


@pytest.mark.parametrize("kind", ["mass", "calcification"])
@pytest.mark.parametrize("malignant", [True, False])
def test_finding_vanishes_at_the_border_of_its_box(kind, malignant):
    for seed in range(10):
        added = added_signal(seed, malignant, kind)
        border = np.concatenate([added[0], added[-1], added[:, 0], added[:, -1]])
        assert (border == 0).all()
        assert (added >= 0).all()


def test_extent_does_not_depend_on_the_label():
    (finding,) = (draw(40, True)[1])[:1]
    assert extent_mm(finding) == extent_mm(replace(finding, malignant=False))


@pytest.mark.parametrize("profile", ALL_SITES, ids=lambda p: p.site)
def test_details_span_a_pixel_at_the_training_size(profile):
    # A breast crop of at most the whole field is resized to 128 rows.
    pixel = profile.field_height_mm / 128
    spicule = 2 * SPICULE_MM * np.sqrt(np.log(2) / 0.7)  # full width at half maximum
    assert pixel <= spicule
    assert pixel <= 2 * SPECK_MM
