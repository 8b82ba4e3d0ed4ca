"""One experiment: every arm with every seed, resumable, then the report."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from common.checkpoint import read_tensors
from server.selection import trailing_mean
from simulations.arms import arm_of, plan_for, restatistics_plan
from simulations.laboratory import Laboratory
from simulations.play import Run, finished, is_finished, play
from simulations.players import play_side_by_side
from simulations.results import ROLES, Finished

Key = TypeVar("Key")
Runs = Mapping[Key, list[Run]]
"""Runs by arm, or by arm and role."""


def run_arms(laboratory: Laboratory) -> dict[str, list[Finished]]:
    """Run every arm with every seed; finished runs are only read.

    First all learning rates with the first seed, then the best one of each arm with
    the other seeds, then the arms that follow another: within each of these no run
    needs another one.

    Returns
    -------
    Arm to its runs, one per seed, in the order of the settings; the learning rate is
    the one that was best on validation with the first seed.
    """
    settings = laboratory.settings
    first, *others = settings.seeds
    trained = [arm for arm in settings.arms if not arm_of(arm).after]
    tried = _play_all(
        laboratory,
        {
            arm: [_run(laboratory, arm, first, r) for r in _rates(laboratory)]
            for arm in trained
        },
    )
    best = {arm: max(of, key=selection_value) for arm, of in tried.items()}
    repeated = _play_all(
        laboratory,
        {
            arm: [_run(laboratory, arm, seed, best[arm].rate) for seed in others]
            for arm in trained
        },
    )
    done = {arm: [best[arm], *repeated[arm]] for arm in trained}
    following = {
        arm: done[arm_of(arm).after] for arm in settings.arms if arm not in done
    }
    done |= _follow(laboratory, following)
    return {arm: done[arm] for arm in settings.arms}


def _rates(laboratory: Laboratory) -> Sequence[float]:
    default = laboratory.plan.stages[-1].optimizer.learning_rate
    return laboratory.settings.rates or (default,)


def selection_value(run: Finished) -> float:
    """Return the trailing mean that selected the run's round; -inf without one."""
    history = {int(k): v for k, v in run.outcome["history"].items()}
    mean = trailing_mean(history, run.plan, int(run.outcome["selected"]))
    return float("-inf") if math.isnan(mean) else mean


def _run(laboratory: Laboratory, arm: str, seed: int, rate: float) -> Run:
    searched = rate if laboratory.settings.rates else None
    plan = plan_for(arm, laboratory.plan, seed=seed, rate=searched)
    name = f"seed-{seed}" + (f"-rate-{rate:g}" if searched else "")
    folder = laboratory.settings.folder / "arms" / arm / name
    title = f"{arm}, seed {seed}" + (f", rate {rate:g}" if searched else "")
    start = laboratory.machine.start_file
    return Run(arm, seed, rate, plan, folder, title, start)


def _play_all(laboratory: Laboratory, runs: Runs[Key]) -> dict[Key, list[Finished]]:
    """Play what has not ended yet, several at a time where asked; read all."""
    todo = [run for of in runs.values() for run in of if not is_finished(run)]
    if laboratory.settings.parallel > 1 and len(todo) > 1:
        play_side_by_side(laboratory, todo)
    else:
        for run in todo:
            with laboratory.view.bar(run.title, run.plan.rounds) as bar:
                play(laboratory, run, bar, bar.site_answered)
    return {key: [finished(laboratory, run) for run in of] for key, of in runs.items()}


def _follow(
    laboratory: Laboratory, sources: Mapping[str, list[Finished]]
) -> dict[str, list[Finished]]:
    """Re-estimate statistics of finished fedavg models at every site.

    Each of the two models of a run, of the selected and of the last round, starts a run
    of its own; the scores of both are put together as one finished arm.
    """
    ended = _play_all(
        laboratory,
        {
            (arm, role): [_restatistics(laboratory, arm, run, role) for run in of]
            for arm, of in sources.items()
            for role in ROLES
        },
    )
    return {
        arm: [
            _together(run, {role: ended[arm, role][place] for role in ROLES})
            for place, run in enumerate(of)
        ]
        for arm, of in sources.items()
    }


def _restatistics(laboratory: Laboratory, arm: str, source: Finished, role: str) -> Run:
    file = source.model_folder(source.plan.roster.sites[0], role) / "model.safetensors"
    plan = restatistics_plan(
        laboratory.plan,
        str(read_tensors(file)[1]["tensors"]),
        f"fedavg, {role} round {source.outcome[role]}",
        source.seed,
    )
    name = source.folders["selected"].name
    folder = laboratory.settings.folder / "arms" / arm / name / role
    title = f"{arm}, seed {source.seed}, {role} round"
    return Run(arm, source.seed, source.rate, plan, folder, title, file)


def _together(source: Finished, parts: Mapping[str, Finished]) -> Finished:
    outcome = {
        "selected": source.outcome["selected"],
        "last": source.outcome["last"],
        "status": source.outcome["status"],
        "history": {},
        "losses": {},
        "ledger": [e for part in parts.values() for e in part.outcome["ledger"]],
    }
    return replace(
        parts["selected"],
        folders={role: part.folders[role] for role, part in parts.items()},
        outcome=outcome,
    )


def write_chosen_rates(runs: Mapping[str, list[Finished]], folder: Path) -> None:
    """Write down which learning rate each arm chose, for the reader."""
    chosen = {arm: {"rate": of[0].rate, "seeds": len(of)} for arm, of in runs.items()}
    (folder / "chosen_rates.json").write_text(json.dumps(chosen, indent=2))
