"""A plan whose models cannot work is refused before anything is prepared."""

from __future__ import annotations

import pytest

from common.models.check import check_models
from common.plan import Model, PlanError
from tests.support.hospitals import small_plan, small_stage


def test_a_plan_that_works_has_nothing_to_note() -> None:
    assert check_models(small_plan()) == []


def test_a_preset_that_means_less_on_this_model_is_noted() -> None:
    stage = small_stage(model=Model("convnext_tiny"), sharing="fedbn")
    assert any(
        "not the published FedBN" in note for note in check_models(small_plan(stage))
    )


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (Model("resnet_huge"), "resnet_small"),
        (Model("resnet_tiny", widths=(8, 16), blocks=(1, 1)), "16"),
        (Model("resnet18", widths=(16,)), "fixed shape"),
    ],
)
def test_a_model_that_cannot_be_built_is_refused(model: Model, words: str) -> None:
    with pytest.raises(PlanError, match=words):
        check_models(small_plan(small_stage(model=model)))


def test_a_backbone_that_changes_between_stages_is_refused() -> None:
    stages = small_stage(), small_stage("next", 1, model=Model("resnet_small"))
    with pytest.raises(PlanError, match="backbone cannot change"):
        check_models(small_plan(*stages))
