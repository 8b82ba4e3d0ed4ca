"""Small hospitals in memory: what a federation's tests train on."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np

from client.data.manifest import empty_row, manifest_frame
from common.plan import (
    Augmentation,
    Evaluation,
    Model,
    Optimizer,
    Plan,
    Preprocessing,
    Roster,
    Stage,
    Work,
)

ROWS, COLUMNS = 32, 16
SITES = ("alpha", "beta", "gamma")
AUGMENTATION = Augmentation(
    rotation=8.0, shift=0.05, zoom=0.1, gamma=0.2, noise=0.01, flip=0.3
)


class MemorySnapshot:
    """Stands in for `client.data.snapshot.Snapshot`: the same rows, hash and read.

    A positive breast has a bright square. Each site has its own brightness, and so has
    each of its vendors, which patients are of in turn.
    """

    def __init__(
        self,
        site: str,
        patients: int = 40,
        size: tuple[int, int] = (ROWS, COLUMNS),
        vendors: tuple[str, ...] = (),
    ) -> None:
        random = np.random.default_rng(int(_key(site)[:8], 16))
        self.hash = _key(f"snapshot {site}")
        self.recipe = "recipe"
        shape = (patients * 4, *size)
        self._pixels = random.integers(2000, 30_000, shape, dtype=np.uint16)
        self._pixels += random.integers(0, 20_000, dtype=np.uint16)
        rows: list[dict[str, Any]] = []
        for patient in range(patients):
            positive = patient % 3 == 0
            for side in ("L", "R"):
                sick = positive and side == "L"
                for view in ("CC", "MLO"):
                    if sick:
                        self._pixels[len(rows), 8:16, 4:9] = 60_000
                    row = _row(site, patient, side, view, sick)
                    if vendors:
                        turn = patient % len(vendors)
                        row["vendor"] = vendors[turn]
                        self._pixels[len(rows)] //= 1 + turn
                    rows.append(row)
        self.rows = manifest_frame(rows)
        self.beside = self.rows[:0]

    def read(self, indices: np.ndarray) -> np.ndarray:
        return self._pixels[indices]


def _row(site: str, patient: int, side: str, view: str, sick: bool) -> dict[str, Any]:
    name = f"{site} {patient}"
    return empty_row() | {
        "row_id": _key(f"{name} {side} {view}"),
        "dataset": "test",
        "site": site,
        "patient_key": _key(name),
        "exam_key": _key(f"{name} exam"),
        "breast_key": _key(f"{name} {side}"),
        "exam_order": 0,
        "laterality": side,
        "view": view,
        "modality_kind": "FFDM",
        "intent": "presentation",
        "cancer_pathology": int(sick),
        "label_level": "breast",
        "label_source": "pathology",
        "status": "ok",
    }


def _key(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def small_stage(name: str = "adapt", rounds: int = 3, **changes: Any) -> Stage:
    stage = Stage(
        name,
        rounds,
        model=Model("resnet_tiny"),
        augmentation=AUGMENTATION,
        optimizer=Optimizer("sgd", learning_rate=0.02),
        work=Work("steps", 2, 16),
    )
    return replace(stage, **changes)


def small_plan(
    *stages: Stage, sites: tuple[str, ...] = SITES, minimum: int = 2, **changes: Any
) -> Plan:
    plan = Plan(
        id="small",
        version="0.1.0",
        roster=Roster(sites, minimum_sites=min(minimum, len(sites))),
        stages=stages or (small_stage(),),
        preprocessing=Preprocessing(rows=ROWS, columns=COLUMNS),
        evaluation=Evaluation(replicates=50),
        seed=3,
    )
    return replace(plan, **changes)


def populations(plan: Plan) -> dict[str, dict[str, MemorySnapshot]]:
    size = (plan.preprocessing.rows, plan.preprocessing.columns)
    return {site: {site: MemorySnapshot(site, size=size)} for site in plan.roster.sites}


def two_vendors_and_one() -> dict[str, dict[str, MemorySnapshot]]:
    """Make two sites: alpha has images of ge and hologic, beta of siemens."""
    vendors = {"alpha": ("ge", "hologic"), "beta": ("siemens",)}
    return {
        site: {site: MemorySnapshot(site, vendors=names)}
        for site, names in vendors.items()
    }
