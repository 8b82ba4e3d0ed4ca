"""Which plan a site has approved: a file with its hash, written by a person's command.

A site that leaves the federation withdraws its approval, and nothing is answered any
more; to approve a plan is to take part again.

In a simulation `mammo-sim` approves for every virtual hospital.
"""

from __future__ import annotations

import json
from pathlib import Path

from common.atomic import write_atomic
from common.plan import Plan, PlanError, plan_to_json, read_plan
from common.records import Code, Refusal

_NAME = "approved.json"
_LEFT = "left"


def approve(site_state: Path, plan: Plan) -> None:
    """Record that this site agrees to the plan; the whole plan is kept beside it.

    A site that had left takes part again.
    """
    site_state.mkdir(parents=True, exist_ok=True)
    write_atomic(site_state / f"plan-{plan.hash[:12]}.json", plan_to_json(plan))
    write_atomic(site_state / _NAME, json.dumps({"plan": plan.hash}).encode())
    (site_state / _LEFT).unlink(missing_ok=True)


def leave(site_state: Path) -> None:
    """Withdraw the approval, and note that the site has left; nothing else changes.

    The note comes first: a node at work tells the coordinator that we left, not that we
    never agreed.
    """
    site_state.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_atomic(site_state / _LEFT, b"", 0o600)
    (site_state / _NAME).unlink(missing_ok=True)


def has_left(site_state: Path) -> bool:
    """Tell whether the site has left the federation; its folder need not exist."""
    return (site_state / _LEFT).exists()


def approved_plan(site_state: Path, plan_hash: str) -> Plan:
    """Return the plan that this site has approved.

    Raises
    ------
    Refusal
        With ``PLAN_NOT_APPROVED`` if it is another one, or its file was changed since.
    """
    require_approved(site_state, plan_hash)
    try:
        plan = read_plan(site_state / f"plan-{plan_hash[:12]}.json")
    except PlanError as error:
        raise Refusal(Code.PLAN_NOT_APPROVED, str(error)) from None
    if plan.hash != plan_hash:
        raise Refusal(Code.PLAN_NOT_APPROVED, "the approved plan's file was changed")
    return plan


def last_approved(site_state: Path) -> Plan | None:
    """Return the plan that was approved last, or None."""
    path = site_state / _NAME
    if not path.is_file():
        return None
    plan_hash = str(json.loads(path.read_bytes())["plan"])
    return read_plan(site_state / f"plan-{plan_hash[:12]}.json")


def require_approved(site_state: Path, plan_hash: str) -> None:
    """Refuse a plan whose hash is not the approved one.

    Raises
    ------
    Refusal
        With ``PLAN_NOT_APPROVED``.
    """
    path = site_state / _NAME
    approved = json.loads(path.read_bytes())["plan"] if path.is_file() else None
    if approved != plan_hash:
        raise Refusal(
            Code.PLAN_NOT_APPROVED,
            f"plan {plan_hash[:12]} is not the approved one "
            f"({approved[:12] if approved else 'none is'}); look at it and approve it",
        )
