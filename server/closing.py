"""The end of a run: every site is told which weights to keep as its model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flwr.serverapp import Grid

from common.contract import Contract
from common.plan import Plan
from common.records import Request, Value
from server.aggregation import pack_weights
from server.checkpoints import RunState
from server.conversation import LEFT, ask
from server.participation import RunFailed
from server.replies import Metrics, metrics_of


@dataclass(frozen=True)
class Closed:
    """What became of a closing.

    Attributes
    ----------
    metrics : validation metrics of the round, of each site that has its model
    reestimated : those that re-estimated their statistics first
    without : sites that got no model, because they are away
    """

    metrics: dict[str, Metrics]
    reestimated: list[str]
    without: list[str]


def able(plan: Plan, nodes: Mapping[str, int], state: RunState) -> dict[str, int]:
    """Leave out who had left when the stage of a round opened, back now or not.

    Its local part was not carried over into that stage.

    Parameters
    ----------
    nodes : node id by site
    state : after the round
    """
    stage, local = plan.stage_at(state.round), state.local_rounds[state.round]
    return {site: n for site, n in nodes.items() if plan.stage_at(local[site]) == stage}


def close(
    grid: Grid,
    plan: Plan,
    rule: Contract,
    nodes: Mapping[str, int],
    state: RunState,
    chosen: RunState,
    role: str,
    limit: float,
    gone: Mapping[str, str],
) -> Closed:
    """Have every site write its own model of a round.

    Parameters
    ----------
    rule : contract of the stage that ``chosen`` belongs to
    nodes : node id by site
    state : after the last round
    chosen : the state whose round is meant
    role : ``last`` or ``selected``
    limit : seconds until a site that is silent counts as lost
    gone : sites that were away when the last round counted, and why: they get no model
        if they are still away; anybody else must, who has not left

    Raises
    ------
    RunFailed
        If a site that must get its model did not.
    """
    shared = pack_weights(chosen.shared, rule)
    nodes = able(plan, nodes, chosen)
    requests = {}
    for site, node in nodes.items():
        fields: dict[str, Value] = {
            "plan": plan.hash,
            "run": state.run,
            "round": chosen.round,
            "local_round": state.local_rounds[chosen.round][site],
            "role": role,
            "shared_hash": chosen.shared_hash,
            "fingerprint": rule.fingerprint,
        }
        requests[node] = Request("close", fields, shared)
    answers = ask(
        grid,
        requests,
        role,
        limit,
        {nodes[site]: why for site, why in gone.items() if site in nodes},
    )
    lost = [
        f"{site}: {answers[node].reason}"
        for site, node in nodes.items()
        if answers[node].fields is None
        and site not in gone
        and answers[node].reason != LEFT
    ]
    if lost:
        raise RunFailed(
            f"closing ({role} round {chosen.round}) failed at "
            + "; ".join(lost)
            + ". Mend the sites, then resume."
        )
    answered = {
        site: kept
        for site, node in nodes.items()
        if (kept := answers[node].fields) is not None
    }
    return Closed(
        {site: metrics_of(kept) for site, kept in answered.items()},
        [site for site, kept in answered.items() if kept["reestimated"]],
        [site for site in plan.roster.sites if site not in answered],
    )
