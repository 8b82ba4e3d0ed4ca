"""Cross entropy against its formula."""

from __future__ import annotations

import pytest
import torch

from client.objectives import build_objective, class_weight
from client.seen import Facts
from tests.client.objectives.seen import FACTS, seen


def test_cross_entropy_equals_its_formula() -> None:
    loss = build_objective({"ce": {"pos_weight": 3.0, "label_smoothing": 0.2}}, FACTS)
    logits = torch.tensor([[0.3], [-1.2]])
    p = torch.sigmoid(logits[:, 0])
    soft = torch.tensor([0.9, 0.1])
    expected = -(3 * soft * p.log() + (1 - soft) * (1 - p).log()).mean()
    found = loss(seen(logits, [1.0, 0.0]))
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)


def test_a_positive_image_may_have_a_softer_target() -> None:
    soft = build_objective({"ce": {"pos_weight": 1.0, "soft_positive": 0.8}}, FACTS)
    hard = build_objective({"ce": {"pos_weight": 1.0}}, FACTS)
    logits = torch.tensor([[0.3], [-1.2]])
    assert torch.equal(soft(seen(logits, [1.0, 0.0])), hard(seen(logits, [0.8, 0.0])))


@pytest.mark.parametrize(
    ("asked", "negatives", "positives", "weight"),
    [("site", 90, 10, 9.0), ("site", 90, 0, 1.0), (2.5, 90, 10, 2.5)],
)
def test_the_sites_own_weight_balances_its_classes(
    asked: str | float, negatives: int, positives: int, weight: float
) -> None:
    facts = Facts(negatives, positives, 5)
    assert class_weight({"ce": {"pos_weight": asked}}, facts) == weight


def test_without_cross_entropy_no_odds_are_changed() -> None:
    assert class_weight({"supcon": {}}, Facts(90, 10, 5)) == 1.0
