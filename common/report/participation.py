"""The ledger as a reader sees it: who took part in which round, and the sums."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from common.report.reading import Plain, Report
from common.report.words import number

STATES = {
    "counted": "counted",
    "refused": "replied, not counted",
    "absent": "expected, no reply",
    "idle": "not expected",
    "hidden": "hidden by policy",
}


@dataclass(frozen=True)
class Mark:
    """One site in one round: a key of `STATES`, and what a pointer shows."""

    state: str
    title: str


@dataclass(frozen=True)
class SiteLedger:
    """One site over all rounds of one arm; sums as text, a dash where hidden."""

    site: str
    marks: Sequence[Mark]
    expected: int
    replied: int
    counted: int
    samples: str
    weight_share: str
    update_norm: str
    seconds: str
    reasons: str


@dataclass(frozen=True)
class ArmLedger:
    """All sites of one arm. ``arm`` is empty if the ledger names none."""

    arm: str
    rounds: str
    complete: bool
    sites: Sequence[SiteLedger]


def participation(report: Report) -> list[ArmLedger]:
    """Group the ledger by arm and site, in order of appearance.

    The entries are those of report.json: ``stage, round, site``, then whether the site
    was ``expected``, ``configured``, ``replied`` and ``counted``, ``samples``,
    ``weight_share``, ``update_norm`` (L2), ``seconds``, ``reestimated`` and ``reason``.
    An entry may name its ``arm``. Null means hidden, and the reason says by what.
    """
    arms: dict[str, list[Plain]] = {}
    for entry in report["ledger"]:
        arms.setdefault(entry.get("arm") or "", []).append(entry)
    return [_arm_ledger(arm, entries) for arm, entries in arms.items()]


def _arm_ledger(arm: str, entries: Sequence[Plain]) -> ArmLedger:
    rounds = dict.fromkeys((entry["stage"], entry["round"]) for entry in entries)
    stages = Counter(stage for stage, _ in rounds)
    words = [f"{stage}: {count} rounds" for stage, count in stages.items()]
    names = dict.fromkeys(entry["site"] for entry in entries)
    sites = []
    for name in names:
        own = {(e["stage"], e["round"]): e for e in entries if e["site"] == name}
        sites.append(_site_ledger(name, [own.get(key) for key in rounds]))
    missing = {"refused", "absent"}
    complete = not any(mark.state in missing for site in sites for mark in site.marks)
    return ArmLedger(arm, ", ".join(words), complete, sites)


def _site_ledger(site: str, entries: Sequence[Plain | None]) -> SiteLedger:
    own = [entry for entry in entries if entry is not None]
    reasons = Counter(remark for entry in own for remark in _remarks(entry))
    return SiteLedger(
        site=site,
        marks=[_mark(entry) for entry in entries],
        expected=_count(own, "expected"),
        replied=_count(own, "replied"),
        counted=_count(own, "counted"),
        samples=_sum(own, "samples"),
        weight_share=number(_mean(own, "weight_share")),
        update_norm=number(_mean(own, "update_norm")),
        seconds=_sum(own, "seconds"),
        reasons="; ".join(
            reason if times == 1 else f"{reason} ({times} rounds)"
            for reason, times in reasons.items()
        ),
    )


def _mark(entry: Plain | None) -> Mark:
    if entry is None:
        return Mark("idle", "")
    state = _state(entry)
    title = f"{entry['stage']}, round {entry['round']}: {STATES[state]}"
    remarks = "; ".join(_remarks(entry))
    return Mark(state, f"{title} ({remarks})" if remarks else title)


def _remarks(entry: Plain) -> list[str]:
    refreshed = "re-estimated its BatchNorm statistics after an absence"
    remarks = [entry["reason"]] if entry.get("reason") else []
    return [*remarks, refreshed] if entry.get("reestimated") else remarks


def _state(entry: Plain) -> str:
    if entry.get("counted"):
        return "counted"
    if entry.get("replied"):
        return "refused" if entry.get("counted") is False else "hidden"
    return "absent" if entry.get("expected") else "idle"


def _count(entries: Sequence[Plain], field: str) -> int:
    return sum(bool(entry.get(field)) for entry in entries)


def _known(entries: Sequence[Plain], field: str) -> list[float]:
    return [entry[field] for entry in entries if entry.get(field) is not None]


def _sum(entries: Sequence[Plain], field: str) -> str:
    known = _known(entries, field)
    return f"{sum(known):,.0f}" if known else number(None)


def _mean(entries: Sequence[Plain], field: str) -> float | None:
    known = _known(entries, field)
    return sum(known) / len(known) if known else None
