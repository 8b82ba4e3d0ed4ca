"""All images of a site in a GPU's memory, where they fit: a batch is then an index.

Images come from a memory map and are copied once; their checksums are verified on the
way, as at any first read. On a CPU the memory map is where they should be.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

SHARE = 0.5
"""Of the memory that is free: the model and the next site need the rest."""

_BLOCK = 256
"""Images copied at a time."""


def hold(
    pixels: Callable[[np.ndarray], np.ndarray], count: int, device: torch.device
) -> Tensor | None:
    """Copy images to a device, if they fit there.

    Parameters
    ----------
    pixels : gives uint16 [image, row, column] for numbers from 0
    count : of images, at least 1

    Returns
    -------
    int16 [image, row, column] on the device, the bits of uint16: torch indexes these on
    every device. None where they do not fit, and on a CPU.
    """
    one = pixels(np.arange(1))
    if count * one.nbytes > room(device):
        return None
    held = torch.empty((count, *one.shape[1:]), dtype=torch.int16, device=device)
    for start in range(0, count, _BLOCK):
        block = pixels(np.arange(start, min(start + _BLOCK, count)))
        held[start : start + len(block)] = torch.from_numpy(block.view(np.int16))
    return held


def take(held: Tensor, indices: np.ndarray) -> Tensor:
    """Return float32 [image, row, column], 0 to 65535, of images that `hold` keeps."""
    rows = torch.from_numpy(indices).to(held.device)
    return held[rows].to(torch.int32).bitwise_and_(0xFFFF).float()


def room(device: torch.device) -> int:
    """Return how many bytes of images a device may hold."""
    if device.type != "cuda":
        return 0
    free, _ = torch.cuda.mem_get_info(device)
    return int(SHARE * free)
