"""Domain-adversarial training by gradient reversal (Ganin et al. 2016, JMLR 17:59).

A domain head learns to tell a site's domains apart from the features; the reversed
gradient teaches the features not to let it. A hospital has no image of another one, so
the domains are those inside it: its vendors, models or views. The head is the site's
own. DoSReMC (Akyüz et al., arXiv 2508.15452) trains BatchNorm and FC layers so, with a
domain head of 256 and 128 without biases on 768 features.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from client.seen import Facts, Seen
from common.stages import STRICT, PositiveFloat, PositiveInt


@dataclass(frozen=True, config=STRICT)
class Parameters:
    """What a plan may say.

    Attributes
    ----------
    hidden : widths of the domain head's hidden layers, without biases as DoSReMC's
    steepness : gamma of the schedule of the reversed gradient's factor,
        ``2 / (1 + exp(-gamma * p)) - 1`` with p the progress of the stage; 10 in both
        papers
    """

    hidden: tuple[PositiveInt, ...] = (256, 128)
    steepness: PositiveFloat = 10.0


def build(parameters: Parameters, facts: Facts) -> nn.Module:
    """Build the loss.

    Raises
    ------
    ValueError
        If the site's training images are of one domain.
    """
    if len(facts.cells) < 2:
        raise ValueError(
            "the site's training images are of one domain, so there is nothing to "
            "align. Choose another stage.domain, or leave this objective out"
        )
    return _DomainAdversary(parameters, facts)


def reversal(progress: float, steepness: float) -> float:
    """Return the factor of the reversed gradient, from 0 at the start to nearly 1."""
    return 2.0 / (1.0 + math.exp(-steepness * progress)) - 1.0


class _Reverse(torch.autograd.Function):
    """Passes features on as they are, and their gradient times -factor."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return features.view_as(features)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return -ctx.factor * gradients[0], None


class _DomainAdversary(nn.Module):
    def __init__(self, parameters: Parameters, facts: Facts) -> None:
        super().__init__()
        widths = (facts.features, *parameters.hidden, len(facts.cells))
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after, bias=False), nn.ReLU()]
        self.domain_head = nn.Sequential(*layers[:-1])
        self._steepness = parameters.steepness

    def forward(self, seen: Seen) -> Tensor:
        factor = reversal(seen.progress, self._steepness)
        reversed_: Tensor = _Reverse.apply(seen.features, factor)
        return cross_entropy(self.domain_head(reversed_), seen.domains)
