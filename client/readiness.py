"""What a site finds out before it trains: room on the disk, and that a step works."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import torch

from client.resident import Resident
from common.records import Code, Refusal

_WRITTEN = 8
"""Times the model's size: three generations with an optimiser's moments; a model."""

_RESIDUALS = 4
"""Times the model's size, more: what rounding kept back, in each generation."""


def require_room(resident: Resident, folder: Path) -> None:
    """Refuse before work is lost: what a round writes must fit on the disk.

    Parameters
    ----------
    folder : of local state; need not exist

    Raises
    ------
    Refusal
        With ``DISK``.
    """
    state = resident.stage(0).model.state_dict().values()
    times = _WRITTEN
    if resident.plan.aggregation.transport != "float32":
        times += _RESIDUALS
    needed = times * sum(one.numel() * one.element_size() for one in state)
    existing = next(one for one in (folder, *folder.parents) if one.is_dir())
    if shutil.disk_usage(existing).free < needed:
        raise Refusal(
            Code.DISK, f"fewer than {needed / 1e6:.0f} MB are free for local state"
        )


def time_one_step(resident: Resident) -> float:
    """Take one step on zeros: a plan that cannot run fails before round 1.

    Returns
    -------
    Seconds per image.
    """
    plan = resident.plan
    model = resident.stage(0).model
    pixels = plan.preprocessing
    size = (2, plan.stages[0].model.channels, pixels.rows, pixels.columns)
    began = time.perf_counter()
    model.train()
    model(torch.zeros(size, device=resident.device)).sum().backward()
    model.zero_grad(set_to_none=True)
    return (time.perf_counter() - began) / size[0]
