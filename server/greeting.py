"""Round 0: finding the sites, and comparing what both ends hold."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from flwr.serverapp import Grid

from common.atomic import write_atomic
from common.plan import Plan
from common.records import Request, Value
from server.conversation import ask
from server.participation import RunFailed

log = logging.getLogger(__name__)

Hello = Mapping[str, Value]
"""What a site answers to a handshake."""

HANDSHAKE_FILE = "handshake.json"

GATHER_SECONDS = 120.0
"""How long a run waits for the sites of its roster to come online."""

HANDSHAKE_SECONDS = 900.0
"""How long a site may take to open its images and try one training step."""


@dataclass(frozen=True)
class Greeting:
    """Who takes part.

    Attributes
    ----------
    nodes : node id by site, in roster order
    hellos : each site's handshake; of absent sites the one that the run began with
    absent : sites that were not connected when the run was resumed
    """

    nodes: dict[str, int]
    hellos: dict[str, Hello]
    absent: tuple[str, ...] = ()


def greet(
    grid: Grid,
    plan: Plan,
    run: str,
    fingerprint: str,
    file: Path,
    left: Collection[str] = (),
    *,
    begun: bool,
) -> Greeting:
    """Hold round 0: find every site of the roster and compare what both ends hold.

    A run begins with all its sites, and holds them to the prepared images of that
    handshake. One that goes on may do so without those that a round may miss: a
    hospital that left for good does not keep the others from their model.

    Parameters
    ----------
    file : of the first handshake; written when it is not there
    left : sites that have left; the run goes on without them, unless they are back
    begun : rounds have been played

    Raises
    ------
    RunFailed
        If a site is absent that must not be, refuses, runs another version, holds
        another plan, builds other tensors or has other images than before; every such
        site is named with its reason.
    """
    first = read_greeting(file)
    nodes, others = _nodes_of(grid, plan, left)
    request = Request("handshake", {"plan": plan.hash, "run": run})
    limit = min(HANDSHAKE_SECONDS, plan.aggregation.round_timeout)
    answers = ask(grid, dict.fromkeys(nodes, request), "0", limit)
    found: dict[str, int] = {}
    problems: list[str] = []
    hellos: dict[str, Hello] = {}
    for node, name in nodes.items():
        hello = answers[node].fields
        site = str(hello["site"]) if hello else name or f"node {node}"
        reason = answers[node].reason or _disagreement(hello or {}, plan, fingerprint)
        if site in found:
            reason = "two nodes answer for it"
        if site not in plan.roster.sites and hello:
            reason = "not on the plan's roster"
        if reason and site not in left:
            problems.append(f"{site}: {reason}")
        elif hello and not reason:
            found[site], hellos[site] = node, hello
    named = {line.partition(":")[0] for line in problems}
    away = [one for one in plan.roster.sites if one not in {*found, *named}]
    absent = [
        one
        for one in away
        if begun and first and (one in left or _may_miss(one, found, plan))
    ]
    problems += [f"{one}: not connected" for one in away if one not in absent]
    if problems:
        raise RunFailed("the handshake failed:\n  " + "\n  ".join(problems) + others)
    if first is None:
        first = Greeting({one: found[one] for one in plan.roster.sites}, hellos)
        write_atomic(file, json.dumps(asdict(first), indent=2).encode())
    _require_same_images(hellos, first.hellos)
    for one in absent:
        log.warning("%s is not connected; the run goes on without it", one)
    return Greeting(
        {one: found.get(one, first.nodes[one]) for one in plan.roster.sites},
        {one: hellos.get(one, first.hellos[one]) for one in plan.roster.sites},
        tuple(absent),
    )


def _nodes_of(
    grid: Grid, plan: Plan, left: Collection[str]
) -> tuple[dict[int, str], str]:
    """Wait for the sites of the roster, but for those that have left.

    Flower lists the nodes that are online. A registered one bears its site's name;
    where nodes have no names, as Ray's, only the handshake tells.

    Returns
    -------
    Names of the nodes to ask, and words about the others: they are none of this run's,
    unless a site was registered under another name than the plan has.
    """
    deadline = time.monotonic() + GATHER_SECONDS
    while True:
        names = {node.node_id: node.name for node in grid.get_nodes()}
        here = {*names.values(), *left}
        absent = [one for one in plan.roster.sites if one not in here]
        if not absent or "" in names.values() or time.monotonic() > deadline:
            break
        log.info("waiting for %s", ", ".join(absent))
        time.sleep(2.0)
    # One that goes offline from here on comes back while it is asked, or is named.
    wanted = {"", *plan.roster.sites}
    others = ", ".join(sorted(set(names.values()) - wanted))
    said = f"\n  (online, but not in the plan's roster: {others})" if others else ""
    return {n: name for n, name in sorted(names.items()) if name in wanted}, said


def _may_miss(site: str, found: Collection[str], plan: Plan) -> bool:
    roster = plan.roster
    return site not in roster.required and len(found) >= roster.minimum_sites


def read_greeting(file: Path) -> Greeting | None:
    """Return the first handshake of a run; None before there was one."""
    return Greeting(**json.loads(file.read_bytes())) if file.is_file() else None


def _require_same_images(
    hellos: Mapping[str, Hello], first: Mapping[str, Hello]
) -> None:
    changed = [
        one
        for one, hello in hellos.items()
        if hello["snapshot"] != first[one]["snapshot"]
    ]
    if changed:
        raise RunFailed(
            f"the prepared images of {', '.join(changed)} are not those that this "
            "run began with. Restore them, or start a new run in another folder."
        )


def _disagreement(hello: Hello, plan: Plan, fingerprint: str) -> str | None:
    if hello["version"] != plan.version:
        return f"runs mammofed {hello['version']}, the plan is for {plan.version}"
    if hello["plan"] != plan.hash:
        return "holds another plan"
    if hello["fingerprint"] != fingerprint:
        return "builds other tensors, or draws another line between shared and local"
    return None
