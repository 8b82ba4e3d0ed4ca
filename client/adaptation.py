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
    model : BatchNorm layers with running statistics; anything else stays as it is
    batches : images [batch, channel, row, column]; each of at least two

    Returns
    -------
    Number of images used.
    """
    layers = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    momenta = [layer.momentum for layer in layers]
    model.eval()
    for layer in layers:
        layer.reset_running_stats()
        layer.train()
    seen = 0
    try:
        with torch.no_grad():
            for images in batches:
                seen += len(images)
                for layer in layers:
                    layer.momentum = len(images) / seen
                model(images)
    finally:  # the model lives on where the pass was stopped half way
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
        model.eval()
    return seen
