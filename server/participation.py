"""Who takes part: finding the sites, the handshake, and when too few are left."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, Message
from flwr.serverapp import Grid

from common.plan import Plan, Roster
from common.records import (
    MESSAGE_TYPES,
    REMEDIES,
    REPLY_FIELDS,
    REQUEST_FIELDS,
    Code,
    Kind,
    Request,
    Value,
    WireError,
    decode,
    encode,
    pack_tensors,
)
from server.ledger import absences


class RunFailed(RuntimeError):  # noqa: N818  an outcome
    """A run that cannot go on; the text says why and what to do."""


@dataclass(frozen=True)
class Answer:
    """What became of one request: the reply's content, or why there is none."""

    fields: Mapping[str, Value] | None
    shared: Mapping[str, np.ndarray]
    replied: bool
    reason: str | None


def ask(
    grid: Grid, requests: Mapping[int, Request], group: str, timeout: float
) -> dict[int, Answer]:
    """Send one request to each node and wait for the answers.

    Parameters
    ----------
    requests : by node id
    group : Flower's group id, the round
    timeout : seconds; nodes that are silent by then have no reply

    Returns
    -------
    An answer for every node of ``requests``.
    """
    packed: dict[int, ArrayRecord] = {}  # most requests carry the very same tensors
    messages = []
    for node, request in requests.items():
        identity = id(request.shared)
        if identity not in packed:
            packed[identity] = pack_tensors(request.shared)
        schema = REQUEST_FIELDS[request.kind]
        content = encode(request.fields, packed[identity], schema)
        kind = MESSAGE_TYPES[request.kind]
        messages.append(Message(content, node, kind, group_id=group, ttl=timeout))
    replies = list(grid.send_and_receive(messages, timeout=timeout))
    by_request = {reply.metadata.reply_to_message_id: reply for reply in replies}
    return {
        message.metadata.dst_node_id: _read(
            by_request.get(message.metadata.message_id),
            requests[message.metadata.dst_node_id].kind,
        )
        for message in messages
    }


def _read(reply: Message | None, kind: Kind) -> Answer:
    if reply is None:
        return Answer(None, {}, False, "silent until the deadline")
    if reply.has_error():
        return Answer(None, {}, True, _explain(reply.error.code))
    try:
        fields, shared = decode(reply.content, REPLY_FIELDS[kind])
    except WireError as error:
        return Answer(None, {}, True, f"unreadable reply: {error}")
    return Answer(fields, shared, True, None)


def _explain(code: int) -> str:
    try:
        known = Code(code)
    except ValueError:
        return f"Flower error {code}"
    return f"{known.name}: {REMEDIES[known]}"


def greet(
    grid: Grid, plan: Plan, run: str, fingerprint: str
) -> tuple[dict[str, int], dict[str, Mapping[str, Value]]]:
    """Hold round 0: find every site of the roster and compare what both ends hold.

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
    nodes = sorted(grid.get_node_ids())
    answers = ask(
        grid, dict.fromkeys(nodes, request), "0", plan.aggregation.round_timeout
    )
    names = {node.node_id: node.name for node in grid.get_nodes() if node.name}
    found: dict[str, int] = {}
    problems: list[str] = []
    hellos: dict[str, Mapping[str, Value]] = {}
    for node in nodes:
        hello = answers[node].fields
        site = str(hello["site"]) if hello else names.get(node, f"node {node}")
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
    if problems:
        raise RunFailed("the handshake failed:\n  " + "\n  ".join(problems))
    return {site: found[site] for site in plan.roster.sites}, hellos


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
        it, and one that does not could never take part again

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
    required = roster.sites if everyone else roster.required
    if absent := sorted(set(required) - present):
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
