"""Colours, canvas and PNG: what all pictures of the page have in common."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

WIDTH = 11.0
INK = "#1f2933"
MUTED = "#66727f"
WARNING = "#b3261e"
_RULE = "#d5dbe1"
_DPI = 150
_CSS_PIXELS_PER_INCH = 104

_SETTINGS: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": _RULE,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e8ecf0",
    "grid.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "legend.frameon": False,
}


@dataclass(frozen=True)
class ArmStyle:
    """How one arm is drawn, the same in every picture."""

    colour: str
    marker: str
    dash: Any


@dataclass(frozen=True)
class Picture:
    """A PNG for an ``img`` element: its data URI and its width in CSS pixels."""

    uri: str
    width: int


# Okabe and Ito 2008, told apart by readers with any colour vision. Known arms keep
# theirs in every report; others take what is left, in order.
_KNOWN = {
    "fedbn_head": ArmStyle("#0072B2", "o", "-"),
    "fedavg": ArmStyle("#D55E00", "s", "--"),
    "local_only": ArmStyle("#7A7A7A", "^", "-."),
    "pooled": ArmStyle("#1F1F1F", "D", ":"),
    "fedbn": ArmStyle("#56B4E9", "v", (0, (5, 1))),
    "silobn": ArmStyle("#009E73", "P", (0, (3, 1, 1, 1))),
    "fedavg_local_stats": ArmStyle("#E69F00", "X", (0, (2, 1))),
}
_FURTHER = tuple(
    ArmStyle(colour, marker, dash)
    for colour, marker in zip(
        ("#CC79A7", "#8C6D1F", "#5B3A8C", "#17A2A2"), "<>*p", strict=True
    )
    for dash in ("-", "--", ":")
)


def arm_styles(names: Sequence[str]) -> dict[str, ArmStyle]:
    """Give each arm a colour, a marker and a dash; no two of 19 arms look the same."""
    unknown = [name for name in names if name not in _KNOWN]
    spread = [*_FURTHER[::3], *_FURTHER[1::3], *_FURTHER[2::3]]
    styles = {name: spread[i % len(spread)] for i, name in enumerate(unknown)} | _KNOWN
    return {name: styles[name] for name in names}


@contextmanager
def page_style() -> Iterator[None]:
    """Draw with the page's fonts and colours, then restore matplotlib's settings."""
    with matplotlib.rc_context(_SETTINGS):
        yield


def canvas(height: float, width: float = WIDTH) -> Figure:
    """Open a figure in inches that belongs to no global state."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def panels(count: int, columns: int, height: float) -> tuple[Figure, list[Axes]]:
    """Open small multiples with shared axes; unused places stay empty.

    Parameters
    ----------
    count : number of panels, at least 1
    columns : at most so many in a row
    height : inches of one row
    """
    columns = min(columns, count)
    rows = -(-count // columns)
    width = WIDTH * min(1.0, max(0.45, columns / 3))
    figure = canvas(height * rows + 0.7, width)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    axes: list[Axes] = list(grid.ravel())
    for spare in axes[count:]:
        spare.remove()
    for axis in axes[max(0, count - columns) : count]:
        axis.tick_params(labelbottom=True)
    return figure, axes[:count]


def label_outer(axes: Sequence[Axes], x: str, y: str) -> None:
    """Label panels in reading order at the left and below only."""
    specs = [axis.get_subplotspec() for axis in axes]
    columns = sum(spec is not None and spec.is_first_row() for spec in specs)
    for axis in axes[::columns]:
        axis.set_ylabel(y)
    for axis in axes[-columns:]:
        axis.set_xlabel(x)


def add_arm_legend(figure: Figure, styles: Mapping[str, ArmStyle]) -> None:
    """Name the arms once, above all panels."""
    handles = [
        Line2D([], [], color=s.colour, marker=s.marker, linestyle=s.dash, label=name)
        for name, s in styles.items()
    ]
    narrow = figure.get_figwidth() < 0.7 * WIDTH
    figure.legend(
        handles=handles,
        loc="outside upper left",
        ncols=min(len(handles), 3 if narrow else 7),
    )


def to_picture(figure: Figure, notice: str) -> Picture:
    """Draw a figure as PNG.

    Parameters
    ----------
    notice : warning burnt into the picture, such as SYNTHETIC DATA; may be empty
    """
    if notice:
        figure.supxlabel(notice, color=WARNING, fontsize=9, fontweight="bold")
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=_DPI, facecolor="white")
    encoded = base64.b64encode(stream.getvalue()).decode()
    width = round(figure.get_figwidth() * _CSS_PIXELS_PER_INCH)
    return Picture("data:image/png;base64," + encoded, width)
