"""Maximum mean discrepancy with a linear kernel, of all images or class by class.

The baseline of the literature: the squared distance between the mean features of two
domains (Gretton et al. 2006 for the kernel form). Class-wise, the means of each class
are compared, so that domains with other shares of cancers are not pulled together by
that difference.
"""

from __future__ import annotations

from itertools import combinations

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from client.seen import Facts, Seen
from common.stages import STRICT


@dataclass(frozen=True, config=STRICT)
class Parameters:
    """What a plan may say.

    Attributes
    ----------
    class_wise : compare the means of each class, and take the mean over classes
    """

    class_wise: bool = False


def build(parameters: Parameters, facts: Facts) -> nn.Module:
    """Build the loss.

    Raises
    ------
    ValueError
        If the site's training images are of one domain or, class-wise, a domain lacks
        a class.
    """
    if len(facts.cells) < 2:
        raise ValueError(
            "the site's training images are of one domain, so there is no distance. "
            "Choose another stage.domain, or leave this objective out"
        )
    if parameters.class_wise and not all(all(cell) for cell in facts.cells):
        raise ValueError(
            "a domain of the site has no training image of one class, so class_wise "
            "has no mean to compare. Choose another stage.domain, or class_wise: false"
        )
    return _Discrepancy(class_wise=parameters.class_wise)


def squared_distance(features: Tensor, domains: Tensor) -> Tensor | None:
    """Compute the mean over pairs of domains of ``||mean_1 - mean_2||**2``.

    Parameters
    ----------
    features : float [image, feature]
    domains : int64 [image]

    Returns
    -------
    Scalar; None where the images are of fewer than two domains.
    """
    means = [features[domains == one].mean(0) for one in torch.unique(domains)]
    if len(means) < 2:
        return None
    apart = [(one - other).square().sum() for one, other in combinations(means, 2)]
    return torch.stack(apart).mean()


class _Discrepancy(nn.Module):
    def __init__(self, *, class_wise: bool) -> None:
        super().__init__()
        self._class_wise = class_wise

    def forward(self, seen: Seen) -> Tensor:
        """A batch that has only one domain of a class says nothing of that class."""
        positive = seen.targets >= 0.5
        groups = [positive, ~positive] if self._class_wise else [positive | True]
        apart = [
            squared_distance(seen.features[group], seen.domains[group])
            for group in groups
        ]
        found = [one for one in apart if one is not None]
        return torch.stack(found).mean() if found else seen.features.sum() * 0.0
