"""Batches for objectives to look at."""

from __future__ import annotations

import torch
from torch import Tensor

from client.seen import Facts, Seen

FACTS = Facts(30, 10, 5, ((15, 5), (15, 5)))


def seen(
    features: Tensor,
    targets: list[float],
    domains: list[int] | None = None,
    progress: float = 0.5,
) -> Seen:
    """Put a batch together; logits are the sum of the features."""
    return Seen(
        features,
        features.sum(1, keepdim=True),
        torch.tensor(targets, dtype=features.dtype),
        torch.tensor(domains or [0] * len(targets)),
        progress,
    )


def drawn(batch: int, width: int = 5, seed: int = 0) -> Tensor:
    """Draw float64 features [batch, width] that want a gradient."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(batch, width, generator=generator, dtype=torch.float64)
    return features.requires_grad_()
