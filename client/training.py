"""The one local loop: every arm, simulated or deployed, trains through here."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from client.seen import Batch
from client.steps.plain import plain_step
from common.models import MammographyModel
from common.plan import Optimizer
from common.records import Code, Refusal


@dataclass(frozen=True)
class Trained:
    """What one round of local training was.

    Attributes
    ----------
    loss : mean over steps; nan where nothing was trained
    step_seconds : inside training steps only
    """

    loss: float
    images: int
    step_seconds: float


def build_optimizer(
    parameters: list[nn.Parameter], settings: Optimizer
) -> torch.optim.Optimizer:
    """Build the local optimiser of a stage."""
    if settings.name == "sgd":
        return torch.optim.SGD(
            parameters,
            lr=settings.learning_rate,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
        )
    return torch.optim.AdamW(
        parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay
    )


def learning_rate(settings: Optimizer, progress: float) -> float:
    """Return the rate at a share of the stage, ``progress`` in [0, 1)."""
    if settings.schedule == "constant":
        return settings.learning_rate
    return settings.learning_rate * 0.5 * (1.0 + math.cos(math.pi * progress))


def train(
    model: MammographyModel,
    optimizer: torch.optim.Optimizer,
    objective: nn.Module,
    batches: Iterable[Batch],
    settings: Optimizer,
    *,
    progress: tuple[float, float],
    steps: int,
    mixed: bool = False,
    stopped: Callable[[], bool] = lambda: False,
    received: Mapping[str, Tensor] | None = None,
) -> Trained:
    """Take one round's steps.

    Parameters
    ----------
    model : in the mode it is to be trained in; norm layers as the stage says
    objective : its own weights are among those that the optimiser moves
    progress : shares of the stage at which this round starts and ends
    steps : number of batches, for the schedule
    stopped : asked before each step
    received : see `client.steps.plain.plain_step`

    Raises
    ------
    Refusal
        With ``NOT_FINITE`` if the loss of any step is not finite, ``STOPPED`` if
        ``stopped`` says so.
    """
    losses, images_seen, inside = [], 0, 0.0
    start, end = progress
    for step, batch in enumerate(batches):
        if stopped():
            raise Refusal(Code.STOPPED, "training was stopped half way")
        began = time.perf_counter()
        done = start + (end - start) * step / steps
        rate = learning_rate(settings, done)
        for group in optimizer.param_groups:
            group["lr"] = rate
        losses.append(
            plain_step(
                model,
                optimizer,
                objective,
                batch,
                progress=done,
                mixed=mixed,
                proximal=settings.proximal,
                received=received,
            )
        )
        images_seen += len(batch.images)
        inside += time.perf_counter() - began
    mean = float(torch.stack(losses).mean()) if losses else math.nan
    if losses and not math.isfinite(mean):
        raise Refusal(
            Code.NOT_FINITE, "the training loss is not finite; lower the rate"
        )
    return Trained(mean, images_seen, inside)


def optimizer_tensors(
    model: nn.Module, objective: nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, np.ndarray]:
    """Return the optimiser's state as named arrays, ``<parameter>/<slot>``."""
    named = _parameters(model, objective)
    names: dict[object, str] = {p: name for name, p in named.items()}
    return {
        f"{names[parameter]}/{slot}": value.detach().cpu().numpy().copy()
        for parameter, slots in optimizer.state.items()
        for slot, value in slots.items()
        if isinstance(value, Tensor)
    }


def restore_optimizer(
    model: nn.Module,
    objective: nn.Module,
    optimizer: torch.optim.Optimizer,
    tensors: Mapping[str, np.ndarray],
) -> None:
    """Give an optimiser the state that `optimizer_tensors` returned."""
    parameters = _parameters(model, objective)
    for name, array in tensors.items():
        parameter_name, _, slot = name.rpartition("/")
        value = torch.from_numpy(array.copy())
        parameter = parameters[parameter_name]
        if value.shape == parameter.shape:
            value = value.to(parameter.device)
        optimizer.state[parameter][slot] = value


def _parameters(model: nn.Module, objective: nn.Module) -> dict[str, nn.Parameter]:
    own = objective.named_parameters(_OBJECTIVE)
    return {**dict(model.named_parameters()), **dict(own)}


_OBJECTIVE = "objective"
"""Start of the names of an objective's own weights; no part of a model has it."""
