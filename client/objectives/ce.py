"""Binary cross entropy with class weight, label smoothing and soft targets."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from client.seen import Facts, Seen
from common.stages import STRICT, Fraction, PositiveFloat


@dataclass(frozen=True, config=STRICT)
class Parameters:
    """What a plan may say.

    Attributes
    ----------
    pos_weight : factor on the loss of positive images, or ``site`` = negatives /
        positives among the site's training images. It multiplies the odds that the
        model learns, see ``common.metrics.prior_corrected``
    label_smoothing : eps; targets become ``t * (1 - eps) + eps / 2``
    soft_positive : target of a positive image; the RSNA challenge's winner took 0.8 to
        0.9. A target that is soft already is scaled likewise
    """

    pos_weight: PositiveFloat | Literal["site"] = "site"
    label_smoothing: Fraction = 0.0
    soft_positive: Fraction = 1.0


def build(parameters: Parameters, facts: Facts) -> nn.Module:
    """Build the mean loss over the images of a batch."""
    weight = positive_weight(parameters, facts.negatives, facts.positives)
    return _CrossEntropy(
        weight, parameters.label_smoothing, soft_positive=parameters.soft_positive
    )


def positive_weight(parameters: Parameters, negatives: int, positives: int) -> float:
    """Return the weight of positive images: the plan's, or negatives / positives.

    Parameters
    ----------
    negatives, positives : training images of this site, for ``pos_weight: site``; a
        site with one class only weighs 1
    """
    if parameters.pos_weight != "site":
        return float(parameters.pos_weight)
    return negatives / positives if negatives and positives else 1.0


class _CrossEntropy(nn.Module):
    def __init__(self, pos_weight: float, smoothing: float, *, soft_positive: float):
        super().__init__()
        self._pos_weight, self._smoothing = pos_weight, smoothing
        self._soft_positive = soft_positive

    def forward(self, seen: Seen) -> Tensor:
        logits = seen.logits.squeeze(1)
        targets = seen.targets * self._soft_positive
        smooth = targets * (1.0 - self._smoothing) + 0.5 * self._smoothing
        weight = torch.as_tensor(
            self._pos_weight, dtype=logits.dtype, device=logits.device
        )
        return binary_cross_entropy_with_logits(
            logits, smooth.to(logits.dtype), pos_weight=weight
        )
