"""Random changes of training images, on the device, repeatable from one seed."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from common.plan import Augmentation


def augment(images: Tensor, how: Augmentation, generator: torch.Generator) -> Tensor:
    """Turn, shift, zoom, flip, change gamma and add noise, drawn per image.

    Parameters
    ----------
    images : float32 [batch, channel, row, column] in [0, 1], 0 outside the breast
    how : amounts; all zero returns the images as they are
    generator : on the CPU; every number is drawn from it, so that a CPU and a GPU see
        the same draws. Noise alone, a number per pixel, is drawn where the images are

    Returns
    -------
    float32, same shape; in [0, 1] except for added noise.
    """
    batch, rows, columns = images.shape[0], images.shape[2], images.shape[3]

    def uniform(amount: float, count: int = 1) -> Tensor:
        drawn = torch.rand(batch, count, generator=generator)
        return ((2.0 * drawn - 1.0) * amount).to(images.device)

    if how.rotation or how.shift or how.zoom or how.flip:
        angle = uniform(math.radians(how.rotation))[:, 0]
        zoom = 1.0 + uniform(how.zoom)[:, 0]
        shift = uniform(2.0 * how.shift, 2)
        flip = (torch.rand(batch, generator=generator) < how.flip).to(images.device)
        sign = 1.0 - 2.0 * flip.float()
        aspect = rows / columns
        cosine, sine = torch.cos(angle) / zoom, torch.sin(angle) / zoom
        matrix = torch.stack(
            [
                torch.stack([cosine, -sine * aspect, shift[:, 0]], dim=1),
                torch.stack([sine / aspect * sign, cosine * sign, shift[:, 1]], dim=1),
            ],
            dim=1,
        )
        grid = affine_grid(matrix, list(images.shape), align_corners=False)
        images = grid_sample(images, grid, padding_mode="zeros", align_corners=False)
    if how.gamma:
        exponent = torch.exp(uniform(how.gamma))[:, :, None, None]
        images = images.clamp(0.0, 1.0) ** exponent
    if how.noise:
        source = _on_device(generator, images.device)
        noise = torch.randn(images.shape, generator=source, device=images.device)
        images = images + how.noise * noise * (images > 0)
    return images


def _on_device(generator: torch.Generator, device: torch.device) -> torch.Generator:
    if device.type == "cpu":
        return generator
    seed = int(torch.randint(2**62, (1,), generator=generator))
    return torch.Generator(device).manual_seed(seed)
