"""Arms differ in one respect, and take the same number of images."""

from __future__ import annotations

from dataclasses import replace

import pytest

from common.plan import Plan, Work
from simulations.arms import ARMS, check_arms, plan_for, restatistics_plan
from tests.support.hospitals import small_plan, small_stage

TRAINED = [name for name, arm in ARMS.items() if not arm.after]


def images_per_round(plan: Plan) -> int:
    work = plan.stages[0].work
    return work.amount * work.batch_size * len(plan.roster.sites)


@pytest.mark.parametrize("name", TRAINED)
def test_every_arm_takes_the_same_number_of_images(name: str) -> None:
    base = small_plan(small_stage(work=Work("steps", 5, 16)))
    assert images_per_round(plan_for(name, base, seed=1)) == images_per_round(base)


@pytest.mark.parametrize("name", TRAINED)
def test_an_arm_changes_its_sharing_and_nothing_else_of_a_stage(name: str) -> None:
    base = small_plan()
    plan = plan_for(name, base, seed=base.seed)
    stage = plan.stages[0]
    same = {"sharing": base.stages[0].sharing}
    if name == "fedprox":
        same["optimizer"] = base.stages[0].optimizer  # type: ignore[assignment]
    if name == "pooled":
        same["work"] = base.stages[0].work  # type: ignore[assignment]
    assert replace(stage, **same) == base.stages[0]  # type: ignore[arg-type]
    assert plan.hash != base.hash


@pytest.mark.parametrize("name", [*TRAINED, "sssl", "slll"])
def test_norms_by_vendor_are_for_arms_that_average_none(name: str) -> None:
    base = small_plan(small_stage(norm_domain="vendor"))
    (stage,) = plan_for(name, base, seed=1).stages
    local = name in ("local_only", "slll") or name.startswith("fedbn")
    assert stage.norm_domain == ("vendor" if local else "site")


@pytest.mark.parametrize("transport", ["float16", "bfloat16"])
def test_the_arms_of_compact_messages_differ_in_the_number_format_alone(
    transport: str,
) -> None:
    plain = plan_for("fedbn_head", small_plan(), seed=3)
    plan = plan_for(f"fedbn_head_{transport}", small_plan(), seed=3)
    assert plan.aggregation == replace(plain.aggregation, transport=transport)
    assert replace(plan, id=plain.id, aggregation=plain.aggregation) == plain


def test_a_rate_and_a_seed_reach_the_plan() -> None:
    plan = plan_for("fedavg", small_plan(), seed=7, rate=0.5)
    assert plan.seed == 7
    assert plan.stages[0].optimizer.learning_rate == 0.5


def test_the_statistics_arm_trains_nothing() -> None:
    base = small_plan(small_stage(norm_domain="vendor"))
    stage = restatistics_plan(base, "a" * 64, "fedavg", 1).stages[0]
    assert stage.trainable == ()
    assert stage.norm_mode == "reestimate"
    assert stage.rounds == 1


def test_four_letters_are_an_arm_of_that_sharing() -> None:
    assert plan_for("slsl", small_plan(), seed=1).stages[0].sharing == "slsl"


def test_a_follower_needs_its_forerunner_first() -> None:
    check_arms(["fedavg", "fedavg_local_stats"])
    with pytest.raises(ValueError, match="before it"):
        check_arms(["fedavg_local_stats", "fedavg"])
    with pytest.raises(ValueError, match="unknown"):
        check_arms(["fedavgg"])
