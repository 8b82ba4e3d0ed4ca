"""Adapting a model to a site without labels: BatchNorm statistics re-estimated."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def reestimate_statistics(model: nn.Module, batches: Iterable[Tensor]) -> int:
    """Replace running statistics by those of a whole set of images.

    Every image weighs the same: the running value after k batches is the mean over
    them, weighted by batch size, so no batch is favoured for coming last (AdaBN, Li et
    al. 2016, arXiv 1603.04779 uses the whole target set likewise). Variances are the
    batches' own, unbiased; the spread between batch means is not added.

    Parameters
    ----------
    model : BatchNorm layers with running statistics; anything else stays as it is, and
        so does a layer that no batch goes through. Each counts the images it sees
    batches : images [batch, channel, row, column]; each of at least two

    Returns
    -------
    Number of images used.
    """
    layers = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    momenta = [layer.momentum for layer in layers]
    seen = dict.fromkeys(layers, 0)

    def weigh(layer: _BatchNorm, inputs: tuple[Tensor, ...]) -> None:
        if not seen[layer]:
            layer.reset_running_stats()
        seen[layer] += len(inputs[0])
        layer.momentum = len(inputs[0]) / seen[layer]

    model.eval()
    for layer in layers:
        layer.train()
    hooks = [layer.register_forward_pre_hook(weigh) for layer in layers]
    total = 0
    try:
        with torch.no_grad():
            for images in batches:
                model(images)
                total += len(images)
    finally:  # the model lives on where the pass was stopped half way
        for layer, momentum, hook in zip(layers, momenta, hooks, strict=True):
            layer.momentum = momentum
            hook.remove()
        model.eval()
    return total
