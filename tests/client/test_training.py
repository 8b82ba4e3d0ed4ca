"""The local loop against formulas."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from client.objectives import build_objective
from client.seen import Batch, Facts
from client.steps.plain import plain_step
from client.training import (
    build_optimizer,
    learning_rate,
    optimizer_tensors,
    restore_optimizer,
    train,
)
from common.plan import Optimizer
from common.records import Code, Refusal

IMAGES = torch.linspace(-1, 1, 24).reshape(8, 3)
TARGETS = torch.tensor([0.0, 1, 0, 1, 1, 0, 0, 1])
BATCH = Batch(IMAGES, TARGETS, torch.zeros(8, dtype=torch.int64))
CE = build_objective({"ce": {"pos_weight": 1.0}}, Facts(1, 1, 3))


class Linear(nn.Linear):
    """A model whose features are the images."""

    def features(self, images: Tensor) -> Tensor:
        return images

    def classify(self, features: Tensor) -> Tensor:
        return self(features)  # type: ignore[no-any-return]


def linear(seed: int = 0) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Linear(3, 1)


def test_cosine_falls_from_the_rate_to_zero() -> None:
    settings = Optimizer(learning_rate=0.2, schedule="cosine")
    assert learning_rate(settings, 0.0) == 0.2
    assert learning_rate(settings, 0.5) == pytest.approx(0.1)
    assert learning_rate(settings, 1.0) == pytest.approx(0.0)
    assert learning_rate(Optimizer(learning_rate=0.2), 0.9) == 0.2


def test_fedprox_adds_mu_times_the_distance_to_the_gradient() -> None:
    mu, plain, pulled = 0.7, linear(), linear()
    received = {"weight": linear(1).weight.detach()}
    moved = plain.weight.detach() - received["weight"]
    for model, proximal in ((plain, 0.0), (pulled, mu)):
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        plain_step(model, optimizer, CE, BATCH, proximal=proximal, received=received)
    assert torch.allclose(plain.weight - pulled.weight, mu * moved, atol=1e-6)
    assert torch.equal(plain.bias, pulled.bias)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_restored_optimiser_goes_on_as_if_it_had_never_stopped(name: str) -> None:
    settings = Optimizer(name, 0.1)  # type: ignore[arg-type]
    model = linear()
    optimizer = build_optimizer(list(model.parameters()), settings)
    for _ in range(3):
        plain_step(model, optimizer, CE, BATCH)
    other = copy.deepcopy(model)
    fresh = build_optimizer(list(other.parameters()), settings)
    restore_optimizer(other, CE, fresh, optimizer_tensors(model, CE, optimizer))
    for one, its in ((model, optimizer), (other, fresh)):
        plain_step(one, its, CE, BATCH)
    assert torch.equal(model.weight, other.weight)


def test_a_loss_that_is_not_finite_is_refused() -> None:
    model, settings = linear(), Optimizer()
    optimizer = build_optimizer(list(model.parameters()), settings)
    with pytest.raises(Refusal) as caught:
        train(
            model,
            optimizer,
            CE,
            [BATCH._replace(images=IMAGES * math.nan)],
            settings,
            progress=(0.0, 1.0),
            steps=1,
        )
    assert caught.value.code == Code.NOT_FINITE


def test_the_reported_loss_is_the_mean_over_steps() -> None:
    settings = Optimizer(learning_rate=0.5, momentum=0.0, weight_decay=0.0)
    batches = [Batch(*(one[:4] for one in BATCH)), Batch(*(one[4:] for one in BATCH))]
    model, by_hand = linear(), linear()
    done = train(
        model,
        build_optimizer(list(model.parameters()), settings),
        CE,
        batches,
        settings,
        progress=(0.0, 1.0),
        steps=2,
    )
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.5)
    losses = [plain_step(by_hand, optimizer, CE, batch).item() for batch in batches]
    assert done.loss == pytest.approx(np.mean(losses), rel=1e-6)
    assert done.images == 8
    assert done.step_seconds > 0
