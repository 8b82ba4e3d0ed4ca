"""The end of a run: every site is told which weights to keep as its model."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from flwr.serverapp import Grid

from common.contract import Contract
from common.plan import Plan
from common.records import Request, Value
from server.aggregation import pack_weights
from server.checkpoints import RunState
from server.conversation import ask
from server.participation import RunFailed
from server.replies import Metrics, metrics_of


def close(
    grid: Grid,
    plan: Plan,
    rule: Contract,
    nodes: Mapping[str, int],
    state: RunState,
    chosen: RunState,
    role: str,
    limit: float,
    gone: Collection[str],
) -> dict[str, Metrics]:
    """Have every site write its own model of a round.

    Parameters
    ----------
    rule : contract of the stage that ``chosen`` belongs to
    nodes : node id by site
    state : after the last round
    chosen : the state whose round is meant
    role : ``last`` or ``selected``
    limit : seconds until a site that is silent counts as lost
    gone : sites that were away when the last round counted: they get no model if they
        are still away; anybody else must

    Returns
    -------
    Validation metrics of that round by site, of those that answered.

    Raises
    ------
    RunFailed
        If a site that must get its model did not.
    """
    shared = pack_weights(chosen.shared, rule)
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
    answers = ask(grid, requests, role, limit, [nodes[site] for site in gone])
    lost = [
        f"{site}: {answers[node].reason}"
        for site, node in nodes.items()
        if answers[node].fields is None and site not in gone
    ]
    if lost:
        raise RunFailed(
            f"closing ({role} round {chosen.round}) failed at "
            + "; ".join(lost)
            + ". Mend the sites, then resume."
        )
    return {
        site: metrics_of(answered)
        for site, node in nodes.items()
        if (answered := answers[node].fields) is not None
    }
