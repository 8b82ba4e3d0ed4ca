"""A look at what was received, before the site trains from it or keeps it as a model.

A coordinator that was broken into, or a file that went bad, could send anything of the
right shape. What is caught here is gross: values that are not finite, and first layers
that no training makes. What is subtle, such as a small step in a bad direction, is not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from client.resident import StageModel
from client.update import is_finite
from common.records import Code, Refusal

FIRST = 3
"""How many convolutions are the first layers; a Swin has only one."""

FACTOR = 100.0
"""How much the spread of a first layer may change from one round to the next.

Measured with resnet_small from random weights and AdamW: at the default rate at most
1.02 in a round and 1.5 in 40, at ten times that rate 2.1 and 9.6. So a site that was
away for rounds is far from it too.
"""

IMAGES = 8
"""How many of the site's images the first layers are tried on."""


def require_sane(
    current: StageModel,
    received: Mapping[str, Tensor],
    reference: Mapping[str, float],
    initial: Callable[[], Mapping[str, Tensor]],
    images: Tensor,
) -> dict[str, float]:
    """Refuse weights that are not finite, or whose first layers are absurd.

    The first layers are the first `FIRST` convolutions in the order in which the model
    registers its modules, found by type; in every backbone that we offer that is the
    order of the forward pass. They are looked at because all that the model sees goes
    through them, and because a norm layer behind them hides a wrong scale from the
    loss. Only those that were received are judged. The images go no further than
    through the last of them, so that the look costs less than 1 % of a round.

    Parameters
    ----------
    current : the stage's model, which already holds the site's whole state
    received : tensors that came with the message, float32
    reference : spread of each first layer that this site accepted last, by name
    initial : tells the stage's initial tensors, asked where there is no reference
    images : some of the site's own, float32 [image, channel, row, column], scaled

    Returns
    -------
    Standard deviation of each received first layer, the next reference.

    Raises
    ------
    Refusal
        With ``SANITY``. The model then holds what was refused, until the next `put`.
    """
    for key, tensor in received.items():
        if not is_finite(tensor.numpy()):
            raise Refusal(Code.SANITY, f"{key} was received with absurd values")
    spreads: dict[str, float] = {}
    last: nn.Module | None = None
    for key, module in _first_convolutions(current.model):
        if key not in received:
            continue
        last = module
        spreads[key] = spread = float(received[key].std())
        usual = reference.get(key) or float(initial()[key].std())
        if received[key].min() == received[key].max():
            raise Refusal(Code.SANITY, f"{key} was received with one value everywhere")
        if not usual / FACTOR <= spread <= usual * FACTOR:
            raise Refusal(
                Code.SANITY, f"{key} has spread {spread:.3g}, the last had {usual:.3g}"
            )
    if last is not None:
        _try_on(current.model, last, images)
    return spreads


def _first_convolutions(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    found = [
        (f"{name}.weight", module)
        for name, module in model.named_modules()
        if isinstance(module, _ConvNd)
    ]
    yield from found[:FIRST]


def _try_on(model: nn.Module, last: nn.Module, images: Tensor) -> None:
    """Look at what the first layers make of images, some of which differ."""
    outputs: list[Tensor] = []

    def stop(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        outputs.append(output)
        raise _SeenEnough

    handle = last.register_forward_hook(stop)
    model.eval()
    try:
        with torch.no_grad():
            model(images)
    except _SeenEnough:
        pass
    finally:
        handle.remove()
    (output,) = outputs
    if not bool(output.isfinite().all()):
        raise Refusal(Code.SANITY, "the first layers give values that are not finite")
    if bool((output == output[:1]).all()) and not bool((images == images[:1]).all()):
        raise Refusal(Code.SANITY, "the first layers do not tell images apart")


class _SeenEnough(Exception):  # noqa: N818  no error: the rest need not be computed
    """Ends a forward pass."""
