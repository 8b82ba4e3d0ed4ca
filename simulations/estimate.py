"""How long a run will take, said before it starts, from a few measured steps."""

from __future__ import annotations

import math
import os
import time

import torch

from client.data.dataset import VALIDATION, build_dataset
from client.objectives import build_objective
from client.resident import Resident
from client.seen import Batch, Facts
from client.steps.plain import plain_step
from client.training import build_optimizer
from common.progress import duration
from common.records import Refusal
from simulations.arms import arm_of
from simulations.laboratory import Laboratory

_STEPS = 8
_EVALUATION_COST = 0.3
"""A forward pass costs about this share of a training step on the same images."""


def say_estimate(laboratory: Laboratory) -> None:
    """Say how many runs are to come and how long they will take."""
    settings, plan = laboratory.settings, laboratory.plan
    trained = len([arm for arm in settings.arms if not arm_of(arm).after])
    phases = trained * max(1, len(settings.rates)), trained * (len(settings.seeds) - 1)
    at_a_time = min(settings.parallel, max(phases))
    waves = sum(math.ceil(runs / at_a_time) for runs in phases)
    device = laboratory.machine.device
    seconds = seconds_per_run(laboratory) * _crowding(laboratory, at_a_time)
    laboratory.view.say(
        f"{sum(phases)} runs of {plan.rounds} rounds on {device}"
        + (f", {at_a_time} at a time" if at_a_time > 1 else "")
        + f", about {duration(seconds)} each: {duration(seconds * waves)} in all, "
        f"less what is done already. Starts from {plan.start.kind} weights."
    )


def _crowding(laboratory: Laboratory, at_a_time: int) -> float:
    """Return how much longer a run takes beside others; one GPU is thought full."""
    if laboratory.machine.device.type == "cuda":
        return float(at_a_time)
    cores = os.cpu_count() or 1
    threads = min(laboratory.machine.threads or torch.get_num_threads(), cores)
    return max(1.0, at_a_time * threads / cores)


def seconds_per_run(laboratory: Laboratory) -> float:
    """Measure a few steps of the first stage and count the images of a whole run."""
    plan, machine = laboratory.plan, laboratory.machine
    stage = plan.stages[0]
    if machine.threads is not None:
        torch.set_num_threads(machine.threads)
    model = Resident(plan, machine.device, machine.start_file).stage(0).model
    facts = Facts.assumed(model.feature_count)
    objective = build_objective(stage.objective, facts).to(machine.device)
    parameters = [*model.parameters(), *objective.parameters()]
    optimizer = build_optimizer(parameters, stage.optimizer)
    pre, size = plan.preprocessing, stage.work.batch_size
    shape = (size, stage.model.channels, pre.rows, pre.columns)
    images = torch.zeros(shape, device=machine.device)
    targets = torch.zeros(size, device=machine.device)
    batch = Batch(images, targets, targets.long())
    model.train()
    for step in range(_STEPS + 2):
        if step == 2:
            began = time.perf_counter()
        float(plain_step(model, optimizer, objective, batch))
    per_image = (time.perf_counter() - began) / (_STEPS * size)
    return per_image * sum(
        _images_per_run(laboratory, site) for site in laboratory.snapshots
    )


def _images_per_run(laboratory: Laboratory, site: str) -> float:
    plan = laboratory.plan
    try:
        dataset = build_dataset({site: laboratory.snapshots[site]}, plan)
    except Refusal:  # it will refuse at the handshake, by its name
        return 0.0
    train, validation = len(dataset.select("train")), len(dataset.select(VALIDATION))
    total = 0.0
    for stage in plan.stages:
        work = stage.work
        images = train if work.unit == "epochs" else work.batch_size
        total += stage.rounds * (work.amount * images + _EVALUATION_COST * validation)
    return total
