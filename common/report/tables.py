"""Tables of the page as plain cells; the template only sets them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from common.metrics import METRICS
from common.report.reading import (
    MEAN,
    Plain,
    Report,
    estimate_of,
    main_unit,
    result_of,
    site_names,
    site_of,
)
from common.report.words import (
    ARM_WORDS,
    METRIC_NAMES,
    excludes_zero,
    interval,
    number,
    signed,
    signed_interval,
)
from common.statistics import seed_variance


@dataclass(frozen=True)
class Cell:
    """One number of a table: text, text of its interval, and its foot note."""

    text: str
    interval: str = ""
    note: int | None = None
    strong: bool = False


@dataclass
class Notes:
    """Foot notes of one table; equal reasons share a number."""

    texts: list[str] = field(default_factory=list)

    def mark(self, reason: str | None) -> int | None:
        """Number a reason, from 1; None stays None."""
        if not reason:
            return None
        if reason not in self.texts:
            self.texts.append(reason)
        return self.texts.index(reason) + 1


@dataclass(frozen=True)
class Row:
    """One row: what it is about, and its cells."""

    name: str
    cells: Sequence[Cell]
    words: str = ""


@dataclass(frozen=True)
class Group:
    """Rows under a common heading, for example the arms at one site."""

    name: str
    words: str
    rows: Sequence[Row]


@dataclass(frozen=True)
class Table:
    """Columns, groups of rows, and foot notes."""

    columns: Sequence[str]
    groups: Sequence[Group]
    notes: Sequence[str]


def arm_table(report: Report, unit: str, at: str) -> Table:
    """One row for each arm: rounds, all metrics as mean over sites, spread of seeds."""
    notes, rows = Notes(), []
    for arm in report["arms"]:
        if result_of(arm, unit, at) is None:
            continue
        cells = _metric_cells(arm, unit, at, MEAN, notes)
        if (unit, at) == (main_unit(report), "selected"):
            cells.insert(1, _seeds_cell(arm))
        rows.append(Row(arm["name"], cells, _arm_words(arm, at)))
    columns = list(METRIC_NAMES.values())
    if rows and len(rows[0].cells) > len(columns):
        columns.insert(1, "ROC-AUC over seeds")
    return Table(columns, [Group("", "", rows)], notes.texts)


def _arm_words(arm: Plain, at: str) -> str:
    shown, last = arm[f"{at}_round"], arm["last_round"]
    rounds = [] if shown is None or last is None else [f"round {shown} of {last}"]
    meaning = ARM_WORDS.get(arm["name"])
    return "; ".join(
        [*([meaning] if meaning else []), f"start {arm['start']}", *rounds]
    )


def _seeds_cell(arm: Plain) -> Cell:
    spread = seed_variance([seed["metrics"] for seed in arm["seeds"]])["roc_auc"]
    count = f"{spread['n']} seed{'' if spread['n'] == 1 else 's'}"
    if spread["sd"] is None:
        return Cell(number(spread["mean"]), count if spread["n"] else "")
    return Cell(f"{number(spread['mean'])} ± {number(spread['sd'])}", count)


def _metric_cells(
    arm: Plain, unit: str, at: str, site: str, notes: Notes
) -> list[Cell]:
    return [
        _estimate_cell(estimate_of(arm, unit, at, site, metric), notes)
        for metric in METRICS
    ]


def _estimate_cell(estimate: Plain | None, notes: Notes) -> Cell:
    if estimate is None:
        return Cell("–")
    bounds = interval(estimate["low"], estimate["high"])
    return Cell(number(estimate["value"]), bounds, notes.mark(estimate["reason"]))


def site_matrix(report: Report, unit: str, at: str, metric: str) -> Table:
    """One metric: a row for each arm, a column for each site, and the mean."""
    notes, sites = Notes(), [*site_names(report), MEAN]
    rows = [
        Row(
            arm["name"],
            [
                _estimate_cell(estimate_of(arm, unit, at, site, metric), notes)
                for site in sites
            ],
        )
        for arm in report["arms"]
        if result_of(arm, unit, at) is not None
    ]
    return Table(sites, [Group("", "", rows)], notes.texts)


def site_table(report: Report, unit: str, at: str) -> Table:
    """All metrics of all arms, grouped by site, with the threshold in use."""
    notes, groups = Notes(), []
    for site in site_names(report):
        rows, words = [], ""
        for arm in report["arms"]:
            entry = site_of(arm, unit, at, site)
            if entry is None:
                continue
            words = _site_words(entry)
            cells = [Cell(number(entry["threshold"]))]
            cells += _metric_cells(arm, unit, at, site, notes)
            rows.append(Row(arm["name"], cells))
        if rows:
            groups.append(Group(site, words, rows))
    return Table(["Threshold", *METRIC_NAMES.values()], groups, notes.texts)


def _site_words(entry: Plain) -> str:
    words = f"{entry['patients']} test patients, {entry['positives']} positive"
    if entry["prevalence"] is None:
        return words
    return f"{words}; prevalence {100 * entry['prevalence']:.1f} % of units"


def paired_table(report: Report, unit: str, by_site: bool) -> Table:
    """Differences between arms, of the mean, or of each site as well."""
    pairs = [pair for pair in report["paired"] if pair["unit"] == unit]
    metrics = [name for name in METRICS if any(p["metric"] == name for p in pairs)]
    found = {(p["a"], p["b"], p["site"], p["metric"]): p for p in pairs}
    notes, groups = Notes(), []
    for a, b in dict.fromkeys((pair["a"], pair["b"]) for pair in pairs):
        places = dict.fromkeys(p["site"] for p in pairs if (p["a"], p["b"]) == (a, b))
        places = dict.fromkeys(p for p in places if (p == MEAN) != by_site)
        rows = [
            Row(
                place if by_site else f"{a} − {b}",
                [_change(found.get((a, b, place, name)), notes) for name in metrics],
            )
            for place in places
        ]
        if rows:
            groups.append(Group(f"{a} − {b}" if by_site else "", "", rows))
    return Table([METRIC_NAMES[name] for name in metrics], groups, notes.texts)


def _change(pair: Plain | None, notes: Notes) -> Cell:
    if pair is None:
        return Cell("–")
    return Cell(
        signed(pair["difference"]),
        signed_interval(pair["low"], pair["high"]),
        notes.mark(pair["reason"]),
        strong=excludes_zero(pair),
    )


def cross_site_table(matrix: Plain) -> Table:
    """One arm's matrix as numbers; bold where a site meets its own model."""
    rows = [
        Row(
            name,
            [
                Cell(number(value), strong=column == name)
                for column, value in zip(matrix["columns"], values, strict=True)
            ],
        )
        for name, values in zip(matrix["rows"], matrix["roc_auc"], strict=True)
    ]
    return Table(matrix["columns"], [Group("", "", rows)], [])
