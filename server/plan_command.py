"""``mammo-plan``: compose a plan, show it in words, write it down."""

from __future__ import annotations

import sys
from pathlib import Path

from common.atomic import write_atomic
from common.compose import compose_tree, plan_of
from common.models.check import check_models
from common.plan import PlanError, plan_to_json
from common.plan_words import describe_plan

USAGE = """\
mammo-plan experiment=NAME [plan.FIELD=VALUE ...] [out=plan.json]

Composes the plan of an experiment, checks it, prints it in plain words with its hash,
and writes it as canonical JSON. Only the tree's `plan` group enters the hash.

  mammo-plan experiment=demo out=plan.json
  mammo-plan experiment=demo plan.stages.adapt.rounds=5 plan.seed=1
  mammo-plan experiment=demo plan.every_stage.sharing=slls
"""


def main(arguments: list[str] | None = None) -> None:
    """Run the command; exits with 2 on a user's mistake."""
    words = sys.argv[1:] if arguments is None else arguments
    if not words or {"-h", "--help", "help"} & set(words):
        print(USAGE)
        raise SystemExit(0 if words else 2)
    out = [word.removeprefix("out=") for word in words if word.startswith("out=")]
    try:
        tree = compose_tree([word for word in words if not word.startswith("out=")])
        plan = plan_of(tree)
        warnings = check_models(plan)
        print("\n".join(describe_plan(plan)))
        for warning in warnings:
            print(f"Note: {warning}")
        print(f"Hash: {plan.hash}")
        for name in out:
            _write(Path(name), plan_to_json(plan))
    except PlanError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None


def _write(path: Path, content: bytes) -> None:
    if path.exists() and path.read_bytes() != content:
        raise PlanError(f"{path} holds another plan; choose another name or delete it")
    if not path.parent.is_dir():
        raise PlanError(
            f"No folder {path.parent} to write the plan into; make it first"
        )
    write_atomic(path, content)
    print(f"Written to {path}")
