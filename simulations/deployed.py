"""A run by real processes, TLS and keys: what a simulation does, as hospitals do it.

The same plan and images as in process give the same models, bit for bit.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.atomic import write_atomic
from common.observer import Observer, Silent
from common.plan import Plan, PlanError, plan_to_json
from server.flower_app import START_FILE, run_folder
from server.participation import RunFailed
from simulations.consortium import Consortium, ConsortiumError, Hospital
from simulations.federation import Machine, Populations

_LOOK_SECONDS = 0.5


def run_deployed(
    plan: Plan,
    populations: Populations,
    folder: Path,
    machine: Machine,
    *,
    synthetic: bool,
    observer: Observer | None = None,
    on_reply: Callable[[str], None] = lambda site: None,
) -> None:
    """Run a federation by processes of its own, or go on with it.

    Parameters
    ----------
    plan : every hospital approves it here
    populations : prepared images of every site, one population each
    folder : gets ``coordinator/`` and ``sites/<site>/`` as in process, and
        ``consortium/`` with settings, certificates and logs
    machine : its threads are those of each hospital
    on_reply : not called; a coordinator does not see single replies from outside

    Raises
    ------
    PlanError
        If the plan has an arm that no consortium can run.
    RunFailed
        If the run fails, with the reason the coordinator gives.
    """
    if any(set(own) != {site} for site, own in populations.items()):
        raise PlanError("backend=deployed runs hospitals; pooled is no arm of theirs")
    # Absolute, and named so that the run's folder is that of the other backends.
    plan_file = folder.resolve() / "coordinator.json"
    plan_file.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(plan_file, plan_to_json(plan))
    start: dict[str, str] = {}
    if machine.start_file is not None:
        start["start_file"] = str(machine.start_file.resolve())
        beside = plan_file.with_name(START_FILE)
        beside.unlink(missing_ok=True)
        beside.symlink_to(start["start_file"])
    hospitals = [
        Hospital(
            site,
            {
                "importer": "synthetic" if synthetic else "hospital",
                "archive": str(own[site].folder.parents[1] / "archive"),
                "folder": str(own[site].folder.parents[1]),
                "state": str(plan_file.parent / "sites" / site),
                "device": machine.device.type,
                "threads": machine.threads or 1,
                **start,
            },
        )
        for site, own in populations.items()
    ]
    try:
        with Consortium(plan_file.parent / "consortium", plan_file, hospitals) as all_:
            all_.set_up()
            for hospital in hospitals:
                all_.client(hospital.name, "approve", "--yes", plan_file)
                all_.start_site(hospital.name)
            _follow(all_, all_.start_run(), observer or Silent(), plan)
    except ConsortiumError as error:
        raise RunFailed(str(error)) from None


def _follow(consortium: Consortium, run: int, observer: Observer, plan: Plan) -> None:
    """Tell the observer what the coordinator saves, until the run has ended."""
    folder = run_folder(consortium.plan)
    told = -1
    while True:
        over = consortium.is_over(run)
        saved = _newest(folder / "checkpoints")
        if saved is not None and told < 0:
            told = int(saved["round"])
            observer.started(told, plan.rounds, plan.roster.sites)
        while saved is not None and told < int(saved["round"]):
            told += 1
            losses = saved["losses"].get(str(told), {})
            observer.round_done(told, losses, saved["history"].get(str(told - 1), {}))
        if over:
            break
        time.sleep(_LOOK_SECONDS)
    outcome = consortium.last_outcome()
    if outcome["status"] == "failed":
        raise RunFailed(str(outcome["reason"]))
    observer.finished(str(outcome["status"]))


def _newest(checkpoints: Path) -> dict[str, Any] | None:
    files = sorted(checkpoints.glob("round-*.json"))
    for file in reversed(files):
        try:
            return dict(json.loads(file.read_bytes()))
        except OSError:  # the coordinator has just deleted it
            continue
    return None
