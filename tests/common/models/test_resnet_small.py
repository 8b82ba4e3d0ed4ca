"""The small residual network: size, shape, and that one pixel reaches the features."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from common import plan
from common.models import build_model


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_sizes_are_as_promised() -> None:
    assert parameters(build_model(plan.Model(name="resnet_small"), 0)) == 307_633
    assert parameters(build_model(plan.Model(name="resnet_tiny"), 0)) < 50_000


def test_widths_and_blocks_come_from_the_plan() -> None:
    spec = plan.Model(name="resnet_small", widths=(16, 48), blocks=(2, 3))
    model = build_model(spec, 0)
    stages = model.backbone.get_submodule("stages")
    assert [len(stage) for stage in stages.children()] == [2, 3]  # type: ignore[arg-type]
    assert model.features(torch.rand(2, 1, 32, 32)).shape == (2, 48)


def test_narrow_first_stage_is_refused_with_the_reason() -> None:
    spec = plan.Model(name="resnet_small", widths=(8, 16), blocks=(1, 1))
    with pytest.raises(ValueError, match="corrupt the heap below 16"):
        build_model(spec, 0)


def test_unequal_lengths_are_refused() -> None:
    spec = plan.Model(name="resnet_small", widths=(16, 16, 16))
    with pytest.raises(ValueError, match=r"widths has 3 stages and model\.blocks 4"):
        build_model(spec, 0)


def test_stem_loses_no_single_pixel() -> None:
    """A calcification of one pixel must not fall between the strides."""
    model = build_model(plan.Model(name="resnet_tiny"), 0).eval()
    stem = model.backbone.get_submodule("stem")
    dots = torch.eye(256).reshape(256, 1, 16, 16)
    with torch.inference_mode():
        brightest = stem(dots).flatten(1).amax(dim=1)
    assert brightest.min() > 0.2 * brightest.max()
