"""One ordinary step: forward, backward, move."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from client.objectives import Loss


def plain_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    objective: Loss,
    images: Tensor,
    targets: Tensor,
    *,
    mixed: bool = False,
    proximal: float = 0.0,
    received: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """Take one optimiser step on one batch.

    Parameters
    ----------
    images : float32 [batch, channel, row, column], already normalised
    targets : float32 [batch]
    mixed : run the forward pass in bfloat16
    proximal : mu of FedProx (Li et al. 2020); adds (mu/2) * ||w - received||**2
    received : parameter name to the tensor the round started from; only shared
        trainable ones, because a local tensor has no copy at the server

    Returns
    -------
    The detached loss, without the proximal term, on the device.
    """
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast(images.device.type, torch.bfloat16, enabled=mixed):
        loss = objective(model(images), targets)
    total = loss
    if proximal and received:
        parameters = dict(model.named_parameters())
        distance = torch.stack(
            [
                (parameters[name] - sent).square().sum()
                for name, sent in received.items()
            ]
        ).sum()
        total = loss + 0.5 * proximal * distance
    total.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return loss.detach()
