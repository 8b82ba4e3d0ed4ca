"""How long a run will take, said before it starts, from a few measured steps."""

from __future__ import annotations

import time

import torch

from client.data.dataset import VALIDATION, build_dataset
from client.objectives import build_objective
from client.resident import Resident
from client.steps.plain import plain_step
from client.training import build_optimizer
from common.progress import duration
from simulations.arms import arm_of
from simulations.experiment import Laboratory

_STEPS = 8
_EVALUATION_COST = 0.3
"""A forward pass costs about this share of a training step on the same images."""


def say_estimate(laboratory: Laboratory) -> None:
    """Say how many runs are to come and how long they will take."""
    settings, plan = laboratory.settings, laboratory.plan
    trained = [arm for arm in settings.arms if not arm_of(arm).after]
    each = len(settings.seeds) - 1 + max(1, len(settings.rates))
    seconds = seconds_per_run(laboratory)
    device = laboratory.machine.device
    laboratory.view.say(
        f"{len(trained) * each} runs of {plan.rounds} rounds on {device}, about "
        f"{duration(seconds)} each: {duration(seconds * len(trained) * each)} in all, "
        f"less what is done already. Starts from {plan.start.kind} weights."
    )


def seconds_per_run(laboratory: Laboratory) -> float:
    """Measure a few steps of the first stage and count the images of a whole run."""
    plan, machine = laboratory.plan, laboratory.machine
    stage = plan.stages[0]
    if machine.threads is not None:
        torch.set_num_threads(machine.threads)
    model = Resident(plan, machine.device, machine.start_file).stage(0).model
    optimizer = build_optimizer(list(model.parameters()), stage.optimizer)
    objective = build_objective(stage.objective, 1, 1)
    pre, size = plan.preprocessing, stage.work.batch_size
    shape = (size, stage.model.channels, pre.rows, pre.columns)
    images = torch.zeros(shape, device=machine.device)
    targets = torch.zeros(size, device=machine.device)
    model.train()
    for step in range(_STEPS + 2):
        if step == 2:
            began = time.perf_counter()
        float(plain_step(model, optimizer, objective, images, targets))
    per_image = (time.perf_counter() - began) / (_STEPS * size)
    return per_image * sum(
        _images_per_run(laboratory, site) for site in laboratory.snapshots
    )


def _images_per_run(laboratory: Laboratory, site: str) -> float:
    plan = laboratory.plan
    dataset = build_dataset({site: laboratory.snapshots[site]}, plan)
    train, validation = len(dataset.select("train")), len(dataset.select(VALIDATION))
    total = 0.0
    for stage in plan.stages:
        work = stage.work
        images = train if work.unit == "epochs" else work.batch_size
        total += stage.rounds * (work.amount * images + _EVALUATION_COST * validation)
    return total
