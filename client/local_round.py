"""One site's training in one round: the tensors in the model move."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from client.adaptation import reestimate_statistics
from client.data.dataset import (
    TRAIN,
    Loader,
    SiteDataset,
    draw_batches_apart,
    in_order,
)
from client.objectives import build_objective
from client.resident import Resident
from client.training import (
    Trained,
    build_optimizer,
    optimizer_tensors,
    restore_optimizer,
    train,
)
from common.norms import set_norm_mode
from common.records import Code, Refusal
from common.seeds import derive_seed
from common.sharing import set_trainable


def loader_of(resident: Resident, dataset: SiteDataset, stage: int) -> Loader:
    """Build the loader that scales images as a stage's model expects them."""
    spec = resident.plan.stages[stage].model
    return Loader(
        dataset,
        resident.device,
        spec.mean,
        spec.scale,
        spec.channels,
        resident.stage(stage).domains,
    )


def class_counts(dataset: SiteDataset) -> tuple[int, int]:
    """Count negative and positive training images."""
    targets = dataset.targets(dataset.select(TRAIN))
    positives = int(targets.sum())
    return len(targets) - positives, positives


def reestimate(resident: Resident, dataset: SiteDataset, stage_number: int) -> None:
    """Re-estimate a stage model's statistics over all training images, labelled or not.

    Raises
    ------
    Refusal
        With ``STOPPED`` if the process was told to stop.
    """
    size = resident.plan.stages[stage_number].work.batch_size
    rows = dataset.select(TRAIN, labelled=False)
    loader = loader_of(resident, dataset, stage_number)
    batches = [
        batch for mine in loader.apart(rows) for batch in in_order(rows[mine], size)
    ]

    def images() -> Iterator[Tensor]:
        for batch, _ in loader.batches(batches):
            if resident.stopped():
                raise Refusal(Code.STOPPED, "re-estimation was stopped half way")
            yield batch

    reestimate_statistics(resident.stage(stage_number).model, images())


def train_round(
    resident: Resident,
    dataset: SiteDataset,
    site: str,
    stage_number: int,
    round_: int,
    moments: Mapping[str, np.ndarray],
    received: Mapping[str, Tensor],
) -> tuple[Trained, dict[str, np.ndarray]]:
    """Train, or re-estimate statistics, as the stage says; the model moves in place.

    Batch order, augmentation and dropout derive from (plan seed, site, stage, round):
    a round that is asked for again draws the same.

    Parameters
    ----------
    resident : its stage model already holds the tensors to start from
    site : name that the seeds derive from
    round_ : counted over the run
    moments : optimiser state of the round before; empty starts a new one
    received : tensors the round starts from, for FedProx

    Returns
    -------
    What the training was, and the optimiser's state where the stage keeps it.

    Raises
    ------
    Refusal
        With ``NOT_FINITE`` if the loss is not finite, ``STOPPED`` if the process was
        told to stop.
    """
    plan = resident.plan
    stage, current = plan.stages[stage_number], resident.stage(stage_number)
    model, loader = current.model, loader_of(resident, dataset, stage_number)
    if stage.norm_mode == "reestimate":
        reestimate(resident, dataset, stage_number)
        return Trained(math.nan, 0, 0.0), {}

    def seed(purpose: str) -> int:
        return derive_seed(plan.seed, purpose, site, stage.name, round_)

    torch.manual_seed(seed("dropout"))
    set_trainable(model, current.contract.trainable)
    model.train()
    set_norm_mode(model, stage.norm_mode)
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = build_optimizer(trainable, stage.optimizer)
    restore_optimizer(model, optimizer, moments)
    rows = dataset.select(TRAIN)
    groups = [rows[mine] for mine in loader.apart(rows)]
    batches = draw_batches_apart(groups, stage.work, seed("order"))
    done = round_ - plan.first_round(stage_number)
    anchors = set(current.contract.sent) & set(current.contract.trainable)
    trained = train(
        model,
        optimizer,
        build_objective(stage.objective, *class_counts(dataset)),
        loader.batches(batches, stage.augmentation, seed("augmentation")),
        stage.optimizer,
        progress=(done / stage.rounds, (done + 1) / stage.rounds),
        steps=len(batches),
        mixed=resident.mixed,
        stopped=resident.stopped,
        received={key: received[key].to(resident.device) for key in anchors}
        if stage.optimizer.proximal
        else None,
    )
    keep = stage.optimizer.state == "keep"
    return trained, optimizer_tensors(model, optimizer) if keep else {}
