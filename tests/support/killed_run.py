"""A run that kills itself: ``tests.support.killed_run DIR PHASE [TRANSPORT]``."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from common.plan import Model, Optimizer, Plan, Work
from tests.support.hospitals import small_plan, small_stage
from tests.support.runs import play


@dataclass(frozen=True)
class Phase:
    """Where the process dies: at the nth call of a function, for some of its files.

    ``half`` lets the call write its file, cuts that in half, then dies before the
    rename.
    """

    module: str
    function: str
    call: int
    file: str = ""
    half: bool = False


PHASES = {
    "training": Phase("client.training", "plain_step", 17),
    "evaluation": Phase("client.evaluation", "predict", 5),
    "aggregation": Phase("server.rounds", "average", 2),
    "checkpoint_tensors": Phase(
        "common.checkpoint", "save_file", 3, "checkpoints/.round-", half=True
    ),
    "checkpoint_record": Phase("server.checkpoints", "write_atomic", 3),
    "local_state": Phase("common.checkpoint", "save_file", 5, "state/", half=True),
    "between_stages_at_the_coordinator": Phase("server.rounds", "next_shared", 1),
    "between_stages_at_a_site": Phase("client.assembly", "next_local", 2),
    "closing": Phase("client.session", "write_model", 4),
}

IN_16_BITS = {
    "residual": Phase("common.checkpoint", "save_file", 3, "checkpoints/.residual-")
}
"""Moments that only a run with rounded messages has."""


def two_stage_plan() -> Plan:
    """Make a plan whose second stage has other sharing, head and loss; moments kept."""
    keep = Optimizer("adamw", 0.01, state="keep", schedule="cosine")
    work = Work("steps", 2, 16)
    return small_plan(
        small_stage("together", 2, sharing="fedavg", optimizer=keep, work=work),
        small_stage(
            "personal",
            3,
            sharing="fedbn_head",
            optimizer=keep,
            work=work,
            model=Model("resnet_tiny", head="second_reading"),
            objective={"ce": {}, "supcon": {"queue": 8}},
        ),
    )


def die_at(phase: Phase) -> None:
    """Replace the phase's function by one that kills this process at the nth call."""
    module = importlib.import_module(phase.module)
    original: Callable[..., Any] = getattr(module, phase.function)
    calls = 0

    def deadly(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        file = next((str(a) for a in arguments if isinstance(a, Path)), "")
        calls += phase.file in file
        if calls < phase.call or phase.file not in file:
            return original(*arguments, **named)
        if phase.half:
            original(*arguments, **named)
            os.truncate(file, Path(file).stat().st_size // 2)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("still alive")

    setattr(module, phase.function, deadly)


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, phase, *transport = sys.argv[1:]
    die_at((PHASES | IN_16_BITS)[phase])
    plan = two_stage_plan()
    for one in transport:
        aggregation = replace(plan.aggregation, transport=one)  # type: ignore[arg-type]
        plan = replace(plan, aggregation=aggregation)
    play(plan, Path(folder))
