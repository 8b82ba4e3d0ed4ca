"""Who takes part: finding the sites, the handshake, and when too few are left."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from flwr.serverapp import Grid

from common.plan import Plan, Roster
from common.records import (
    Request,
    Value,
)
from server.conversation import LEFT, ask
from server.ledger import absences

log = logging.getLogger(__name__)

GATHER_SECONDS = 120.0
"""How long a run waits for the sites of its roster to come online."""

HANDSHAKE_SECONDS = 900.0
"""How long a site may take to open its images and try one training step."""


class RunFailed(RuntimeError):  # noqa: N818  an outcome
    """A run that cannot go on; the text says why and what to do."""


def greet(
    grid: Grid, plan: Plan, run: str, fingerprint: str, excused: Collection[str] = ()
) -> tuple[dict[str, int], dict[str, Mapping[str, Value]]]:
    """Hold round 0: find every site of the roster and compare what both ends hold.

    Nodes that bear the name of another site are none of this run's business: they may
    have joined the federation after the plan was made.

    Parameters
    ----------
    excused : sites that have left; the run goes on without them, unless they are back

    Returns
    -------
    Node id by site, in roster order; and each site's handshake.

    Raises
    ------
    RunFailed
        If a site is absent, refuses, runs another version, holds another plan or
        builds other tensors; every such site is named with its reason.
    """
    request = Request("handshake", {"plan": plan.hash, "run": run})
    _gather(grid, plan, excused)
    names = {node.node_id: node.name for node in grid.get_nodes()}
    nodes = sorted(n for n, name in names.items() if name in ("", *plan.roster.sites))
    limit = min(HANDSHAKE_SECONDS, plan.aggregation.round_timeout)
    answers = ask(grid, dict.fromkeys(nodes, request), "0", limit)
    found: dict[str, int] = {}
    problems: list[str] = []
    hellos: dict[str, Mapping[str, Value]] = {}
    for node in nodes:
        hello = answers[node].fields
        site = str(hello["site"]) if hello else names[node] or f"node {node}"
        reason = answers[node].reason or _disagreement(hello or {}, plan, fingerprint)
        if site in found:
            reason = "two nodes answer for it"
        if site not in plan.roster.sites and hello:
            reason = "not on the plan's roster"
        if reason:
            problems.append(f"{site}: {reason}")
        elif hello:
            found[site], hellos[site] = node, hello
    named = {line.partition(":")[0] for line in problems}
    problems += [
        f"{site}: not connected"
        for site in plan.roster.sites
        if site not in found and site not in named
    ]
    problems = [one for one in problems if one.partition(":")[0] not in excused]
    if problems:
        others = ", ".join(sorted(set(names.values()) - {"", *plan.roster.sites}))
        hint = f"\n  (online, but not in the plan's roster: {others})" if others else ""
        raise RunFailed("the handshake failed:\n  " + "\n  ".join(problems) + hint)
    return {site: found[site] for site in plan.roster.sites if site in found}, hellos


def _gather(grid: Grid, plan: Plan, excused: Collection[str]) -> None:
    """Wait for sites that are not online yet; registered nodes bear a site's name."""
    deadline = time.monotonic() + GATHER_SECONDS
    while True:
        online = {node.name for node in grid.get_nodes()}
        absent = [s for s in plan.roster.sites if s not in {*online, *excused}]
        # Nodes without names, as Ray's: who they are, only the handshake tells.
        if not absent or "" in online or time.monotonic() > deadline:
            return
        log.info("waiting for %s", ", ".join(absent))
        time.sleep(2.0)


def _disagreement(
    hello: Mapping[str, Value], plan: Plan, fingerprint: str
) -> str | None:
    if hello["version"] != plan.version:
        return f"runs mammofed {hello['version']}, the plan is for {plan.version}"
    if hello["plan"] != plan.hash:
        return "holds another plan"
    if hello["fingerprint"] != fingerprint:
        return "builds other tensors, or draws another line between shared and local"
    return None


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
