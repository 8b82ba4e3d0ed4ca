"""Pictures made from report.json alone: answer, sites, cross-site, calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.report.reading import (
    MEAN,
    Plain,
    Report,
    estimate_of,
    main_unit,
    pairs_of,
    site_names,
    site_of,
)
from common.report.style import (
    INK,
    MUTED,
    ArmStyle,
    add_arm_legend,
    canvas,
    label_outer,
    panels,
)
from common.report.words import LOWER_IS_BETTER, METRIC_NAMES

Styles = Mapping[str, ArmStyle]
_NARROWEST = 0.04


def summary_plot(report: Report, styles: Styles) -> Figure | None:
    """Draw mean ROC-AUC of each arm, and beside it the paired differences.

    Returns None if no arm has a mean.
    """
    unit = main_unit(report)
    arms = report["arms"]
    means = [estimate_of(arm, unit, "selected", MEAN, "roc_auc") for arm in arms]
    if all(mean is None or mean["value"] is None for mean in means):
        return None
    pairs = [
        p for p in pairs_of(report, unit, "roc_auc") if p["difference"] is not None
    ]
    rows = max(len(arms), len(pairs))
    figure = canvas(1.1 + 0.34 * rows)
    axes = figure.subplots(1, 2 if pairs else 1, squeeze=False)[0]
    for row, (arm, mean) in enumerate(zip(arms, means, strict=True)):
        if mean is not None and mean["value"] is not None:
            _draw(axes[0], [(row, mean["value"], mean)], styles[arm["name"]])
    _name_rows(axes[0], [arm["name"] for arm in arms])
    axes[0].set_title("ROC-AUC, mean over hospitals, 95 % interval")
    if pairs:
        for row, pair in enumerate(pairs):
            _draw(axes[1], [(row, pair["difference"], pair)], styles[pair["a"]])
        axes[1].axvline(0, color=INK, linewidth=1)
        _name_rows(axes[1], [f"{pair['a']} − {pair['b']}" for pair in pairs])
        axes[1].set_title("Paired difference; 0 = no difference")
    return figure


def _draw(
    axis: Axes, rows: Sequence[tuple[float, float, Plain]], style: ArmStyle
) -> None:
    """Draw (row, value, bounds); open symbols where there is no interval."""
    bounded = [row for row in rows if row[2]["low"] is not None]
    axis.hlines(
        [y for y, _, _ in bounded],
        [bounds["low"] for _, _, bounds in bounded],
        [bounds["high"] for _, _, bounds in bounded],
        color=style.colour,
        linewidth=2,
        alpha=0.75,
    )
    for some, face in ((bounded, style.colour), (_without(rows), "white")):
        axis.plot(
            [value for _, value, _ in some],
            [y for y, _, _ in some],
            style.marker,
            color=style.colour,
            markerfacecolor=face,
            markersize=6,
        )


def _without(rows: Sequence[tuple[float, float, Plain]]) -> list[Any]:
    return [row for row in rows if row[2]["low"] is None]


def _widen(axis: Axes) -> None:
    """Keep differences too small to matter from filling the axis."""
    low, high = axis.get_xlim()
    missing = _NARROWEST - (high - low)
    if missing > 0:
        axis.set_xlim(low - missing / 2, high + missing / 2)


def _name_rows(axis: Axes, names: Sequence[str]) -> None:
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.tick_params(axis="y", length=0, labelcolor=INK)
    axis.grid(axis="y", visible=False)
    axis.margins(x=0.08)
    axis.autoscale_view(scaley=False)
    _widen(axis)


def site_plot(report: Report, metric: str, styles: Styles) -> Figure | None:
    """Draw one metric of every arm at every site, and the mean, with intervals.

    Open symbols have no interval. Returns None if nothing is defined.
    """
    unit, arms = main_unit(report), report["arms"]
    rows = [*site_names(report), MEAN]
    step = 0.8 / len(arms)
    figure = canvas(1.0 + len(rows) * max(0.42, 0.15 * len(arms)), width=5.6)
    axis = figure.subplots()
    drawn = 0
    for index, arm in enumerate(arms):
        offset = (index - (len(arms) - 1) / 2) * step
        found = [estimate_of(arm, unit, "selected", site, metric) for site in rows]
        known = [
            (row + offset, estimate["value"], estimate)
            for row, estimate in enumerate(found)
            if estimate is not None and estimate["value"] is not None
        ]
        _draw(axis, known, styles[arm["name"]])
        drawn += len(known)
    axis.axhspan(len(rows) - 1.5, len(rows) - 0.5, color="#f2f5f8", zorder=0)
    _name_rows(axis, rows)
    axis.set_ylim(len(rows) - 0.5, -0.5)
    better = "lower is better" if metric in LOWER_IS_BETTER else "higher is better"
    axis.set_title(f"{METRIC_NAMES[metric]} ({better})")
    add_arm_legend(figure, styles)
    return figure if drawn else None


def cross_site_plot(matrices: Sequence[Plain]) -> Figure:
    """Draw each arm's matrix: the model of the row's site on the column's data."""
    names = [matrix[axis] for matrix in matrices for axis in ("rows", "columns")]
    size = max(3, *map(len, names))
    columns = 3 if size <= 4 else 2
    figure, axes = panels(len(matrices), columns, 0.9 + 0.42 * size)
    for axis, matrix in zip(axes, matrices, strict=True):
        values = np.array(matrix["roc_auc"], dtype=np.float64)
        axis.imshow(values, cmap="cividis", vmin=0.5, vmax=1.0, aspect="auto")
        for (row, column), value in np.ndenumerate(values):
            text = "–" if np.isnan(value) else f"{value:.2f}"
            light = not np.isnan(value) and value < 0.75
            axis.text(
                column,
                row,
                text,
                ha="center",
                va="center",
                color="white" if light else INK,
                fontsize=9 if size <= 6 else 7,
                fontweight="bold"
                if matrix["rows"][row] == matrix["columns"][column]
                else None,
            )
        axis.set_xticks(
            range(len(matrix["columns"])), matrix["columns"], rotation=30, ha="right"
        )
        axis.set_yticks(range(len(matrix["rows"])), matrix["rows"])
        axis.tick_params(length=0, labelcolor=INK, labelsize=8)
        axis.grid(visible=False)
        axis.set_title(matrix["arm"])
    return figure


def calibration_plot(report: Report, column: str, styles: Styles) -> Figure | None:
    """Draw observed against predicted frequency, one panel for each site.

    Parameters
    ----------
    column : ``predicted`` or ``predicted_corrected`` of the calibration table
    """
    unit = main_unit(report)
    tables = {
        (site, arm["name"]): entry["calibration"]
        for site in site_names(report)
        for arm in report["arms"]
        if (entry := site_of(arm, unit, "selected", site)) and entry["calibration"]
    }
    sites = list(dict.fromkeys(site for site, _ in tables))
    if not sites:
        return None
    figure, axes = panels(len(sites), 4, 2.5)
    for axis, site in zip(axes, sites, strict=True):
        axis.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=":")
        for name, style in styles.items():
            table = tables.get((site, name), [])
            axis.plot(
                [row[column] for row in table],
                [row["observed"] for row in table],
                color=style.colour,
                marker=style.marker,
                linestyle=style.dash,
                markersize=3.5,
                linewidth=1.2,
            )
        axis.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), title=site)
    label_outer(axes, "predicted", "observed")
    add_arm_legend(figure, styles)
    return figure
