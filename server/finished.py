"""A finished run that is asked for again: nothing is trained, and its outcome stays.

Registered sites that are not in the plan's roster are offered the shared part of the
selected round. Sites of the roster close again, in case one lacks its model. Nobody is
waited for who is not online.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flwr.serverapp import Grid

from common.atomic import write_atomic
from common.contract import Contract, fingerprint
from common.models import build_model
from common.plan import Plan
from common.records import Request
from common.sharing import contract
from server.checkpoints import Checkpoints, RunState
from server.closing import close
from server.conversation import OFFLINE, ask
from server.deadlines import round_deadline
from server.greeting import HANDSHAKE_FILE, read_greeting

OUTCOME_FILE, OFFERS_FILE = "outcome.json", "offers.json"

OFFER_SECONDS = 900.0
"""How long a site may take to receive and keep what is offered."""

log = logging.getLogger(__name__)


def is_finished(folder: Path) -> bool:
    """Tell whether the run of a folder has an outcome."""
    return (folder / OUTCOME_FILE).is_file()


def serve(grid: Grid, plan: Plan, folder: Path) -> None:
    """Serve a finished run to whoever is online.

    Parameters
    ----------
    folder : of the run; ``offers.json`` grows by an entry for each site and call

    Raises
    ------
    CheckpointError
        If the folder is of another plan, or the selected round is gone or damaged.
    """
    outcome = json.loads((folder / OUTCOME_FILE).read_bytes())
    checkpoints = Checkpoints(folder / "checkpoints", plan.hash)
    last, selected = (checkpoints.read(int(outcome[r])) for r in ("last", "selected"))
    (folder / "failure.json").unlink(missing_ok=True)  # of before it succeeded
    online = {node.node_id: node.name for node in grid.get_nodes()}
    own = {name: n for n, name in online.items() if name in plan.roster.sites}
    others = {
        name or f"node {n}": n
        for n, name in online.items()
        if name not in plan.roster.sites
    }
    log.info(
        "the run is finished; online in its roster: %s; others: %s",
        ", ".join(own) or "nobody",
        ", ".join(others) or "nobody",
    )
    _note(folder, _offer(grid, plan, others, selected))
    _close_again(grid, plan, own, last, selected, folder)


def _offer(
    grid: Grid, plan: Plan, others: Mapping[str, int], selected: RunState
) -> list[dict[str, Any]]:
    """Offer the shared part of the selected round; tell what each site said."""
    rule = _rule(plan, selected)
    if not rule.shared:
        log.info("nothing is shared in stage %s: nothing to offer", rule.stage.name)
        return []
    layout = rule.layout_of(rule.shared)
    request = Request(
        "offer",
        {
            "plan": plan.hash,
            "run": selected.run,
            "round": selected.round,
            "shared_hash": selected.shared_hash,
            "fingerprint": fingerprint(layout, rule.stage.name, rule.stage.model.name),
        },
        selected.shared,
    )
    answers = ask(grid, dict.fromkeys(others.values(), request), "offer", OFFER_SECONDS)
    told = []
    for name, node in sorted(others.items()):
        fields, reason = answers[node].fields, answers[node].reason
        if fields is not None and fields["shared_hash"] != selected.shared_hash:
            reason = "it confirms another hash"
        log.info("%s %s", name, f"did not receive it: {reason}" if reason else "has it")
        entry = {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "site": name,
            "received": reason is None,
            "reason": reason,
            "run": selected.run,
            "round": selected.round,
            "shared_hash": selected.shared_hash,
        }
        told.append(entry)
    return told


def _note(folder: Path, told: list[dict[str, Any]]) -> None:
    path = folder / OFFERS_FILE
    before = json.loads(path.read_bytes()) if path.is_file() else []
    write_atomic(path, json.dumps([*before, *told], indent=2).encode())


def _close_again(
    grid: Grid,
    plan: Plan,
    nodes: Mapping[str, int],
    last: RunState,
    selected: RunState,
    folder: Path,
) -> None:
    first = read_greeting(folder / HANDSHAKE_FILE)
    hellos = {} if first is None else first.hellos
    nobody_must = dict.fromkeys(plan.roster.sites, OFFLINE)
    for role, chosen in (("last", last), ("selected", selected)):
        rule = _rule(plan, chosen)
        limit = round_deadline(plan, rule.stage, hellos, last.ledger)
        closed = close(grid, plan, rule, nodes, last, chosen, role, limit, nobody_must)
        log.info(
            "closed again (%s round %d) at: %s",
            role,
            chosen.round,
            ", ".join(closed.metrics) or "nobody",
        )


def _rule(plan: Plan, state: RunState) -> Contract:
    stage = plan.stages[plan.stage_at(state.round)]
    return contract(
        build_model(stage.model, plan.seed), stage, plan.aggregation.transport
    )
