"""The reversed gradient against the formula, and a domain head that learns."""

from __future__ import annotations

import math

import pytest
import torch

from client.objectives import ObjectiveError, build_objective
from client.objectives.dann import reversal
from client.seen import Facts
from tests.client.objectives.seen import FACTS, drawn, seen


@pytest.mark.parametrize("progress", [0.0, 0.1, 0.5, 1.0])
def test_the_schedule_is_that_of_the_paper(progress: float) -> None:
    expected = 2 / (1 + math.exp(-10 * progress)) - 1
    assert reversal(progress, 10.0) == pytest.approx(expected)


def test_the_features_gradient_is_reversed_and_the_heads_is_not() -> None:
    loss = build_objective({"dann": {"hidden": (4,)}}, FACTS).double()
    features, domains = drawn(6), [0, 1, 0, 1, 1, 0]
    loss(seen(features, [0.0] * 6, domains, progress=0.3)).backward()
    first, second = (one.detach().clone() for one in loss.parameters())
    weights = [one.requires_grad_() for one in (first, second)]
    plain = features.detach().clone().requires_grad_()
    logits = torch.relu(plain @ first.T) @ second.T
    chosen = torch.log_softmax(logits, 1)[torch.arange(6), domains]
    (-chosen.mean()).backward()
    assert features.grad is not None and plain.grad is not None
    assert torch.allclose(features.grad, -reversal(0.3, 10.0) * plain.grad)
    for parameter, weight in zip(loss.parameters(), weights, strict=True):
        assert parameter.grad is not None and weight.grad is not None
        assert torch.allclose(parameter.grad, weight.grad)


def test_at_the_start_the_features_feel_nothing() -> None:
    features = drawn(4)
    loss = build_objective({"dann": {}}, FACTS).double()
    loss(seen(features, [0.0] * 4, [0, 1, 0, 1], progress=0.0)).backward()
    assert features.grad is not None and not features.grad.any()


def test_the_domain_head_learns_to_tell_domains_apart() -> None:
    loss = build_objective({"dann": {"hidden": (8,)}}, FACTS, seed=1)
    optimizer = torch.optim.Adam(loss.parameters(), 0.05)
    features = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
    domains = (features[:, 0] > 0).long().tolist()
    batch = seen(features, [0.0] * 40, domains)
    before = loss(batch).item()
    for _ in range(60):
        optimizer.zero_grad()
        loss(batch).backward()
        optimizer.step()
    assert loss(batch).item() < 0.3 * before


@pytest.mark.parametrize("batch", [1, 6])
def test_a_batch_of_one_domain_and_equal_features_is_finite(batch: int) -> None:
    features = torch.ones(batch, 5, requires_grad=True)
    loss = build_objective({"dann": {}}, FACTS)(seen(features, [0.0] * batch))
    loss.backward()
    assert torch.isfinite(loss)
    assert features.grad is not None and torch.isfinite(features.grad).all()


def test_a_site_of_one_domain_is_refused_with_the_remedy() -> None:
    with pytest.raises(ObjectiveError, match=r"objective\.dann: .*one domain.*domain"):
        build_objective({"dann": {}}, Facts(30, 10, 5, ((30, 10),)))
