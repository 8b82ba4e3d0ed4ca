"""Which plan a site has approved: a file with its hash, written by a person's command.

In a simulation `mammo-sim` approves for every virtual hospital.
"""

from __future__ import annotations

import json
from pathlib import Path

from common.atomic import write_atomic
from common.plan import Plan, plan_to_json
from common.records import Code, Refusal

_NAME = "approved.json"


def approve(site_state: Path, plan: Plan) -> None:
    """Record that this site agrees to the plan; the whole plan is kept beside it."""
    site_state.mkdir(parents=True, exist_ok=True)
    write_atomic(site_state / f"plan-{plan.hash[:12]}.json", plan_to_json(plan))
    write_atomic(site_state / _NAME, json.dumps({"plan": plan.hash}).encode())


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
