"""Local losses, one file each; `build_objective` turns the plan's choice into one."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from client.objectives.ce import cross_entropy
from common.plan import Objective

Loss = Callable[[Tensor, Tensor], Tensor]
"""Maps logits [batch, outputs] and targets [batch] in [0, 1] to a scalar loss."""


def build_objective(objective: Objective, negatives: int, positives: int) -> Loss:
    """Build the local loss of a stage.

    Parameters
    ----------
    objective : of the stage
    negatives, positives : training images of this site, for ``pos_weight: site``

    Returns
    -------
    A function of (logits, targets).
    """
    if objective.pos_weight == "site":
        pos_weight = negatives / positives if negatives and positives else 1.0
    else:
        pos_weight = float(objective.pos_weight)
    return cross_entropy(pos_weight, objective.label_smoothing)
