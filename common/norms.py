"""Normalisation layers: which modules they are, and what their statistics do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torchvision.ops import FrozenBatchNorm2d

NormMode = Literal["batch", "frozen", "reestimate"]

# Covers their subclasses: SyncBatchNorm, torchvision's LayerNorm2d and the like.
NORM_TYPES: tuple[type[nn.Module], ...] = (
    _BatchNorm,
    _InstanceNorm,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
    FrozenBatchNorm2d,
)


def find_norms(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Find norm layers by type, with every name under which the model holds them."""
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, NORM_TYPES):
            yield name, module


def running_statistics(model: nn.Module) -> set[str]:
    """Name the buffers of norms that move in a forward pass in train mode.

    Those of ``FrozenBatchNorm2d`` never do, so they are not among them.
    """
    return {
        f"{name}.{buffer}"
        for name, norm in find_norms(model)
        if not isinstance(norm, FrozenBatchNorm2d)
        for buffer, _ in norm.named_buffers(recurse=False)
    }


def set_norm_mode(model: nn.Module, norm_mode: NormMode) -> None:
    """Put the norm layers into the stage's mode; call after every ``model.train()``.

    ``requires_grad=False`` does not stop running statistics, only eval mode does.

    Parameters
    ----------
    norm_mode : ``batch``: normalise by the batch and update the running statistics.
        ``frozen``: normalise by the running statistics, which stand still.
        ``reestimate``: as ``batch``, with all other layers in eval mode
    """
    if norm_mode == "reestimate":
        model.eval()
    for _, norm in find_norms(model):
        norm.train(norm_mode != "frozen")
