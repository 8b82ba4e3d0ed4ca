"""Check that a plan's models can be built and its stages follow on each other."""

from __future__ import annotations

from itertools import pairwise

from common.models import build_model
from common.models.transitions import check_transition
from common.plan import Plan, PlanError
from common.sharing import contract


def check_models(plan: Plan) -> list[str]:
    """Build every stage's model once.

    Returns
    -------
    What a reader should know about the stages, such as a preset that means less on a
    model without BatchNorm.

    Raises
    ------
    PlanError
        If a model cannot be built, a switch selects nothing, or a model changes between
        stages in a way that has no rule.
    """
    warnings: list[str] = []
    try:
        for stage in plan.stages:
            model = build_model(stage.model, plan.seed)
            warnings += contract(model, stage).warnings
        for before, after in pairwise(plan.stages):
            check_transition(before.model, after.model)
    except ValueError as error:
        raise PlanError(f"The plan is not valid: {error}") from None
    return list(dict.fromkeys(warnings))
