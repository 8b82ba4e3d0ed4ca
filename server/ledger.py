"""Who took part in which round, and how: one entry per round and expected site."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from server.conversation import LEFT, OFFLINE


@dataclass(frozen=True)
class Entry:
    """One site in one round.

    Attributes
    ----------
    configured : a message was sent
    replied : an answer came back, good or bad
    counted : the update entered the average
    samples : declared count behind the weight; None where it does not apply
    counts : ``exact`` or ``banded``, as the site releases them
    weight_share : share of this site in the average
    update_norm : L2 norm of (reply - sent) over all sent tensors
    seconds : at the site; ``step_seconds`` of them inside training steps
    attempts : how often the site was asked; more than once if it lost the question
    reestimated : it re-estimated its statistics first, after a long absence; None where
        it did not reply
    reason : why it was not counted
    """

    stage: str
    round: int
    site: str
    expected: bool
    configured: bool
    replied: bool
    counted: bool
    samples: int | None = None
    counts: str | None = None
    weight_share: float | None = None
    update_norm: float | None = None
    seconds: float | None = None
    step_seconds: float | None = None
    attempts: int = 1
    reestimated: bool | None = None
    reason: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return asdict(self)


def away(ledger: list[dict[str, Any]]) -> dict[str, str]:
    """Name the sites that were offline, or had left, in the last round, and why."""
    last = max((entry["round"] for entry in ledger), default=0)
    return {
        entry["site"]: entry["reason"]
        for entry in ledger
        if entry["round"] == last and entry["reason"] in (OFFLINE, LEFT)
    }


def absences(ledger: list[dict[str, Any]]) -> dict[str, int]:
    """Count for each site the rounds in which it was expected but not counted."""
    missed: dict[str, int] = {}
    for entry in ledger:
        if entry["expected"] and not entry["counted"]:
            missed[entry["site"]] = missed.get(entry["site"], 0) + 1
    return missed
