"""One experiment: every arm with every seed, resumable, then the report."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from client.data.cache import Snapshot
from common.atomic import write_atomic
from common.checkpoint import read_tensors
from common.plan import Plan, PlanError
from common.progress import View
from server.selection import trailing_mean
from simulations.arms import POOLED, arm_of, plan_for, restatistics_plan
from simulations.federation import Machine, Populations, run_in_process
from simulations.results import ROLES, Finished, read_outcome
from simulations.settings import Settings
from simulations.tensorboard import Curves, Together


@dataclass(frozen=True)
class Laboratory:
    """What every run of an experiment shares.

    Attributes
    ----------
    snapshots : prepared images by hospital, in roster order
    left_out : those of hospitals that take no part
    synthetic : marks everything made from them
    """

    settings: Settings
    plan: Plan
    snapshots: Mapping[str, Snapshot]
    machine: Machine
    view: View
    synthetic: bool
    left_out: Mapping[str, Snapshot] = field(default_factory=dict)


def run_arms(laboratory: Laboratory) -> dict[str, list[Finished]]:
    """Run every arm with every seed; finished runs are only read.

    Returns
    -------
    Arm to its runs, one per seed, in the order of the settings; the learning rate is
    the one that was best on validation with the first seed.
    """
    runs: dict[str, list[Finished]] = {}
    for arm in laboratory.settings.arms:
        if arm_of(arm).after:
            runs[arm] = [
                _restatistics(laboratory, run) for run in runs[arm_of(arm).after]
            ]
            continue
        first, *others = laboratory.settings.seeds
        best = _search(laboratory, arm, first)
        runs[arm] = [best, *(_run(laboratory, arm, s, best.rate) for s in others)]
    return runs


def _search(laboratory: Laboratory, arm: str, seed: int) -> Finished:
    """Try every learning rate on one seed; the best validation result wins."""
    default = laboratory.plan.stages[-1].optimizer.learning_rate
    rates = laboratory.settings.rates or (default,)
    tried = [_run(laboratory, arm, seed, rate) for rate in rates]
    return max(tried, key=selection_value)


def selection_value(run: Finished) -> float:
    """Return the trailing mean that selected the run's round; -inf without one."""
    history = {int(k): v for k, v in run.outcome["history"].items()}
    mean = trailing_mean(history, run.plan, int(run.outcome["selected"]))
    return float("-inf") if math.isnan(mean) else mean


def _run(laboratory: Laboratory, arm: str, seed: int, rate: float) -> Finished:
    searched = rate if laboratory.settings.rates else None
    plan = plan_for(arm, laboratory.plan, seed=seed, rate=searched)
    name = f"seed-{seed}" + (f"-rate-{rate:g}" if searched else "")
    folder = laboratory.settings.folder / "arms" / arm / name
    title = f"{arm}, seed {seed}" + (f", rate {rate:g}" if searched else "")
    return _finish(laboratory, arm, seed, rate, plan, folder, title, laboratory.machine)


def _finish(
    laboratory: Laboratory,
    arm: str,
    seed: int,
    rate: float,
    plan: Plan,
    folder: Path,
    title: str,
    machine: Machine,
) -> Finished:
    """Run a federation to its end unless it has ended already."""
    if read_outcome(folder) is None:
        _pin_machine(folder, machine)
        curves = laboratory.settings.folder / "tensorboard" / arm / folder.name
        with laboratory.view.bar(title, plan.rounds) as bar:
            laboratory_run = _backend(laboratory.settings)
            laboratory_run(
                plan,
                _populations(laboratory, plan),
                folder,
                machine,
                synthetic=laboratory.synthetic,
                observer=Together([bar, Curves(curves)]),
                on_reply=bar.site_answered,
            )
    outcome = read_outcome(folder)
    assert outcome is not None
    folders = dict.fromkeys(ROLES, folder)
    return Finished(
        arm, seed, rate, plan, folders, outcome, tuple(laboratory.snapshots)
    )


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
        folder.mkdir(parents=True, exist_ok=True)
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
    return run_in_process


def _populations(laboratory: Laboratory, plan: Plan) -> Populations:
    if plan.roster.sites == (POOLED,):
        return {POOLED: laboratory.snapshots}
    return {site: {site: laboratory.snapshots[site]} for site in plan.roster.sites}


def _restatistics(laboratory: Laboratory, source: Finished) -> Finished:
    """Re-estimate statistics of a finished fedavg model at every site.

    Each of its two models, of the selected and of the last round, starts a run of its
    own; the scores of both are put together as one finished arm.
    """
    arm = "fedavg_local_stats"
    name = source.folders["selected"].name
    parts = {
        role: _restatistics_of(laboratory, source, arm, name, role) for role in ROLES
    }
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


def _restatistics_of(
    laboratory: Laboratory, source: Finished, arm: str, name: str, role: str
) -> Finished:
    file = source.model_folder(source.plan.roster.sites[0], role) / "model.safetensors"
    plan = restatistics_plan(
        laboratory.plan,
        str(read_tensors(file)[1]["tensors"]),
        f"fedavg, {role} round {source.outcome[role]}",
        source.seed,
    )
    return _finish(
        laboratory,
        arm,
        source.seed,
        source.rate,
        plan,
        laboratory.settings.folder / "arms" / arm / name / role,
        f"{arm}, seed {source.seed}, {role} round",
        replace(laboratory.machine, start_file=file),
    )


def device_of(settings: Settings) -> torch.device:
    """Choose the device: what was asked for, or a GPU where there is one.

    Raises
    ------
    PlanError
        If a GPU was asked for and torch finds none.
    """
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise PlanError("device=cuda, but torch finds no GPU; use device=auto or cpu")
    if settings.device != "auto":
        return torch.device(settings.device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def write_chosen_rates(runs: Mapping[str, list[Finished]], folder: Path) -> None:
    """Write down which learning rate each arm chose, for the reader."""
    chosen = {arm: {"rate": of[0].rate, "seeds": len(of)} for arm, of in runs.items()}
    (folder / "chosen_rates.json").write_text(json.dumps(chosen, indent=2))
