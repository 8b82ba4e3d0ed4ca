"""Write report.json and report.html: one file each, complete in itself."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure

from common.atomic import write_atomic
from common.report import curves, plots, tables
from common.report.extras import Extras
from common.report.participation import STATES, participation
from common.report.reading import Report, main_unit, site_names, variants
from common.report.schema import check_report
from common.report.style import (
    ArmStyle,
    Picture,
    arm_styles,
    page_style,
    to_picture,
)
from common.report.words import (
    AT_NAMES,
    METRIC_NAMES,
    STATUS_NAMES,
    UNIT_NAMES,
    headline,
    hospitals,
    remarks,
)

_HERE = Path(__file__).parent
_SITE_METRICS = ("roc_auc", "average_precision", "sensitivity", "brier_corrected")
SYNTHETIC = "SYNTHETIC DATA"
SMOKE_TEST = "by image, smoke test"


def write_report(folder: Path, report: Mapping[str, Any], extras: Extras) -> Path:
    """Write ``report.json`` and ``report.html`` into a folder.

    The page needs no network, no JavaScript and no other file.

    Parameters
    ----------
    folder : existing folder; older reports in it are replaced
    report : plain data that follows `common.report.schema`
    extras : pictures' raw material and words that are not in report.json

    Returns
    -------
    Path of ``report.html``

    Raises
    ------
    ReportError
        If the report does not follow the schema; nothing is written.
    ValueError
        If ``extras`` names an arm that is not in the report.
    """
    check_report(report)
    _check_arms(report, extras)
    page = render_page(report, extras)
    text = json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False)
    write_atomic(folder / "report.json", text.encode())
    path = folder / "report.html"
    write_atomic(path, page.encode())
    return path


def render_page(report: Report, extras: Extras) -> str:
    """Render the page of a checked report as HTML text."""
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    styles = arm_styles([arm["name"] for arm in report["arms"]])
    unit = main_unit(report)
    with page_style():
        pictures = _pictures(report, extras, styles)
    return environment.get_template("page.html.j2").render(
        css=(_HERE / "page.css").read_text(encoding="utf-8"),
        report=report,
        extras=extras,
        notices=notices(report),
        headline=headline(report),
        remarks=remarks(report),
        status=STATUS_NAMES[report["status"]],
        summary=_summary(report, unit),
        unit=UNIT_NAMES[unit],
        styles=styles,
        pictures=pictures,
        arm_table=tables.arm_table(report, unit, "selected"),
        matrices={
            METRIC_NAMES[metric]: tables.site_matrix(report, unit, "selected", metric)
            for metric in ("roc_auc", "average_precision")
        },
        site_table=tables.site_table(report, unit, "selected"),
        variants=_variants(report),
        paired=tables.paired_table(report, unit, by_site=False),
        paired_sites=tables.paired_table(report, unit, by_site=True),
        ledger=participation(report),
        states=STATES,
    )


def _check_arms(report: Report, extras: Extras) -> None:
    known = {arm["name"] for arm in report["arms"]}
    named = {curve.arm for curve in extras.curves}
    named |= {history.arm for history in extras.histories}
    if named - known:
        raise ValueError(
            f"Curves or histories name the arms {sorted(named - known)}, which the "
            f"report does not have. It has {sorted(known)}."
        )


def notices(report: Report) -> list[str]:
    """List the warnings that stand over the page and in every picture."""
    lines = []
    if report["data"]["kind"] == "synthetic":
        lines.append(SYNTHETIC)
    if not report["data"]["patients_known"]:
        lines.append(SMOKE_TEST)
    return lines


def _summary(report: Report, unit: str) -> str:
    sites = {
        site["site"]: site
        for arm in report["arms"]
        for result in arm["results"]
        if result["unit"] == unit
        for site in result["sites"]
    }
    patients = sum(site["patients"] for site in sites.values())
    positives = sum(site["positives"] for site in sites.values())
    who = "patients" if report["data"]["patients_known"] else "images"
    arms = len(report["arms"])
    return (
        f"{hospitals(len(site_names(report)))}, {arms} arm{'s' if arms > 1 else ''}, "
        f"{patients:,} test {who} ({positives:,} positive), "
        f"scored by {UNIT_NAMES[unit]}"
    )


def _variants(report: Report) -> dict[str, tuple[tables.Table, tables.Table]]:
    """Collect the tables of the other units and of the last round, by heading."""
    return {
        f"By {UNIT_NAMES[unit]}, {AT_NAMES[at]}": (
            tables.arm_table(report, unit, at),
            tables.site_table(report, unit, at),
        )
        for unit, at in variants(report)
        if (unit, at) != (main_unit(report), "selected")
    }


def _pictures(
    report: Report, extras: Extras, styles: Mapping[str, ArmStyle]
) -> dict[str, Picture]:
    """Draw every picture that has material."""
    figures: dict[str, Figure | None] = {"summary": plots.summary_plot(report, styles)}
    for metric in _SITE_METRICS:
        figures[f"site_{metric}"] = plots.site_plot(report, metric, styles)
    for column in ("predicted", "predicted_corrected"):
        figures[column] = plots.calibration_plot(report, column, styles)
    if report["cross_site"]:
        figures["cross_site"] = plots.cross_site_plot(report["cross_site"])
    if extras.curves:
        figures["roc"] = curves.roc_plot(extras.curves, styles)
        figures["precision_recall"] = curves.precision_recall_plot(
            extras.curves, styles
        )
    selected = {arm["name"]: arm["selected_round"] for arm in report["arms"]}
    for what in ("validation", "loss"):
        figures[what] = curves.learning_plot(
            extras.histories, what, selected, styles, extras.selection_metric
        )
    if extras.samples:
        figures["samples"] = curves.sample_plot(extras.samples)
    notice = _notice(notices(report))
    return {
        name: to_picture(figure, notice)
        for name, figure in figures.items()
        if figure is not None
    }


def _notice(lines: Sequence[str]) -> str:
    return " · ".join(lines)
