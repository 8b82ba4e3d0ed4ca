"""When too few sites are left for a round to count."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from common.plan import Roster
from server.conversation import LEFT
from server.ledger import absences


class RunFailed(RuntimeError):  # noqa: N818  an outcome
    """A run that cannot go on; the text says why and what to do."""


def require_quorum(
    roster: Roster,
    counted: Iterable[str],
    ledger: list[dict[str, Any]],
    round_: int,
    *,
    everyone: bool = False,
) -> None:
    """Fail the run loudly where too few sites are left.

    Parameters
    ----------
    counted : sites whose update passed in this round
    ledger : all entries, this round's included
    everyone : the round opens a later stage: all sites carry their local part over in
        it, and one that does not could never take part again; but who has left the
        federation does not want to

    Raises
    ------
    RunFailed
        Naming the rule that was broken and each missing site with its reason.
    """
    present = set(counted)
    reasons = "; ".join(
        f"{entry['site']}: {entry['reason']}"
        for entry in ledger
        if entry["round"] == round_ and not entry["counted"]
    )
    if len(present) < roster.minimum_sites:
        raise RunFailed(
            f"round {round_}: {len(present)} sites counted, the plan needs "
            f"{roster.minimum_sites} ({reasons}). Mend the sites, then resume."
        )
    left = {
        entry["site"]
        for entry in ledger
        if entry["round"] == round_ and entry["reason"] == LEFT
    }
    required = set(roster.required)
    if everyone:
        required |= set(roster.sites) - left
    if absent := sorted(required - present):
        opening = " (it opens a stage)" if everyone else ""
        raise RunFailed(
            f"round {round_}{opening}: required sites are missing: {', '.join(absent)} "
            f"({reasons}). Mend the sites, then resume."
        )
    if roster.permitted_absences is None:
        return
    for site, missed in absences(ledger).items():
        if missed > roster.permitted_absences:
            raise RunFailed(
                f"round {round_}: {site} has missed {missed} rounds, the plan permits "
                f"{roster.permitted_absences} ({reasons}). Mend the site, then resume."
            )
