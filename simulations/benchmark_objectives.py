"""What each term of an objective costs beside cross entropy alone."""

from __future__ import annotations

import time
from statistics import median
from typing import Any

import torch
from rich.table import Table

from client.objectives import build_objective, known_terms
from client.seen import Batch, Facts
from client.steps.plain import plain_step
from client.training import build_optimizer
from common.models import build_model
from common.plan import Model, Optimizer
from common.progress import View
from common.stages import Objective

_BATCH, _STEPS, _WARM = 32, 5, 2


def measure_objectives(
    model: str, rows: int, turns: int, view: View
) -> dict[str, dict[str, float]]:
    """Time training steps of ``ce`` alone and of ``ce`` with each other term.

    All take their turn before one takes the next, so that a machine that slows down
    slows all of them. Every term has its default parameters.

    Parameters
    ----------
    model : name of a backbone
    rows : height of the images; they are half as wide
    turns : of `_STEPS` steps each

    Returns
    -------
    By objective ``images_per_second``, median over turns, and ``ratio``, the median
    over turns of its images per second to those of ``ce`` in the same turn.
    """
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    batch = Batch(
        torch.randn(_BATCH, 1, rows, rows // 2, device=device),
        (torch.arange(_BATCH, device=device) % 2).float(),
        torch.arange(_BATCH, device=device) // 2 % 2,
    )
    objectives: dict[str, Objective] = {"ce": {"ce": {}}}
    for term in known_terms():
        if term != "ce":
            objectives[f"ce + {term}"] = {"ce": {}, term: {}}
    steps = {name: _Steps(model, one, device) for name, one in objectives.items()}
    for one in steps.values():
        one.take(batch, _WARM)
    speeds: dict[str, list[float]] = {name: [] for name in objectives}
    with view.bar("steps", turns) as bar:
        for _ in range(turns):
            for name, of in steps.items():
                began = time.perf_counter()
                of.take(batch, _STEPS)
                took = time.perf_counter() - began
                speeds[name].append(_STEPS * _BATCH / took)
            bar.move(1)
    return {
        name: {
            "images_per_second": median(mine),
            "ratio": median(a / b for a, b in zip(mine, speeds["ce"], strict=True)),
        }
        for name, mine in speeds.items()
    }


class _Steps:
    """A model of its own that trains with one objective."""

    def __init__(self, model: str, objective: Objective, device: torch.device) -> None:
        self._model = build_model(Model(model), 0).to(device)
        self._model.to(memory_format=torch.channels_last)
        self._model.train()
        facts = Facts.assumed(self._model.feature_count)
        self._objective = build_objective(objective, facts).to(device)
        own = [*self._model.parameters(), *self._objective.parameters()]
        self._optimizer = build_optimizer(own, Optimizer(learning_rate=1e-4))

    def take(self, batch: Batch, steps: int) -> None:
        """Take steps on the same batch, and wait for the device."""
        for _ in range(steps):
            loss = plain_step(
                self._model, self._optimizer, self._objective, batch, progress=0.5
            )
        float(loss)


def objectives_table(result: dict[str, Any]) -> Table:
    """Show what `measure_objectives` found."""
    table = Table(title="Training steps by objective")
    for name in ("objective", "images per second", "ratio to ce"):
        table.add_column(name, justify="left" if name == "objective" else "right")
    for name, one in result.items():
        speed, ratio = one["images_per_second"], one["ratio"]
        table.add_row(name, f"{speed:.0f}", f"{ratio:.2f}")
    return table
