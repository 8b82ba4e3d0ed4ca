"""Terms add up, a typo names what there is, and a new term is one file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import client.objectives
from client.objectives import (
    ObjectiveError,
    build_objective,
    check_objective,
    known_terms,
)
from common.compose import compose_tree, plan_of
from common.plan import PlanError
from tests.client.objectives.seen import FACTS, drawn, seen

TOY = """
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Parameters:
    factor: float = 2.0


def build(parameters, facts):
    class Toy(nn.Module):
        def forward(self, seen):
            return parameters.factor * seen.features.square().mean()

    return Toy()
"""


def test_terms_add_up_by_their_weights() -> None:
    batch = seen(drawn(4), [1.0, 0.0, 1.0, 0.0], [0, 1, 1, 0])
    ce = build_objective({"ce": {}}, FACTS)(batch)
    mmd = build_objective({"mmd": {}}, FACTS)(batch)
    both = build_objective({"ce": {"weight": 2}, "mmd": {"weight": 0.5}}, FACTS)
    assert both(batch).item() == pytest.approx((2 * ce + 0.5 * mmd).item())


def test_a_terms_own_weights_derive_from_the_seed_alone() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one, other, third = (
        build_objective({"supcon": {}}, FACTS, seed).terms["supcon"].state_dict()
        for seed in (3, 3, 4)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert not torch.equal(one["projector.0.weight"], third["projector.0.weight"])


@pytest.mark.parametrize(
    ("objective", "said"),
    [
        ({"supcom": {}}, "objective.supcom is unknown; there is ce, dann, mmd, supcon"),
        (
            {"supcon": {"temperatur": 0.1}},
            r"objective\.supcon\.temperatur: .*supcon takes weight, temperature",
        ),
        ({"ce": {"pos_weight": "sight"}}, r"objective\.ce\.pos_weight"),
    ],
)
def test_a_typo_names_what_there_is(
    objective: dict[str, dict[str, float]], said: str
) -> None:
    with pytest.raises(ObjectiveError, match=said):
        check_objective(objective)  # type: ignore[arg-type]


def test_a_new_term_is_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "toy.py").write_text(TOY)
    own = list(client.objectives.__path__)
    monkeypatch.setattr(client.objectives, "__path__", [*own, str(tmp_path)])
    assert "toy" in known_terms()
    features = drawn(3)
    loss = build_objective({"toy": {"factor": 3.0}}, FACTS)
    found = loss(seen(features, [1.0, 0.0, 0.0]))
    assert found.item() == pytest.approx(3 * features.square().mean().item())


def test_every_term_has_a_configuration_with_its_own_defaults() -> None:
    folder = Path(client.objectives.__path__[0]).parents[1] / "configs" / "objective"
    assert sorted(file.stem for file in folder.glob("*.yaml")) == known_terms()
    for name in known_terms():
        plan = plan_of(compose_tree([f"objective=[{name}]"]))
        (stage,) = plan.stages
        assert list(stage.objective) == [name]
        built = build_objective(stage.objective, FACTS).state_dict()
        plain = build_objective({name: {}}, FACTS).state_dict()
        assert {k: v.shape for k, v in built.items()} == {
            k: v.shape for k, v in plain.items()
        }


def test_a_stage_leaves_a_term_out_with_null() -> None:
    plan = plan_of(
        compose_tree(["objective=[ce,supcon]", "+plan.stages.adapt.objective.ce=null"])
    )
    assert list(plan.stages[0].objective) == ["supcon"]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("plan.every_stage.objective.ce.weight=0", "objective.ce.weight"),
        ("+plan.stages.adapt.objective.ce=null", "names no term"),
    ],
)
def test_an_objective_without_a_weight_or_a_term_is_no_plan(
    override: str, said: str
) -> None:
    with pytest.raises(PlanError, match=said):
        plan_of(compose_tree([override]))
