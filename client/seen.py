"""What training passes on: a batch, and what its objective sees of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor


class Batch(NamedTuple):
    """Images on their way into a model.

    Attributes
    ----------
    images : float32 [batch, channel, row, column], already normalised
    targets : float32 [batch], in [0, 1]
    domains : int64 [batch], numbers of what the stage's ``domain`` tells apart
    """

    images: Tensor
    targets: Tensor
    domains: Tensor


@dataclass(frozen=True)
class Seen:
    """What an objective sees of a batch that went through the model.

    Attributes
    ----------
    features : float [batch, feature], what the head is given
    logits : float [batch, output]
    targets : float32 [batch], in [0, 1]
    domains : int64 [batch]
    progress : share of the stage that is done, [0, 1]
    """

    features: Tensor
    logits: Tensor
    targets: Tensor
    domains: Tensor
    progress: float


@dataclass(frozen=True)
class Facts:
    """What a site tells an objective before it trains.

    Attributes
    ----------
    negatives, positives : training images, as often as the sampler draws them
    features : width of what the head is given
    cells : training images of each domain (row) and class (column: negative, positive)
    """

    negatives: int
    positives: int
    features: int
    cells: tuple[tuple[int, int], ...] = ()

    @staticmethod
    def assumed(features: int) -> Facts:
        """Say what any objective can be built with, to measure a step without data."""
        return Facts(1, 1, features, ((1, 1), (1, 1)))
