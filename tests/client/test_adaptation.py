"""Re-estimated statistics against the formula over the whole set."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from client.adaptation import reestimate_statistics


def test_the_mean_is_that_of_all_images_whatever_the_batches() -> None:
    images = torch.randn(50, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    model = nn.Sequential(nn.BatchNorm2d(3))
    model[0].running_mean += 99.0
    assert reestimate_statistics(model, images.split(16)) == 50
    assert torch.allclose(model[0].running_mean, images.mean((0, 2, 3)), atol=1e-6)
    expected = sum(b.var((0, 2, 3)) * len(b) for b in images.split(16)) / 50
    assert torch.allclose(model[0].running_var, expected, atol=1e-5)


def test_weights_momentum_and_other_layers_stay_as_they_were() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2, momentum=0.3), nn.Dropout()
    )
    before = [p.clone() for p in model.parameters()]
    reestimate_statistics(model, [torch.randn(4, 1, 3, 3)])
    assert all(
        torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)
    )
    assert model[1].momentum == 0.3
    assert not any(module.training for module in model.modules())


def test_a_pass_that_is_stopped_leaves_the_momentum_as_it_was() -> None:
    model = nn.Sequential(nn.BatchNorm2d(2, momentum=0.3))

    def stopping() -> Iterator[Tensor]:
        yield torch.randn(4, 2, 3, 3)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        reestimate_statistics(model, stopping())
    assert model[0].momentum == 0.3 and not model[0].training


def test_twice_over_the_same_images_gives_the_same() -> None:
    images = torch.randn(12, 2, 5, 5, generator=torch.Generator().manual_seed(1))
    model = nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2))
    reestimate_statistics(model, images.split(5))
    first = {k: v.clone() for k, v in model.state_dict().items()}
    reestimate_statistics(model, images.split(5))
    assert all(torch.equal(first[k], v) for k, v in model.state_dict().items())
