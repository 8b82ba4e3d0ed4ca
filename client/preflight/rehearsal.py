"""One training step of the approved plan's first stage, on zeros; imports torch.

Nothing of it is kept: no file is written, and the model is forgotten.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from client.adaptation import reestimate_statistics
from client.data.dataset import (
    TRAIN,
    VALIDATION,
    SiteDataset,
    build_dataset,
    draw_batches_apart,
)
from client.data.manifest import ManifestError
from client.data.snapshot import CacheError, open_snapshot
from client.data.workers import describe
from client.local_round import loader_of
from client.objectives import build_objective
from client.preflight.rehearsed import Rehearsed, StageSize
from client.resident import Resident
from client.seen import Batch, Facts
from client.site import Site
from client.training import build_optimizer, train
from client.worker import device_of
from common.contract import TensorSpec
from common.norms import set_norm_mode
from common.plan import Plan, PlanError
from common.records import Code, Refusal
from common.sharing import set_trainable
from common.stages import Stage

_ENOUGH_SECONDS = 2.0
_MOST_STEPS = 5


def rehearse(site: Site, plan: Plan | None) -> Rehearsed:
    """Compute on the site's device, and take a step where a plan is approved.

    Parameters
    ----------
    plan : None computes nothing but one number
    """
    said: dict[str, Any] = {}
    try:
        for facts in _facts(site, plan):
            said |= facts
    except (Refusal, PlanError) as error:
        said["failure"] = str(error)
    except Exception as error:
        said["failure"] = describe(error)
    return Rehearsed(**said)


def _facts(site: Site, plan: Plan | None) -> Iterator[dict[str, Any]]:
    """Find out one thing after the other; what is known before a failure is told."""
    device = device_of(site)
    yield {"device": _try(device)}
    if plan is None:
        return
    if threads := plan.threads or site.threads:
        torch.set_num_threads(threads)
    resident = Resident(plan, device, site.start_file)
    if plan.start.kind == "checkpoint" or site.start_file:  # else it might download
        resident.initial(0)
    yield {"seconds_per_image": _seconds_per_image(resident), "peak_bytes": _peak()}
    stages = range(len(plan.stages))
    yield {"stages": tuple(_size(resident, stage, None) for stage in stages)}
    try:
        snapshot = open_snapshot(site.folder, plan.preprocessing)
    except (CacheError, ManifestError):
        return
    dataset = build_dataset({site.site: snapshot}, plan)
    here = resident.at_site(dataset)
    yield {
        "patients": dataset.count_patients(TRAIN),
        "validation": len(dataset.select(VALIDATION)),
        "stages": tuple(_size(here, stage, dataset) for stage in stages),
    }


def _try(device: torch.device) -> str:
    """Compute on a device and name it."""
    total = torch.ones(8, 8, device=device).matmul(torch.ones(8, 8, device=device))
    if float(total.sum()) != 8.0**3:
        raise Refusal(Code.INTERNAL, "the device computes wrong numbers")
    return "CPU" if device.type == "cpu" else torch.cuda.get_device_name(device)


def _seconds_per_image(resident: Resident) -> float:
    """Train until the time is known: the first step also allocates memory."""
    stage, current = resident.plan.stages[0], resident.stage(0)
    model = current.model
    set_trainable(model, current.contract.trainable)
    model.train()
    set_norm_mode(model, stage.norm_mode)
    took = 0.0
    began = time.perf_counter()
    for _ in range(_MOST_STEPS):
        before = time.perf_counter()
        _step(resident, stage)
        took = time.perf_counter() - before
        if time.perf_counter() - began > _ENOUGH_SECONDS:
            break
    return took / stage.work.batch_size


def _step(resident: Resident, stage: Stage) -> None:
    model = resident.stage(0).model
    if stage.norm_mode == "reestimate":
        reestimate_statistics(model, (one.images for one in _zeros(resident, stage)))
        return
    parameters = {k: p for k, p in model.named_parameters() if p.requires_grad}
    facts = Facts.assumed(model.feature_count)
    objective = build_objective(stage.objective, facts).to(resident.device)
    train(
        model,
        build_optimizer(
            [*parameters.values(), *objective.parameters()], stage.optimizer
        ),
        objective,
        _zeros(resident, stage),
        stage.optimizer,
        progress=(0.0, 1.0),
        steps=1,
        mixed=resident.mixed,
        received={key: value.detach().clone() for key, value in parameters.items()}
        if stage.optimizer.proximal
        else None,
    )


def _zeros(resident: Resident, stage: Stage) -> Iterator[Batch]:
    pixels, count = resident.plan.preprocessing, stage.work.batch_size
    size = (count, stage.model.channels, pixels.rows, pixels.columns)
    yield Batch(
        torch.zeros(size, device=resident.device),
        torch.zeros(count, device=resident.device),
        torch.zeros(count, dtype=torch.int64, device=resident.device),
    )


def _size(resident: Resident, number: int, dataset: SiteDataset | None) -> StageSize:
    rule, stage = resident.stage(number).contract, resident.plan.stages[number]
    per_parameter = {"sgd": 1, "adamw": 2}[stage.optimizer.name]
    moments = per_parameter * _bytes(rule.layout_of(rule.trainable))
    return StageSize(
        rounds=stage.rounds,
        sent=_bytes(rule.on_wire),
        kept=_bytes(rule.layout_of(rule.local))
        + (0 if rule.transport == "float32" else _bytes(rule.layout_of(rule.sent)))
        + (moments if stage.optimizer.state == "keep" else 0),
        fixed=_bytes(rule.layout_of(rule.fixed)),
        whole=_bytes(rule.layout),
        images=None if dataset is None else _images(resident, number, dataset),
    )


def _images(resident: Resident, number: int, dataset: SiteDataset) -> int:
    stage = resident.plan.stages[number]
    if stage.norm_mode == "reestimate":
        return len(dataset.select(TRAIN, labelled=False))
    rows = dataset.select(TRAIN)
    groups = [rows[mine] for mine in loader_of(resident, dataset, number).apart(rows)]
    return sum(map(len, draw_batches_apart(groups, stage.work, 0)))


def _bytes(layout: tuple[TensorSpec, ...]) -> int:
    return sum(
        int(np.prod(spec.shape)) * np.dtype(spec.dtype).itemsize for spec in layout
    )


def _peak() -> int:
    """Return the most memory this process has had, in bytes; 0 where nobody tells.

    ``getrusage`` would count that of the process which started this one.
    """
    status = Path("/proc/self/status")
    if not status.is_file():
        return 0
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
    return int(lines["VmHWM"].split()[0]) * 1024
