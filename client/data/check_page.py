"""The result of a check as files: a page to look at, numbers, a summary to share."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure

from client.data.check import GROUPS, Check, counts_by_field
from client.data.check_rules import Problem
from client.data.snapshot import Snapshot
from common.atomic import write_atomic
from common.report.style import Picture, canvas, page_style, to_picture

SCHEMA = 1
SUPPRESSED_BELOW = 10
"""Cells of a shared summary with fewer patients are withheld. The others are rounded to
multiples of it: exact ones would give a withheld cell away as total less the rest."""

_HERE = Path(__file__).parent
_STYLE_SHEET = _HERE.parents[1] / "common" / "report" / "page.css"
_PER_ROW, _PER_VENDOR, _PER_PROBLEM = 12, 12, 12
_HISTOGRAM_IMAGES = 200
_SEEN = (
    "same_pixels_of_two_patients",
    "same_pixels",
    "side_against_pixels",
    "marks",
    "W_RANGE",
    "W_DIM",
    "W_SIDE",
    "W_TEXT",
    "W_VOI",
)
"""Problems that one can see, so the page shows images that have them."""


def write_check(folder: Path, check: Check, site: str) -> Path:
    """Write ``check.html``, ``check.json`` and ``summary.json`` into a site folder.

    ``check.json`` names images by their pseudonym and stays at the site, as the page
    does, which shows images. ``summary.json`` may be shared: counts in tens, none below
    ten.

    Returns
    -------
    Path of the page
    """
    write_atomic(folder / "check.json", _encode(check_document(check)), 0o600)
    write_atomic(folder / "summary.json", _encode(summary_document(check)))
    path = folder / "check.html"
    write_atomic(path, _page(check, site).encode(), 0o600)
    return path


def check_document(check: Check) -> dict[str, Any]:
    """Return all numbers, and each image's status, codes and problems."""
    images: dict[str, dict[str, Any]] = {
        str(row): {"status": "cached" if status == "ok" else str(status), "codes": []}
        for row, status in zip(
            check.manifest["row_id"], check.manifest["status"], strict=True
        )
    }
    for problem in check.problems:
        for row in problem.images:
            images[row]["codes"].append(problem.code)
    return {
        "schema": SCHEMA,
        **check.counts,
        "problems": [
            {
                "code": problem.code,
                "severity": problem.severity,
                "count": problem.count,
                "what": problem.what,
                "remedy": problem.remedy,
            }
            for problem in check.problems
        ],
        "by_field": counts_by_field(check.images),
        "images": images,
    }


def summary_document(check: Check) -> dict[str, Any]:
    """Return what a site may share: counts in tens; None for fewer than 10 patients."""
    one_each = check.images.drop_duplicates
    patients = {
        name: counts_by_field(one_each(["patient_key", name]))[name] for name in GROUPS
    }
    return {
        "schema": SCHEMA,
        "rounded_to": SUPPRESSED_BELOW,
        **{name: _released(count, count) for name, count in check.counts.items()},
        "problems": {
            problem.code: _released(problem.count, _patients(check, problem))
            for problem in check.problems
        },
        "by_field": {
            name: {
                value: _released(count, patients[name][value])
                for value, count in values.items()
            }
            for name, values in counts_by_field(check.images).items()
        },
    }


def _patients(check: Check, problem: Problem) -> int:
    """Count the patients behind a problem; a file without one stands for itself."""
    files = check.manifest[check.manifest["row_id"].isin(problem.images)]
    if files.empty:
        return problem.count
    return int(files["patient_key"].fillna(files["row_id"]).nunique())


def _released(count: int, patients: int) -> int | None:
    return None if 0 < patients < SUPPRESSED_BELOW else _rounded(count)


def _rounded(count: int) -> int:
    return SUPPRESSED_BELOW * round(count / SUPPRESSED_BELOW)


def _encode(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, indent=1, allow_nan=False).encode()


def _page(check: Check, site: str) -> str:
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    by_vendor = _positions_by_vendor(check)
    with page_style():
        histogram = (
            to_picture(_histogram(check.snapshot, by_vendor), "")
            if check.snapshot
            else None
        )
        samples = {
            vendor: _contact_sheet(check, places[:: max(1, len(places) // _PER_VENDOR)])
            for vendor, places in by_vendor.items()
        }
        shown = {
            problem.code: {
                "picture": _contact_sheet(check, places, as_stored=True),
                "count": len(places[:_PER_PROBLEM]),
            }
            for problem in check.problems
            if problem.code in _SEEN and len(places := _places(check, problem.images))
        }
    return environment.get_template("check.html.j2").render(
        css=_STYLE_SHEET.read_text(encoding="utf-8"),
        site=site,
        counts=check.counts,
        images=len(check.images),
        problems=check.problems,
        obstacle=check.obstacle,
        shown=shown,
        by_field=counts_by_field(check.images),
        histogram=histogram,
        samples=samples,
        synthetic="synthetic" in by_vendor,
        patients=int(check.images["patient_key"].nunique()),
    )


def _positions_by_vendor(check: Check) -> dict[str, np.ndarray]:
    vendors = check.images["vendor"].fillna("unknown").to_numpy(dtype=str)
    return {str(name): np.flatnonzero(vendors == name) for name in np.unique(vendors)}


def _places(check: Check, row_ids: tuple[str, ...]) -> np.ndarray:
    """Find the positions of images in the snapshot; files without pixels have none."""
    return np.flatnonzero(check.images["row_id"].isin(row_ids).to_numpy())


def _histogram(snapshot: Snapshot, by_vendor: Mapping[str, np.ndarray]) -> Figure:
    """Draw how grey values inside the breast are spread, one line per vendor."""
    figure = canvas(3.0, 7.5)
    axis = figure.subplots()
    edges = np.linspace(0.0, 1.0, 65)
    for vendor, places in by_vendor.items():
        step = max(1, len(places) // _HISTOGRAM_IMAGES)
        pixels = snapshot.read(places[::step]).astype(np.float32) / 65535.0
        density, _ = np.histogram(pixels[pixels > 0], bins=edges, density=True)
        axis.stairs(density, edges, label=f"{vendor} ({len(places)})", linewidth=1.6)
    axis.set_xlabel("grey value after VOI, 0 to 1, background left out")
    axis.set_ylabel("density")
    axis.legend()
    return figure


def _contact_sheet(
    check: Check, places: np.ndarray, *, as_stored: bool = False
) -> Picture:
    """Draw up to twelve images side by side, recorded side and view above each.

    Parameters
    ----------
    as_stored : undo the mirroring that brings every chest wall to the left: with it a
        wrong side looks right, and no text in the pixels can be read
    """
    places = places[:_PER_PROBLEM]
    assert check.snapshot is not None
    images = list(check.snapshot.read(places))
    if as_stored:
        flipped = check.snapshot.index["flipped"].to_numpy(dtype=bool)[places]
        images = [
            image[:, ::-1] if mirrored else image
            for image, mirrored in zip(images, flipped, strict=True)
        ]
    rows = check.images.iloc[places]
    figure = canvas(1.95, 0.86 * _PER_ROW)
    axes = figure.subplots(1, _PER_ROW, squeeze=False)[0]
    for axis in axes:
        axis.set_axis_off()
    titles = rows["laterality"].fillna("?") + " " + rows["view"].fillna("?")
    for axis, image, title in zip(axes[: len(images)], images, titles, strict=True):
        axis.imshow(image, cmap="gray", vmin=0, vmax=65535, interpolation="nearest")
        axis.set_title(str(title), fontsize=7, loc="center", fontweight="normal")
    return to_picture(figure, "")
