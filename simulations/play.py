"""One run of an experiment: one arm, one seed, one learning rate, in its own folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from common.atomic import write_atomic
from common.lock import locked
from common.observer import Observer
from common.plan import Plan, PlanError
from simulations.arms import POOLED
from simulations.federation import Machine, Populations, run_in_process
from simulations.laboratory import Laboratory
from simulations.results import ROLES, Finished, read_outcome
from simulations.settings import Settings
from simulations.tensorboard import Curves, Together


@dataclass(frozen=True)
class Run:
    """One federation of an experiment.

    Attributes
    ----------
    folder : of this run alone, ``arms/<arm>/...`` below the experiment's
    title : for the progress bar
    start_file : file of the plan's start
    """

    arm: str
    seed: int
    rate: float
    plan: Plan
    folder: Path
    title: str
    start_file: Path | None


def play(
    laboratory: Laboratory,
    run: Run,
    observer: Observer,
    on_reply: Callable[[str], None],
) -> None:
    """Run a federation to its end, or go on with it.

    Parameters
    ----------
    observer : told about each round, beside TensorBoard
    on_reply : told after each site's answer

    Raises
    ------
    PlanError
        If the run was begun with another device or number of threads.
    FolderBusyError
        If another process plays it.
    RunFailed
        As `server.rounds.Federation.run`.
    """
    settings = laboratory.settings
    machine = replace(laboratory.machine, start_file=run.start_file)
    curves = settings.folder / "tensorboard" / _place(settings, run)
    with locked(run.folder):
        for torn in run.folder.rglob(".*.tmp"):  # of a write that was killed
            torn.unlink()
        _pin_machine(run.folder, machine)
        run_federation = _backend(settings)
        run_federation(
            run.plan,
            _populations(laboratory, run.plan),
            run.folder,
            machine,
            synthetic=laboratory.synthetic,
            observer=Together([observer, Curves(curves)]),
            on_reply=on_reply,
        )


def is_finished(run: Run) -> bool:
    """Tell whether the run has ended already."""
    return read_outcome(run.folder) is not None


def finished(laboratory: Laboratory, run: Run) -> Finished:
    """Read a run that has ended."""
    outcome = read_outcome(run.folder)
    assert outcome is not None
    folders = dict.fromkeys(ROLES, run.folder)
    populations = tuple(laboratory.snapshots)
    return Finished(
        run.arm, run.seed, run.rate, run.plan, folders, outcome, populations
    )


def _place(settings: Settings, run: Run) -> Path:
    return run.folder.relative_to(settings.folder / "arms")


def _pin_machine(folder: Path, machine: Machine) -> None:
    """Hold a run to the threads and device it began with: they change its numbers."""
    path = folder / "machine.json"
    threads = machine.threads or torch.get_num_threads()
    now = {
        "threads": threads,
        "device": str(machine.device),
        "torch": torch.__version__,
    }
    if not path.is_file():
        write_atomic(path, json.dumps(now).encode())
        return
    before = json.loads(path.read_bytes())
    if before != now:
        raise PlanError(
            f"{folder} was begun with {before}, this is {now}: the result would equal "
            f"neither. Go on with threads={before['threads']} "
            f"device={before['device']}, or choose another run_dir."
        )


def _backend(settings: Settings):  # type: ignore[no-untyped-def]
    if settings.backend == "ray":
        from simulations.ray import run_with_ray  # an extra, never at a hospital

        return run_with_ray
    if settings.backend == "deployed":
        from simulations.deployed import run_deployed

        return run_deployed
    return run_in_process


def _populations(laboratory: Laboratory, plan: Plan) -> Populations:
    if plan.roster.sites == (POOLED,):
        return {POOLED: laboratory.snapshots}
    return {site: {site: laboratory.snapshots[site]} for site in plan.roster.sites}
