"""The local loop against formulas."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from client.objectives import build_objective, positive_weight
from client.steps.plain import plain_step
from client.training import (
    build_optimizer,
    learning_rate,
    optimizer_tensors,
    restore_optimizer,
    train,
)
from common.plan import Objective, Optimizer
from common.records import Code, Refusal

IMAGES = torch.linspace(-1, 1, 24).reshape(8, 3)
TARGETS = torch.tensor([0.0, 1, 0, 1, 1, 0, 0, 1])
CE = build_objective(Objective(pos_weight=1.0), 1, 1)


def linear(seed: int = 0) -> nn.Linear:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Linear(3, 1)


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
        plain_step(
            model, optimizer, CE, IMAGES, TARGETS, proximal=proximal, received=received
        )
    assert torch.allclose(plain.weight - pulled.weight, mu * moved, atol=1e-6)
    assert torch.equal(plain.bias, pulled.bias)


def test_cross_entropy_equals_its_formula() -> None:
    loss = build_objective(Objective(pos_weight=3.0, label_smoothing=0.2), 1, 1)
    logits = torch.tensor([[0.3], [-1.2]])
    p = torch.sigmoid(logits[:, 0])
    soft = torch.tensor([0.9, 0.1])
    expected = -(3 * soft * p.log() + (1 - soft) * (1 - p).log()).mean()
    assert loss(logits, torch.tensor([1.0, 0.0])).item() == pytest.approx(
        expected.item(), rel=1e-6
    )


def test_the_sites_own_weight_balances_its_classes() -> None:
    assert positive_weight(Objective(pos_weight="site"), 90, 10) == 9.0
    assert positive_weight(Objective(pos_weight="site"), 90, 0) == 1.0
    assert positive_weight(Objective(pos_weight=2.5), 90, 10) == 2.5


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_restored_optimiser_goes_on_as_if_it_had_never_stopped(name: str) -> None:
    settings = Optimizer(name, 0.1)  # type: ignore[arg-type]
    model = linear()
    optimizer = build_optimizer(list(model.parameters()), settings)
    for _ in range(3):
        plain_step(model, optimizer, CE, IMAGES, TARGETS)
    other = copy.deepcopy(model)
    fresh = build_optimizer(list(other.parameters()), settings)
    restore_optimizer(other, fresh, optimizer_tensors(model, optimizer))
    for one, its in ((model, optimizer), (other, fresh)):
        plain_step(one, its, CE, IMAGES, TARGETS)
    assert torch.equal(model.weight, other.weight)


def test_a_loss_that_is_not_finite_is_refused() -> None:
    model, settings = linear(), Optimizer()
    optimizer = build_optimizer(list(model.parameters()), settings)
    with pytest.raises(Refusal) as caught:
        train(
            model,
            optimizer,
            CE,
            [(IMAGES * math.nan, TARGETS)],
            settings,
            progress=(0.0, 1.0),
            steps=1,
        )
    assert caught.value.code == Code.NOT_FINITE


def test_the_reported_loss_is_the_mean_over_steps() -> None:
    settings = Optimizer(learning_rate=0.5, momentum=0.0, weight_decay=0.0)
    batches = [(IMAGES[:4], TARGETS[:4]), (IMAGES[4:], TARGETS[4:])]
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
    losses = [plain_step(by_hand, optimizer, CE, *batch).item() for batch in batches]
    assert done.loss == pytest.approx(np.mean(losses), rel=1e-6)
    assert done.images == 8
    assert done.step_seconds > 0
