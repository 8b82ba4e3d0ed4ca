"""The distance of mean features against loops over images."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from torch import Tensor

from client.objectives import ObjectiveError, build_objective
from client.seen import Facts
from tests.client.objectives.seen import FACTS, drawn, seen

LABELS, DOMAINS = [1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0], [0, 1, 0, 1, 2, 0, 2]


def slow(features: Tensor, chosen: list[int]) -> float:
    means = []
    for domain in sorted({DOMAINS[i] for i in chosen}):
        mine = [features[i].tolist() for i in chosen if DOMAINS[i] == domain]
        means.append([sum(column) / len(mine) for column in zip(*mine, strict=True)])
    pairs = [
        sum((a - b) ** 2 for a, b in zip(one, other, strict=True))
        for one, other in combinations(means, 2)
    ]
    return sum(pairs) / len(pairs)


def test_the_distance_is_that_of_the_formula() -> None:
    features = drawn(7)
    found = build_objective({"mmd": {}}, FACTS)(seen(features, LABELS, DOMAINS))
    assert found.item() == pytest.approx(slow(features, list(range(7))), rel=1e-12)


def test_class_wise_it_is_the_mean_over_classes() -> None:
    features = drawn(7)
    loss = build_objective({"mmd": {"class_wise": True}}, FACTS)
    classes = [[i for i in range(7) if LABELS[i] == label] for label in (0.0, 1.0)]
    expected = sum(slow(features, chosen) for chosen in classes) / 2
    found = loss(seen(features, LABELS, DOMAINS)).item()
    assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("class_wise", [False, True])
def test_its_gradient_is_that_of_the_loss(class_wise: bool) -> None:
    loss = build_objective({"mmd": {"class_wise": class_wise}}, FACTS)
    assert torch.autograd.gradcheck(lambda x: loss(seen(x, LABELS, DOMAINS)), drawn(7))


def test_equal_features_are_no_distance_apart() -> None:
    features = torch.ones(7, 5, requires_grad=True)
    loss = build_objective({"mmd": {}}, FACTS)(seen(features, LABELS, DOMAINS))
    loss.backward()
    assert loss.item() == 0.0
    assert features.grad is not None and not features.grad.any()


@pytest.mark.parametrize("class_wise", [False, True])
def test_a_batch_of_one_domain_says_nothing(class_wise: bool) -> None:
    loss = build_objective({"mmd": {"class_wise": class_wise}}, FACTS)
    assert loss(seen(drawn(2), [1.0, 0.0], [1, 1])).item() == 0.0


@pytest.mark.parametrize(
    ("cells", "class_wise", "reason"),
    [
        (((30, 10),), False, "one domain"),
        (((15, 10), (15, 0)), True, "no training image of one class"),
    ],
)
def test_a_site_that_cannot_serve_it_is_refused(
    cells: tuple[tuple[int, int], ...], class_wise: bool, reason: str
) -> None:
    with pytest.raises(ObjectiveError, match=reason):
        build_objective({"mmd": {"class_wise": class_wise}}, Facts(30, 10, 5, cells))
