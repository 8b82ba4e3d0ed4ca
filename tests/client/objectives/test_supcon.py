"""The contrastive loss against a slow reference, written from the formula."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from client.objectives import ObjectiveError, WeightedSum, build_objective
from tests.client.objectives.seen import FACTS, drawn, seen

PLAIN: dict[str, object] = {"temperature": 0.5, "projector": ()}


def built(**settings: object) -> WeightedSum:
    return build_objective({"supcon": {**PLAIN, **settings}}, FACTS).double()  # type: ignore[dict-item]


def slow(features: Tensor, labels: list[float], tau: float) -> float:
    """Khosla et al. 2020, equation 2, mean over the anchors that have a positive."""
    z = [row / math.sqrt(sum(float(x) ** 2 for x in row)) for row in features.detach()]
    losses = []
    for i in range(len(z)):
        others = [a for a in range(len(z)) if a != i]
        positives = [p for p in others if labels[p] == labels[i]]
        if not positives:
            continue
        total = sum(math.exp(float(z[i] @ z[a]) / tau) for a in others)
        terms = [
            math.log(math.exp(float(z[i] @ z[p]) / tau) / total) for p in positives
        ]
        losses.append(-sum(terms) / len(positives))
    return sum(losses) / len(losses)


@pytest.mark.parametrize(
    "labels",
    [
        [1, 1, 0, 0, 0, 0],
        [1, 0, 0, 0, 0, 0],  # one positive: no pair of its own
        [0, 0, 0, 0, 0, 0],
        [1, 0, 1, 0, 1, 0],
    ],
)
def test_the_loss_is_that_of_the_formula(labels: list[float]) -> None:
    features = drawn(len(labels))
    found = built()(seen(features, labels))
    assert found.item() == pytest.approx(slow(features, labels, 0.5), rel=1e-12)


def test_the_domain_of_an_image_does_not_matter() -> None:
    features, labels = drawn(4), [1.0, 1.0, 0.0, 0.0]
    one = built()(seen(features, labels, [0, 0, 0, 0]))
    assert torch.equal(one, built()(seen(features, labels, [0, 1, 0, 1])))


def test_its_gradient_is_that_of_the_loss() -> None:
    loss = built(projector=(4, 3))
    labels = [1.0, 0.0, 1.0, 0.0, 0.0]
    assert torch.autograd.gradcheck(lambda x: loss(seen(x, labels)), drawn(5))


@pytest.mark.parametrize("labels", [[1.0], [1.0, 0.0], []])
def test_a_batch_without_a_pair_has_a_loss_and_gradient_of_zero(
    labels: list[float],
) -> None:
    features = drawn(len(labels))
    loss = built()(seen(features, labels))
    loss.backward()
    assert loss.item() == 0.0
    assert features.grad is not None and not features.grad.any()


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_identical_features_have_a_finite_loss_and_gradient(value: float) -> None:
    features = torch.full((6, 5), value, dtype=torch.float64, requires_grad=True)
    loss = built()(seen(features, [1.0, 1.0, 0.0, 0.0, 0.0, 0.0]))
    loss.backward()
    assert loss.item() == pytest.approx(math.log(5))
    assert features.grad is not None and torch.isfinite(features.grad).all()


def test_a_small_temperature_does_not_overflow() -> None:
    features = drawn(6).float()
    loss = build_objective({"supcon": {"temperature": 1e-4}}, FACTS)
    assert torch.isfinite(loss(seen(features, [1.0, 1.0, 0.0, 0.0, 0.0, 0.0])))


def test_a_queue_compares_with_earlier_batches_without_their_gradient() -> None:
    first, second = drawn(4, seed=1), drawn(4, seed=2)
    labels = [1.0, 0.0, 1.0, 0.0]
    loss = built(queue=4)
    loss(seen(first, labels))
    found = loss(seen(second, labels))
    # The whole batch of eight, with the anchors of the second half alone.
    z = torch.nn.functional.normalize(torch.cat([second, first.detach()]), dim=1)
    similar = (z @ z.T / 0.5).masked_fill(torch.eye(8, dtype=torch.bool), -math.inf)
    share = similar - similar.logsumexp(1, keepdim=True)
    both = torch.tensor(labels * 2)
    pairs = (both[:, None] == both[None]) & ~torch.eye(8, dtype=torch.bool)
    each = [-share[i][pairs[i]].mean() for i in range(4)]
    assert found.item() == pytest.approx(torch.stack(each).mean().item(), rel=1e-12)
    found.backward()
    assert first.grad is None


def test_a_queue_keeps_the_newest_and_is_state() -> None:
    loss = built(queue=3)
    for value in (1.0, 0.0):
        loss(seen(drawn(2, seed=int(value)), [value, value]))
    assert loss.state_dict()["terms.supcon.queued_labels"].tolist() == [0, 0, 1]


def test_a_projector_has_the_widths_of_the_plan() -> None:
    loss = build_objective({"supcon": {"projector": (7, 3)}}, FACTS)
    shapes = [tuple(one.shape) for one in loss.parameters() if one.ndim == 2]
    assert shapes == [(7, 5), (3, 7)]


@pytest.mark.parametrize(
    "settings", [{"temperature": 0.0}, {"queue": -1}, {"projector": [0]}]
)
def test_impossible_values_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ObjectiveError, match=next(iter(settings))):
        build_objective({"supcon": settings}, FACTS)  # type: ignore[dict-item]
