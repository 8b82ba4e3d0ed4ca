"""One site's training in one round: the tensors in the model move."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from client.adaptation import reestimate_statistics
from client.data.dataset import (
    TRAIN,
    Loader,
    SiteDataset,
    draw_batches,
    draw_batches_apart,
    in_order,
)
from client.data.sampler import balanced, count_facts
from client.objectives import ObjectiveError, WeightedSum, build_objective
from client.resident import Resident
from client.seen import Facts
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
    spec = resident.plan.stages[stage]
    return Loader(
        dataset,
        resident.device,
        spec.model.mean,
        spec.model.scale,
        spec.model.channels,
        resident.stage(stage).domains,
        spec.domain,
    )


def facts_of(resident: Resident, dataset: SiteDataset, stage: int) -> Facts:
    """Count what a stage's objective and its operating point depend on."""
    spec = resident.plan.stages[stage]
    width = resident.stage(stage).model.feature_count
    rows = dataset.select(TRAIN)
    return count_facts(dataset, rows, spec.domain, spec.work, width)


def objective_of(
    resident: Resident, dataset: SiteDataset, stage_number: int
) -> WeightedSum:
    """Build a stage's objective as it starts, on the CPU.

    Raises
    ------
    Refusal
        With ``OBJECTIVE`` if a term or a parameter is unknown, or the site's images
        cannot serve it.
    """
    plan, stage = resident.plan, resident.plan.stages[stage_number]
    facts = facts_of(resident, dataset, stage_number)
    try:
        return build_objective(
            stage.objective, facts, derive_seed(plan.seed, "objective", stage.name)
        )
    except ObjectiveError as error:
        raise Refusal(Code.OBJECTIVE, f"stage {stage.name}: {error}") from None


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
        for batch in loader.batches(batches):
            if resident.stopped():
                raise Refusal(Code.STOPPED, "re-estimation was stopped half way")
            yield batch.images

    reestimate_statistics(resident.stage(stage_number).model, images())


@dataclass(frozen=True)
class Kept:
    """What a site carries from one round of a stage to the next, beside the model.

    Attributes
    ----------
    optimizer : its state; empty where the stage resets it
    objective : what its terms have of their own
    """

    optimizer: Mapping[str, np.ndarray] = field(default_factory=dict)
    objective: Mapping[str, np.ndarray] = field(default_factory=dict)


def train_round(
    resident: Resident,
    dataset: SiteDataset,
    site: str,
    stage_number: int,
    round_: int,
    kept: Kept,
    received: Mapping[str, Tensor],
) -> tuple[Trained, Kept]:
    """Train, or re-estimate statistics, as the stage says; the model moves in place.

    Batch order, augmentation and dropout derive from (plan seed, site, stage, round):
    a round that is asked for again draws the same.

    Parameters
    ----------
    resident : its stage model already holds the tensors to start from
    site : name that the seeds derive from
    round_ : counted over the run
    kept : of the round before; empty starts anew
    received : tensors the round starts from, for FedProx

    Returns
    -------
    What the training was, and what the site keeps for the next round.

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
        return Trained(math.nan, 0, 0.0), Kept()

    def seed(purpose: str) -> int:
        return derive_seed(plan.seed, purpose, site, stage.name, round_)

    torch.manual_seed(seed("dropout"))
    set_trainable(model, current.contract.trainable)
    model.train()
    set_norm_mode(model, stage.norm_mode)
    objective = objective_of(resident, dataset, stage_number).to(resident.device)
    if kept.objective:
        objective.load_state_dict(
            {key: torch.from_numpy(one.copy()) for key, one in kept.objective.items()}
        )
    objective.train()
    trainable = [p for p in model.parameters() if p.requires_grad]
    trainable += objective.parameters()
    optimizer = build_optimizer(trainable, stage.optimizer)
    restore_optimizer(model, objective, optimizer, kept.optimizer)
    rows = dataset.select(TRAIN)
    groups = [rows[mine] for mine in loader.apart(rows)]
    is_balanced = stage.work.sampler == "balanced"
    draw = balanced(dataset, stage.domain) if is_balanced else draw_batches
    batches = draw_batches_apart(groups, stage.work, seed("order"), draw)
    done = round_ - plan.first_round(stage_number)
    anchors = set(current.contract.sent) & set(current.contract.trainable)
    trained = train(
        model,
        optimizer,
        objective,
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
    own = {
        key: value.detach().cpu().numpy().copy()
        for key, value in objective.state_dict().items()
    }
    moments = optimizer_tensors(model, objective, optimizer) if keep else {}
    return trained, Kept(moments, own)
