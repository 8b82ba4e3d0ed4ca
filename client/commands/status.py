"""``mammo-client status``: how a site is doing, for people and for programs."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from client.approval import has_left, last_approved
from client.commands.shared import settings_of, user_errors
from client.commands.start import policy_file
from client.health import PAUSED_FILE, obstacle
from client.local_state import last_counted
from client.node_status import read_status
from client.policy import PolicyError, describe_policy, read_policy
from client.shared_part import last_received
from client.site import Site
from common.progress import View, duration

_DAY = 86_400.0


def status(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="for programs")] = False,
) -> None:
    """Tell how the node is doing; exits with 1 where it is not at work."""
    view = View()
    with user_errors():
        facts = _facts(settings_of(context), policy_file(context.obj))
        if as_json:
            typer.echo(json.dumps(facts))
        else:
            grid = Table(box=None, show_header=False)
            for name, words in _rows(facts):
                grid.add_row(name, escape(words))
            view.console.print(grid)
    raise typer.Exit(0 if facts["at_work"] else 1)


def _facts(site: Site, policy: Path) -> dict[str, Any]:
    """Collect what ``--json`` tells; ages in seconds."""
    state = site.state_folder
    found, plan, counted = read_status(state), last_approved(state), last_counted(state)
    reason, received = obstacle(state), last_received(state)
    answer = found.get("last_answer")
    ends = found.get("certificate_ends")
    return {
        "site": site.site,
        "at_work": reason is None,
        "obstacle": reason,
        "left": has_left(state),
        "paused": (state / PAUSED_FILE).exists(),
        "doing": found.get("doing") if reason is None else None,
        "last_heartbeat_seconds": _age(found.get("heartbeat")),
        "last_contact_seconds": _age(found.get("contact")),
        "last_answer": answer and {**answer, "seconds": _age(answer["time"])},
        "trouble": found.get("trouble"),
        "plan": plan and plan.hash,
        "plan_id": plan and plan.id,
        "plan_rounds": plan and plan.rounds,
        "last_counted_round": counted and counted.round,
        "last_counted_seconds": counted and _age(counted.time),
        "last_counted_run": counted and counted.run,
        "shared_part": received
        and {
            "plan": received[0].plan,
            "round": received[0].round,
            "missing": list(received[0].missing),
            "tensors": received[0].tensors,
            "seconds": _age(received[1]),
        },
        "epsilon_spent": "none: no differential privacy yet",
        "certificate_days_left": ends and round((ends - time.time()) / _DAY, 1),
        "policy": _policy(policy),
    }


def _rows(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Say the same to a person."""
    answer, days = facts["last_answer"], facts["certificate_days_left"]
    counted = "none yet"
    if facts["last_counted_round"] is not None:
        counted = (
            f"{facts['last_counted_round']} of run {facts['last_counted_run']}, "
            f"known for {duration(facts['last_counted_seconds'])}"
        )
    plan = "none"
    if facts["plan"]:
        short = facts["plan"][:12]
        plan = f"{facts['plan_id']}, {facts['plan_rounds']} rounds, hash {short}"
    return [
        ("site", facts["site"]),
        ("at work", f"no: {facts['obstacle']}" if facts["obstacle"] else "yes"),
        ("doing", facts["doing"] or "-"),
        ("last heartbeat that arrived", _ago(facts["last_heartbeat_seconds"])),
        ("last contact", _ago(facts["last_contact_seconds"])),
        ("last answer", _answered(answer) if answer else "none yet"),
        ("trouble", facts["trouble"] or "none"),
        ("approved plan", plan),
        ("last counted round", counted),
        *(
            [("shared part", _received(facts["shared_part"]))]
            if facts["shared_part"]
            else []
        ),
        ("epsilon spent", facts["epsilon_spent"]),
        (
            "coordinator's certificate",
            "not seen yet" if days is None else f"days left: {days:g}, as last seen",
        ),
        ("policy", "; ".join(facts["policy"])),
    ]


def _policy(file: Path) -> list[str]:
    try:
        return describe_policy(read_policy(file))
    except PolicyError as error:
        return [f"all is refused: {error}"]


def _received(part: Mapping[str, Any]) -> str:
    return (
        f"of plan {part['plan']}, round {part['round']}, {_ago(part['seconds'])}, hash "
        f"{part['tensors'][:12]}; no model, lacks {', '.join(part['missing']) or '-'}"
    )


def _answered(answer: Mapping[str, Any]) -> str:
    refused = "refused, " if answer["refused"] else ""
    return f"{answer['kind']}, {refused}{_ago(answer['seconds'])}"


def _age(moment: object) -> float | None:
    return round(time.time() - float(str(moment)), 1) if moment else None


def _ago(seconds: float | None) -> str:
    return "never" if seconds is None else f"{duration(seconds)} ago"
