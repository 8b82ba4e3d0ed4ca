"""A model that a site kept, without the run before it."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from client.model_folder import ModelInfo, write_model_folder
from common.models import build_model
from common.norm_domains import split_norms
from common.plan import Plan
from tests.support.hospitals import small_plan

PLAN = small_plan(sites=("north",))


def keep_model(
    state: Path, plan: Plan = PLAN, round_: int = 2, **changes: Any
) -> tuple[Path, str]:
    """Write an untrained model below a site's state; return its folder and hash."""
    folder = state / "models" / plan.id / str(round_)
    info = ModelInfo(
        plan=plan.id,
        plan_hash=plan.hash,
        run="run",
        site="north",
        round=round_,
        role="selected",
        sharing="fedbn_head",
        model=asdict(plan.stages[0].model),
        preprocessing=asdict(plan.preprocessing),
        thresholds={"north": 0.5},
        unit="breast",
        synthetic=False,
    )
    model = build_model(plan.stages[0].model, seed=round_)
    if vendors := changes.get("norm_domains"):
        split_norms(model, set(vendors.values()))
    tensors = {key: tensor.numpy() for key, tensor in model.state_dict().items()}
    content_hash = write_model_folder(folder, tensors, replace(info, **changes), plan)
    return folder, content_hash
