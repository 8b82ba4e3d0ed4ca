"""Supervised contrastive loss (Khosla et al. 2020, arXiv 2004.11362), L_out form.

Quintana et al. (IEEE ISBI 2024) train mammography networks with it so that a class
looks alike in every domain: the positives of an image are all others of its class,
whatever their domain. At a hospital these are the hospital's own images only; classes
of different hospitals meet through the averaged convolution weights.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn.functional import normalize

from client.seen import Facts, Seen
from common.stages import STRICT, PositiveFloat, PositiveInt


@dataclass(frozen=True, config=STRICT)
class Parameters:
    """What a plan may say.

    Attributes
    ----------
    temperature : tau; 0.07 is Khosla's default, 0.1 that of Quintana's public code.
        The papers on mammography do not tell theirs
    projector : widths of the layers between features and the compared vectors, ReLU
        between them; Quintana: ``[2048, 2048, 1024]`` for patches, ``[2048, 1024]``
        for whole images. Empty compares the features themselves
    queue : how many vectors of earlier batches are compared with too (cross-batch
        memory, Wang et al. 2020, arXiv 1912.06798). They are of an older model and no
        gradient goes through them, so this is not the gradient of a larger batch. 0:
        none
    """

    temperature: PositiveFloat = 0.1
    projector: tuple[PositiveInt, ...] = (128,)
    queue: int = 0

    def __post_init__(self) -> None:
        """Refuse a negative queue."""
        if self.queue < 0:
            raise ValueError("queue must be 0 or more")


def build(parameters: Parameters, facts: Facts) -> nn.Module:
    """Build the loss; its projector is the site's own and never travels."""
    return _SupervisedContrast(parameters, facts.features)


def supervised_contrast(
    anchors: Tensor,
    labels: Tensor,
    others: Tensor,
    other_labels: Tensor,
    temperature: float,
) -> Tensor:
    """Compute the mean of L_out over the anchors that have a positive.

    Parameters
    ----------
    anchors : float [batch, width], of length 1
    labels : bool [batch]
    others : float [batch + queue, width], of length 1; the first rows are the anchors
    other_labels : bool [batch + queue]
    temperature : tau > 0

    Returns
    -------
    Scalar; 0, with a gradient of 0, where no anchor has a positive. Khosla's formula
    sums over anchors; the mean does not grow with the batch.
    """
    similar = anchors @ others.T / temperature
    itself = torch.zeros_like(similar, dtype=torch.bool)
    itself.fill_diagonal_(True)
    similar = similar.masked_fill(itself, -torch.inf)
    positive = (labels[:, None] == other_labels[None, :]) & ~itself
    count = positive.sum(1)
    if not bool(count.any()):
        return anchors.sum() * 0.0
    log_share = similar - torch.logsumexp(similar, 1, keepdim=True)
    pulled = log_share.masked_fill(~positive, 0.0).sum(1)
    has = count > 0
    return -(pulled[has] / count[has]).mean()


class _SupervisedContrast(nn.Module):
    queued: Tensor
    queued_labels: Tensor

    def __init__(self, parameters: Parameters, features: int) -> None:
        super().__init__()
        widths = (features, *parameters.projector)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU()]
        self.projector = nn.Sequential(*layers[:-1])
        self._temperature = parameters.temperature
        self.register_buffer("queued", torch.zeros(parameters.queue, widths[-1]))
        # -1: nothing there yet.
        empty = torch.full((parameters.queue,), -1, dtype=torch.int64)
        self.register_buffer("queued_labels", empty)

    def forward(self, seen: Seen) -> Tensor:
        vectors = normalize(self.projector(seen.features), dim=1)
        labels = (seen.targets >= 0.5).long()
        there = self.queued_labels >= 0
        others = torch.cat([vectors, self.queued[there].to(vectors.dtype)])
        other_labels = torch.cat([labels, self.queued_labels[there]])
        loss = supervised_contrast(
            vectors, labels, others, other_labels, self._temperature
        )
        if size := len(self.queued):
            kept = torch.cat([vectors.detach().to(self.queued.dtype), self.queued])
            self.queued = kept[:size]
            self.queued_labels = torch.cat([labels, self.queued_labels])[:size]
        return loss
