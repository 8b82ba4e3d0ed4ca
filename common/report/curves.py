"""Pictures made from `Extras`: ROC, precision-recall and learning curves, samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from common.report.extras import Curve, History, Sample
from common.report.style import (
    INK,
    MUTED,
    WIDTH,
    ArmStyle,
    add_arm_legend,
    canvas,
    label_outer,
    panels,
)
from common.report.words import METRIC_NAMES

Styles = Mapping[str, ArmStyle]


def roc_plot(curves: Sequence[Curve], styles: Styles) -> Figure:
    """Draw the ROC curves, one panel for each site; dotted line = chance."""
    sites = list(dict.fromkeys(curve.site for curve in curves))
    figure, axes = panels(len(sites), 4, 2.6)
    for axis, site in zip(axes, sites, strict=True):
        axis.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=":")
        for curve in curves:
            if curve.site == site:
                line = _line(styles[curve.arm])
                axis.plot(curve.false_positive_rate, curve.sensitivity, **line)
        axis.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), title=site)
    label_outer(axes, "1 − specificity", "sensitivity")
    add_arm_legend(figure, _present(styles, [curve.arm for curve in curves]))
    return figure


def precision_recall_plot(curves: Sequence[Curve], styles: Styles) -> Figure:
    """Draw precision against recall as steps; dotted line = prevalence = chance."""
    sites = list(dict.fromkeys(curve.site for curve in curves))
    figure, axes = panels(len(sites), 4, 2.6)
    for axis, site in zip(axes, sites, strict=True):
        own = [curve for curve in curves if curve.site == site]
        chance = own[0].prevalence
        axis.axhline(chance, color=MUTED, linewidth=1, linestyle=":")
        for curve in own:
            axis.plot(
                np.concatenate([[0.0], curve.recall]),
                np.concatenate([curve.precision[:1], curve.precision]),
                drawstyle="steps-pre",
                **_line(styles[curve.arm]),
            )
        axis.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.03))
        axis.set_title(f"{site} (prevalence {chance:.2f})")
    label_outer(axes, "recall (sensitivity)", "precision")
    add_arm_legend(figure, _present(styles, [curve.arm for curve in curves]))
    return figure


def learning_plot(
    histories: Sequence[History],
    what: str,
    selected: Mapping[str, int | None],
    styles: Styles,
    metric: str,
) -> Figure | None:
    """Draw validation metric or training loss per round, one panel for each site.

    Parameters
    ----------
    what : ``validation`` or ``loss``
    selected : arm to the selected round, marked by its symbol
    metric : name of the validation metric

    Returns
    -------
    None if no value is known.
    """
    known = [h for h in histories if any(v is not None for v in getattr(h, what))]
    sites = list(dict.fromkeys(history.site for history in known))
    if not sites:
        return None
    figure, axes = panels(len(sites), 4, 2.4)
    for axis, site in zip(axes, sites, strict=True):
        for history in known:
            if history.site == site:
                chosen = selected.get(history.arm)
                _learn(axis, history, getattr(history, what), chosen, styles)
        axis.set_title(site)
        axis.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    label_outer(
        axes, "round", METRIC_NAMES[metric] if what == "validation" else "training loss"
    )
    add_arm_legend(figure, _present(styles, [history.arm for history in known]))
    return figure


def _learn(
    axis: Axes,
    history: History,
    values: Sequence[float | None],
    selected: int | None,
    styles: Styles,
) -> None:
    style = styles[history.arm]
    numbers = np.array(values, dtype=np.float64)
    rounds = list(history.rounds)
    axis.plot(rounds, numbers, **_line(style))
    if selected in rounds:
        here = rounds.index(selected)
        axis.plot(
            [selected],
            [numbers[here]],
            marker=style.marker,
            color=style.colour,
            markeredgecolor=INK,
            markersize=8,
            zorder=5,
        )


def sample_plot(samples: Sequence[Sample]) -> Figure:
    """Show images side by side: a column for each site, a row for each label."""
    sites = list(dict.fromkeys(sample.site for sample in samples))
    labels = list(dict.fromkeys(sample.label for sample in samples))
    tallest = max(s.pixels.shape[0] / s.pixels.shape[1] for s in samples)
    width = min(WIDTH, max(2.6, 1.9 * len(sites)))
    figure = canvas(len(labels) * width / len(sites) * tallest + 0.5, width)
    grid = figure.subplots(len(labels), len(sites), squeeze=False)
    first = {(s.label, s.site): s for s in reversed(samples)}
    for (row, column), axis in np.ndenumerate(grid):
        axis.set_axis_off()
        sample = first.get((labels[row], sites[column]))
        if sample is not None:
            axis.imshow(sample.pixels, cmap="gray", vmin=0, vmax=255)
            axis.set_title(f"{sites[column]} · {labels[row]}", fontsize=8)
    return figure


def _line(style: ArmStyle) -> dict[str, Any]:
    return {"color": style.colour, "linestyle": style.dash, "linewidth": 1.5}


def _present(styles: Styles, arms: Sequence[str]) -> dict[str, ArmStyle]:
    return {name: style for name, style in styles.items() if name in arms}
