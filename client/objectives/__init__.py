"""Local losses, one file each; `build_objective` turns the plan's choice into one."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from client.objectives.ce import cross_entropy
from common.plan import Objective

Loss = Callable[[Tensor, Tensor], Tensor]
"""Maps logits [batch, outputs] and targets [batch] in [0, 1] to a scalar loss."""


def positive_weight(objective: Objective, negatives: int, positives: int) -> float:
    """Return the weight of positive images: the plan's, or negatives / positives.

    Parameters
    ----------
    negatives, positives : training images of this site, for ``pos_weight: site``; a
        site with one class only weighs 1
    """
    if objective.pos_weight != "site":
        return float(objective.pos_weight)
    return negatives / positives if negatives and positives else 1.0


def build_objective(objective: Objective, negatives: int, positives: int) -> Loss:
    """Build the local loss of a stage; a function of (logits, targets)."""
    weight = positive_weight(objective, negatives, positives)
    return cross_entropy(weight, objective.label_smoothing)
