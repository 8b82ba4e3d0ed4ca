"""Every experiment of the tree composes to a valid plan and valid settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.compose import compose_tree, plan_of
from common.plan import PlanError, plan_from_json, plan_to_json
from simulations.settings import settings_of

ROOT = Path(__file__).parents[1]
EXPERIMENTS = sorted(p.stem for p in (ROOT / "configs" / "experiment").glob("*.yaml"))
STAGES = sorted(p.stem for p in (ROOT / "configs" / "stages").glob("*.yaml"))
MODELS = sorted(p.stem for p in (ROOT / "configs" / "plan" / "model").glob("*.yaml"))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_composes(name: str) -> None:
    tree = compose_tree([f"experiment={name}", "data.root=somewhere"])
    settings, plan = settings_of(tree), plan_of(tree)
    assert plan.roster.sites == settings.data.sites
    assert plan.rounds > 0


@pytest.mark.parametrize("name", STAGES)
def test_stages_compose_to_as_many_rounds_as_one(name: str) -> None:
    stages = plan_of(compose_tree([f"stages={name}"])).stages
    assert sum(stage.rounds for stage in stages) == 40
    assert "ce" in stages[-1].objective


@pytest.mark.parametrize("name", MODELS)
def test_a_model_composes(name: str) -> None:
    plan = plan_of(compose_tree([f"plan/model@plan.every_stage.model={name}"]))
    assert plan.stages[0].model.name == name


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("experiment=missing", "demo"),
        ("objective=[ce,supcom]", "supcon"),
        ("stages=supcont", "supcontr_ce"),
        ("plan.stages.adapt.ronds=3", "ronds"),
        ("plan.stages.adapt.rounds=many", "stages.0.rounds"),
        ("plan.every_stage.sharing=fedbnn", "fedbn_head"),
        ("plan.roster.minimum_sites=9", "minimum_sites is 9"),
        ("arms=[fedavg,fedbnn]", "local_only"),
        ("compare=[pooled,fedavg]", "compare names pooled"),
        ("arms=[fedavg_local_stats,fedavg]", "needs fedavg before it"),
        ("devise=cpu", "devise"),
        ("device=tpu", "device"),
        ("dump=maybe", "dump"),
    ],
)
def test_a_mistake_is_named(override: str, words: str) -> None:
    with pytest.raises(PlanError) as caught:
        tree = compose_tree([override])
        settings_of(tree)
        plan_of(tree)
    assert words in str(caught.value)


def test_replies_are_written_down_in_process_only() -> None:
    with pytest.raises(PlanError, match="dump=true needs backend=in_process"):
        settings_of(compose_tree(["dump=true", "backend=ray"]))


def test_folders_and_devices_never_enter_the_plan_hash() -> None:
    first = plan_of(compose_tree(["experiment=demo"])).hash
    local = ["run_dir=/elsewhere", "device=cpu", "threads=1", "data.root=/other"]
    assert plan_of(compose_tree(["experiment=demo", *local])).hash == first
    assert plan_of(compose_tree(["experiment=demo", "plan.seed=1"])).hash != first


def test_exceptions_of_the_voi_policy_are_given_on_the_command_line() -> None:
    words = ["experiment=demo", "+plan.preprocessing.voi_of={ge/unknown: none}"]
    plan = plan_of(compose_tree(words))
    assert plan.preprocessing.voi_of == {"ge/unknown": "none"}
    assert plan_from_json(plan_to_json(plan)) == plan
