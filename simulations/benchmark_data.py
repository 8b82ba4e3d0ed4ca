"""What the benchmark trains: hospitals in memory, a plan, the loop to compare with.

The hospitals hold random uint16 images and go through the same labels, split and loader
as prepared ones. One patient validates and one tests, so that evaluation, which is work
and not overhead, hardly enters the time between training steps: two images.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import cache
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from client.data.cache import Snapshot
from client.data.dataset import TRAIN, Loader, SiteDataset, build_dataset, draw_batches
from client.data.manifest import empty_row, manifest_frame
from client.data.split import assign_split
from common.canonical import sha256_hex
from common.models import build_model
from common.plan import (
    Evaluation,
    Model,
    Optimizer,
    Plan,
    Preprocessing,
    Roster,
    Split,
    Stage,
    Work,
)
from common.seeds import derive_seed
from simulations.federation import Populations

BATCH = 16
_PATIENTS = {"train": 64, "validation": 1, "test": 1}
_SPLIT = Split(train=0.6, validation=0.2, test=0.2)


def job(
    sites: int, rounds: int, steps: int, model: str = "resnet18", rows: int = 128
) -> Plan:
    """Describe the job: float32, batch 16, SGD with momentum that is reset each round.

    Parameters
    ----------
    steps : per site and round
    rows : of an image; it has half as many columns
    """
    stage = Stage(
        "overhead",
        rounds,
        model=Model(model),
        optimizer=Optimizer("sgd", 0.01, state="reset"),
        work=Work("steps", steps, BATCH),
    )
    return Plan(
        id="benchmark",
        version="0.1.0",
        roster=Roster(tuple(f"site_{number:02d}" for number in range(1, sites + 1))),
        stages=(stage,),
        preprocessing=Preprocessing(rows=rows, columns=rows // 2),
        split=_SPLIT,
        evaluation=Evaluation(replicates=1),
        precision="float32",
    )


def hospitals(plan: Plan) -> Populations:
    """Make every site of a plan its own random images."""
    size = (plan.preprocessing.rows, plan.preprocessing.columns)
    return {
        site: {site: cast(Snapshot, _hospital(site, size))}
        for site in plan.roster.sites
    }


class MemoryHospital:
    """Stands in for a prepared `Snapshot`: the same rows, hash and read.

    It is pickled by name, as cheaply as a snapshot on disk: a worker of Ray makes its
    own once.

    Parameters
    ----------
    site : its images and pseudonyms derive from the name
    size : rows and columns of an image
    """

    def __init__(self, site: str, size: tuple[int, int]) -> None:
        self._made_from = (site, size)
        self.hash = _key(f"images of {site}")
        self.recipe = "memory"
        patients = enumerate(_patient_keys(site))
        self.rows = manifest_frame(
            [row for number, key in patients for row in _images(site, key, number)]
        )
        self.beside = self.rows[:0]
        random = np.random.default_rng(derive_seed(0, "benchmark", site))
        shape = (len(self.rows), *size)
        self._pixels = random.integers(0, 2**16, shape, dtype=np.uint16)

    def read(self, indices: np.ndarray) -> np.ndarray:
        """Read uint16 [image, row, column]."""
        images: np.ndarray = self._pixels[indices]
        return images

    def __reduce__(self) -> tuple[Any, ...]:
        return _hospital, self._made_from


@cache
def _hospital(site: str, size: tuple[int, int]) -> MemoryHospital:
    return MemoryHospital(site, size)


def _patient_keys(site: str) -> list[str]:
    """Draw pseudonyms until every part of the split has its number of patients."""
    keys = pd.Series([_key(f"{site} {number}") for number in range(1000)])
    parts = assign_split(keys, _SPLIT)
    return [k for part, n in _PATIENTS.items() for k in keys[parts == part].head(n)]


def _images(site: str, patient: str, number: int) -> Iterator[dict[str, Any]]:
    """List a patient's views, four to train on and two to evaluate.

    Every left breast of an even patient is sick.
    """
    views = ("CC", "MLO") if number < _PATIENTS["train"] else ("CC",)
    for side in ("L", "R"):
        for view in views:
            yield empty_row() | {
                "row_id": _key(f"{patient} {side} {view}"),
                "dataset": "benchmark",
                "site": site,
                "patient_key": patient,
                "exam_key": _key(f"{patient} exam"),
                "breast_key": _key(f"{patient} {side}"),
                "exam_order": 0,
                "laterality": side,
                "view": view,
                "modality_kind": "FFDM",
                "intent": "presentation",
                "cancer_pathology": int(side == "L" and number % 2 == 0),
                "label_level": "breast",
                "label_source": "pathology",
                "status": "ok",
            }


def _key(text: str) -> str:
    return sha256_hex(text.encode())[:32]


class PlainLoop:
    """A federation's training as one plain PyTorch loop, with nothing around it.

    Written out here, apart from `client.training`, so that whatever the product adds
    shows. One model sees the batches of all sites, one site after the other.

    Parameters
    ----------
    plan : of `job`
    populations : of `hospitals`
    """

    def __init__(self, plan: Plan, populations: Populations) -> None:
        self._plan = plan
        self._datasets = {
            site: build_dataset(populations[site], plan) for site in plan.roster.sites
        }
        model = build_model(plan.stages[0].model, plan.seed)
        self.model: nn.Module = model.to(memory_format=torch.channels_last)

    def play(self, round_: int) -> float:
        """Train on the batches of one federated round; return the seconds it took."""
        began = time.perf_counter()
        for site, dataset in self._datasets.items():
            self._train(site, dataset, round_)
        return time.perf_counter() - began

    def _train(self, site: str, dataset: SiteDataset, round_: int) -> float:
        stage = self._plan.stages[0]
        how, spec = stage.optimizer, stage.model
        indices = dataset.select(TRAIN)
        positives = dataset.targets(indices).sum()
        weight = torch.tensor((len(indices) - positives) / positives)
        seed = derive_seed(self._plan.seed, "order", site, stage.name, round_)
        loader = Loader(
            dataset, torch.device("cpu"), spec.mean, spec.scale, spec.channels
        )
        optimizer = torch.optim.SGD(
            self.model.parameters(),
            lr=how.learning_rate,
            momentum=how.momentum,
            weight_decay=how.weight_decay,
        )
        self.model.train()
        losses = []
        batches = draw_batches(indices, stage.work, seed)
        for images, targets, _ in loader.batches(batches):
            optimizer.zero_grad(set_to_none=True)
            logits = self.model(images).squeeze(1)
            loss = binary_cross_entropy_with_logits(logits, targets, pos_weight=weight)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(loss.detach())
        return float(torch.stack(losses).mean())
