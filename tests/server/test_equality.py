"""One site federated is plain training: compared with a loop written here."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from client.data.augmentation import augment
from client.data.dataset import TRAIN, build_dataset, draw_batches
from common.models import build_model
from common.plan import Optimizer, Plan, Work
from common.seeds import derive_seed
from tests.support.hospitals import (
    AUGMENTATION,
    MemorySnapshot,
    small_plan,
    small_stage,
)
from tests.support.runs import model_tensors, play


def central_training(plan: Plan, site: str) -> dict[str, np.ndarray]:
    """Train one site's images in one plain loop, no federation anywhere."""
    stage = plan.stages[0]
    dataset = build_dataset({site: MemorySnapshot(site)}, plan)
    rows = dataset.select(TRAIN)
    positives = dataset.targets(rows).sum()
    pos_weight = torch.tensor((len(rows) - positives) / positives)
    model = build_model(stage.model, plan.seed).to(memory_format=torch.channels_last)
    optimizer = None
    for round_ in range(1, stage.rounds + 1):
        seed = [plan.seed, site, stage.name, round_]
        if optimizer is None or stage.optimizer.state == "reset":
            optimizer = make_optimizer(model, stage.optimizer)
        batches = draw_batches(
            rows, stage.work, derive_seed(seed[0], "order", *seed[1:])
        )
        draws = torch.Generator().manual_seed(
            derive_seed(seed[0], "augmentation", *seed[1:])
        )
        model.train()
        for step, batch in enumerate(batches):
            share = (round_ - 1 + step / len(batches)) / stage.rounds
            for group in optimizer.param_groups:
                group["lr"] = (
                    stage.optimizer.learning_rate * (1 + math.cos(math.pi * share)) / 2
                )
            pixels = torch.from_numpy(dataset.pixels(batch).astype(np.float32))
            images = augment(pixels.unsqueeze(1) / 65535.0, AUGMENTATION, draws)
            images = (images - stage.model.mean) / stage.model.scale
            optimizer.zero_grad(set_to_none=True)
            targets = torch.from_numpy(dataset.targets(batch))
            logits = model(images).squeeze(1)
            loss = binary_cross_entropy_with_logits(
                logits, targets, pos_weight=pos_weight
            )
            loss.backward()
            optimizer.step()
    return {key: value.numpy() for key, value in model.state_dict().items()}


def make_optimizer(
    model: torch.nn.Module, settings: Optimizer
) -> torch.optim.Optimizer:
    if settings.name == "sgd":
        return torch.optim.SGD(
            model.parameters(),
            settings.learning_rate,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
        )
    return torch.optim.AdamW(
        model.parameters(),
        settings.learning_rate,
        weight_decay=settings.weight_decay,
    )


@pytest.mark.parametrize("name", ["sgd", "adamw"])
@pytest.mark.parametrize("state", ["reset", "keep"])
@pytest.mark.parametrize("sharing", ["fedavg", "fedbn_head"])
def test_one_site_federated_equals_central_training(
    name: str, state: str, sharing: str, tmp_path: Path
) -> None:
    optimizer = Optimizer(name, 0.01, state=state, schedule="cosine")  # type: ignore[arg-type]
    stage = small_stage(
        rounds=3, sharing=sharing, optimizer=optimizer, work=Work("epochs", 1, 16)
    )
    plan = small_plan(stage, sites=("alpha",))
    play(plan, tmp_path)
    federated = model_tensors(tmp_path, plan, "alpha", 3)
    central = central_training(plan, "alpha")
    assert federated.keys() == central.keys()
    different = [k for k in central if not np.array_equal(federated[k], central[k])]
    assert not different


def test_keeping_the_optimiser_state_makes_a_difference(tmp_path: Path) -> None:
    """Otherwise the equality above could not tell the two apart."""
    models = []
    for state in ("reset", "keep"):
        optimizer = Optimizer("adamw", 0.01, state=state)  # type: ignore[arg-type]
        plan = small_plan(small_stage(optimizer=optimizer), sites=("alpha",))
        play(plan, tmp_path / state)
        models.append(model_tensors(tmp_path / state, plan, "alpha", 3))
    head = "heads.malignancy.weight"
    assert not np.array_equal(models[0][head], models[1][head])


def test_the_same_plan_gives_the_same_models_twice(tmp_path: Path) -> None:
    plan = small_plan()
    hashes = [play(plan, tmp_path / name).state.shared_hash for name in ("a", "b")]
    other = play(replace(plan, seed=4), tmp_path / "c").state.shared_hash
    assert hashes[0] == hashes[1] != other
