"""One ordinary step: forward, backward, move."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from client.seen import Batch, Seen
from common.models import MammographyModel


def plain_step(
    model: MammographyModel,
    optimizer: torch.optim.Optimizer,
    objective: nn.Module,
    batch: Batch,
    *,
    progress: float = 0.0,
    mixed: bool = False,
    proximal: float = 0.0,
    received: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """Take one optimiser step on one batch.

    Parameters
    ----------
    objective : of `client.objectives.build_objective`; computed in float32
    progress : share of the stage that is done
    mixed : run the model's forward pass in bfloat16
    proximal : mu of FedProx (Li et al. 2020); adds (mu/2) * ||w - received||**2
    received : parameter name to the tensor the round started from; only shared
        trainable ones, because a local tensor has no copy at the server

    Returns
    -------
    The detached loss, a scalar without the proximal term, on the device.
    """
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast(batch.images.device.type, torch.bfloat16, enabled=mixed):
        features = model.features(batch.images)
        logits = model.classify(features)
    if mixed:
        features, logits = features.float(), logits.float()
    seen = Seen(features, logits, batch.targets, batch.domains, progress)
    total = loss = objective(seen)
    if proximal and received:
        parameters = dict(model.named_parameters())
        distance = torch.stack(
            [
                (parameters[name] - sent).square().sum()
                for name, sent in received.items()
            ]
        ).sum()
        total = loss + 0.5 * proximal * distance
    total.backward()
    optimizer.step()
    detached: Tensor = loss.detach()
    return detached
