"""Binary cross entropy with class weight and label smoothing."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits


def cross_entropy(
    pos_weight: float, label_smoothing: float
) -> Callable[[Tensor, Tensor], Tensor]:
    """Build mean binary cross entropy on logits.

    Parameters
    ----------
    pos_weight : factor on the loss of positive images; multiplies the odds that the
        model learns, see ``common.metrics.prior_corrected``
    label_smoothing : eps; targets become ``t * (1 - eps) + eps / 2``

    Returns
    -------
    Function of logits [batch, 1] and targets [batch]; targets may be soft.
    """

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        smooth = targets * (1.0 - label_smoothing) + 0.5 * label_smoothing
        weight = torch.as_tensor(pos_weight, dtype=logits.dtype, device=logits.device)
        return binary_cross_entropy_with_logits(
            logits.squeeze(1), smooth.to(logits.dtype), pos_weight=weight
        )

    return loss
