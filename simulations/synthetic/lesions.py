"""Findings: what is malignant, and the benign look-alikes.

A malignant mass is spiculated, a benign one smooth; malignant calcifications are fine,
pleomorphic and clustered, benign ones coarse or scattered. Kind, number, size,
conspicuity and place are drawn alike for both, and `paint` gives findings of one kind
and size the same integral, so that neither presence nor brightness tells the label:
only the shape does. As in life a few cancers look benign, a few benign findings look
malignant, and some cancers show nothing. Sizes are larger than in life, because a speck
or spicule has to span a pixel of a 128 x 64 image.

These numbers set how hard the task is. They were set once, before any method was
compared, and are not tuned: a change needs another `GENERATOR_VERSION`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simulations.synthetic.anatomy import Grid, Image, Shape

FINDINGS = ((0, 1, 2), (0.10, 0.62, 0.28))  # numbers per breast and probabilities
ATYPICAL = 0.06  # probability that a finding looks like the other class
CONSPICUITY = (0.12, 0.80)  # added signal of a mass, drawn log-uniformly
CALCIFICATION_GAIN = 2.0  # specks are small; the same conspicuity needs more signal
MASS_RADIUS_MM = (6.0, 10.0)
SPICULE_MM = 1.3  # half width
SPECK_MM = 1.25  # smallest semi-axis
SPECK_AREA_MM2 = 70.0  # integral of all specks of one finding at amplitude 1


@dataclass(frozen=True)
class Finding:
    """One finding of a breast, seen in both of its views.

    Attributes
    ----------
    kind : ``mass`` or ``calcification``
    malignant : truth of this finding
    atypical : it looks like the other class: a round cancer, a radial scar
    coarse : benign specks are few and large, not many and scattered
    conspicuity : added signal, in the range `CONSPICUITY`
    size : 0 to 1, small to large
    depth : distance from the chest wall as a fraction of the breast's depth
    lateral, vertical : offset from the nipple line in CC and in MLO, -1 to 1
    """

    kind: str
    malignant: bool
    atypical: bool
    coarse: bool
    conspicuity: float
    size: float
    depth: float
    lateral: float
    vertical: float

    @property
    def suspicious(self) -> bool:
        """Whether it is drawn as malignant."""
        return self.malignant != self.atypical


@dataclass(frozen=True)
class Box:
    """Part of an image: ``row0 <= row < row1``, ``column0 <= column < column1``."""

    row0: int
    column0: int
    row1: int
    column1: int


def draw_findings(rng: np.random.Generator, malignant: bool) -> tuple[Finding, ...]:
    """Draw the findings of one breast.

    The draws do not depend on ``malignant``, which only marks the first finding. A
    malignant breast without a finding is a mammographically occult cancer.
    """
    number = int(rng.choice(FINDINGS[0], p=FINDINGS[1]))
    return tuple(_draw_finding(rng, malignant and i == 0) for i in range(number))


def _draw_finding(rng: np.random.Generator, malignant: bool) -> Finding:
    low, high = np.log(CONSPICUITY)
    kind = "mass" if rng.random() < 0.5 else "calcification"
    atypical = bool(rng.random() < ATYPICAL)
    coarse = bool(rng.random() < 0.5)
    conspicuity = float(np.exp(rng.uniform(low, high)))
    size, depth = rng.uniform([0.0, 0.30], [1.0, 0.62])
    lateral, vertical = rng.uniform([-0.55, -0.45], [0.55, 0.55])
    places = (float(v) for v in (size, depth, lateral, vertical))
    return Finding(kind, malignant, atypical, coarse, conspicuity, *places)


def extent_mm(finding: Finding) -> float:
    """Return how far a finding of this kind and size can reach from its centre.

    The same for malignant and benign, so that the size of a box tells nothing.
    """
    return mass_radius(finding) * 3.0 if finding.kind == "mass" else 26.0


def mass_radius(finding: Finding) -> float:
    """Return the radius in millimetres of a mass of this size."""
    low, high = MASS_RADIUS_MM
    return low + finding.size * (high - low)


def locate(finding: Finding, shape: Shape, view: str, grid: Grid) -> Box:
    """Return the part of the view that the finding may change, before blur."""
    x, y = _centre(finding, shape, view)
    reach = extent_mm(finding)
    row0, row1 = _limits(y, reach, grid.spacing, grid.rows)
    column0, column1 = _limits(x, reach, grid.spacing, grid.columns)
    return Box(row0, column0, row1, column1)


def _limits(centre: float, reach: float, spacing: float, end: int) -> tuple[int, int]:
    first = int(np.floor((centre - reach) / spacing))
    last = int(np.ceil((centre + reach) / spacing))
    return max(first, 0), min(last, end)


def _centre(finding: Finding, shape: Shape, view: str) -> tuple[float, float]:
    """Return x and y of the finding; its depth is the same in both views."""
    offset = finding.lateral if view == "CC" else finding.vertical
    half = shape.lower if offset > 0 or view == "CC" else 0.8 * shape.upper
    return finding.depth * shape.depth, shape.nipple + offset * half


def paint(
    rng: np.random.Generator, finding: Finding, shape: Shape, view: str, grid: Grid
) -> tuple[Box, Image]:
    """Draw the signal a finding adds to one view.

    Returns
    -------
    Box, and float64 of its size: the added signal, 0 at the border and in air
    """
    box = locate(finding, shape, view, grid)
    x, y = grid.axes(box.row0, box.column0, box.row1, box.column1)
    centre_x, centre_y = _centre(finding, shape, view)
    dx, dy = x - centre_x, y - centre_y
    if finding.kind == "mass":
        added = _mass(rng, finding, dx, dy)
        integral = 1.2 * np.pi * mass_radius(finding) ** 2
        gain = finding.conspicuity
    else:
        added = _calcifications(rng, finding, dx, dy)
        integral = SPECK_AREA_MM2
        gain = finding.conspicuity * CALCIFICATION_GAIN
    added = added * (np.hypot(dx, dy) < extent_mm(finding) - grid.spacing)
    added = added * shape.thickness(shape.radius(x, y))
    gain *= integral / (added.sum() * grid.spacing**2)
    return box, np.asarray(gain * added)


def _mass(rng: np.random.Generator, finding: Finding, dx: Image, dy: Image) -> Image:
    """Draw a mass with peak near 1: smooth and oval, or small with spicules."""
    radius = mass_radius(finding)
    if not finding.suspicious:
        return _oval(
            dx, dy, 1.2 * radius, rng.uniform(0.75, 1.0), rng.uniform(0, np.pi)
        )
    added = _oval(dx, dy, 0.6 * radius, rng.uniform(0.75, 1.0), rng.uniform(0, np.pi))
    number = int(rng.integers(7, 10))
    angles = (np.arange(number) + rng.uniform(-0.3, 0.3, number)) * 2 * np.pi / number
    lengths = radius * rng.uniform(2.0, 3.0, number)
    for angle, length in zip(angles + rng.uniform(0, 6), lengths, strict=True):
        along = dx * np.cos(angle) + dy * np.sin(angle)
        across = dy * np.cos(angle) - dx * np.sin(angle)
        taper = np.clip(1.3 * (1 - along / length), 0, 0.85) * (along > 0)
        spicule = taper * np.exp(-0.7 * (across / SPICULE_MM) ** 2)
        added = np.maximum(added, spicule)
    return added


def _oval(
    dx: Image, dy: Image, radius: float, ratio: float, angle: float, edge: float = 0.45
) -> Image:
    """Draw a soft ellipse of area pi * radius ** 2 and height 1."""
    long, short = radius / np.sqrt(ratio), radius * np.sqrt(ratio)
    along = (dx * np.cos(angle) + dy * np.sin(angle)) / long
    across = (dy * np.cos(angle) - dx * np.sin(angle)) / short
    inside = np.clip((1 + edge / 2 - np.hypot(along, across)) / edge, 0, 1)
    return np.asarray(inside * inside * (3 - 2 * inside))


def _calcifications(
    rng: np.random.Generator, finding: Finding, dx: Image, dy: Image
) -> Image:
    """Draw specks: fine, pleomorphic and clustered; or coarse; or scattered."""
    number, spread, radius = int(rng.integers(9, 14)), 16.0 + 6.0 * finding.size, 1.375
    ratios, heights = np.ones(number), np.ones(number)
    if finding.suspicious:
        spread, radius = 6.0 + 3.0 * finding.size, SPECK_MM
        ratios, heights = rng.uniform(0.5, 1.0, number), rng.uniform(0.75, 1.25, number)
    elif finding.coarse:
        number, spread, radius = number // 3, 9.0 + 8.0 * finding.size, 2.2
    distances = spread * np.sqrt(rng.uniform(0, 1, number))
    directions, angles = rng.uniform(0, 2 * np.pi, (2, number))
    added = np.zeros(np.broadcast_shapes(dx.shape, dy.shape))
    for i in range(number):
        x = dx - distances[i] * np.cos(directions[i])
        y = dy - distances[i] * np.sin(directions[i])
        ratio = ratios[i]  # the short axis stays as long as a pixel
        speck = _oval(x, y, radius / np.sqrt(ratio), ratio, angles[i])
        added = np.maximum(added, heights[i] * speck)
    return added
