"""What running statistics do in each norm mode."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from common import plan
from common.models import MammographyModel, build_model
from common.norms import NormMode, running_statistics, set_norm_mode


def statistics_after_steps(
    norm_mode: NormMode,
) -> tuple[MammographyModel, dict[str, Tensor], dict[str, Tensor]]:
    model = build_model(plan.Model(name="resnet_tiny"), 0)
    names = running_statistics(model)
    before = {key: model.state_dict()[key].clone() for key in names}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    images = torch.rand(4, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    for _ in range(3):
        model.train()
        set_norm_mode(model, norm_mode)
        optimizer.zero_grad()
        model(images).square().sum().backward()
        optimizer.step()
    return model, before, {key: model.state_dict()[key] for key in names}


def test_frozen_statistics_stay_bit_identical_while_weights_move() -> None:
    model, before, after = statistics_after_steps("frozen")
    assert len(before) == 3 * 9
    assert all(torch.equal(before[key], after[key]) for key in before)
    start = build_model(model.spec, 0).state_dict()["heads.malignancy.weight"]
    assert not torch.equal(model.state_dict()["heads.malignancy.weight"], start)


@pytest.mark.parametrize("norm_mode", ["batch", "reestimate"])
def test_other_modes_move_every_statistic(norm_mode: NormMode) -> None:
    _, before, after = statistics_after_steps(norm_mode)
    assert not any(torch.equal(before[key], after[key]) for key in before)


def test_reestimate_leaves_dropout_off() -> None:
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout(0.5))
    model.train()
    set_norm_mode(model, "reestimate")
    assert (model[0].training, model[1].training) == (True, False)
    model.train()
    set_norm_mode(model, "batch")
    assert (model[0].training, model[1].training) == (True, True)
