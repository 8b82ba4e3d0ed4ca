"""The same apps on Flower's Ray backend: several GPUs, or a cluster.

Optional, and never at a hospital. Ray moves the apps to its workers by pickling our own
objects on our own machines; nothing received is unpickled.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from flwr.serverapp import Grid
from flwr.simulation import run_simulation

from client.client_app import Connect, Session, make_client_app
from common.observer import Observer, Silent
from common.plan import Plan, PlanError
from server.participation import RunFailed
from server.rounds import Federation, Outcome
from server.server_app import make_server_app
from simulations.federation import (
    Machine,
    Populations,
    approve_everywhere,
    sessions_of,
)

_OPEN: dict[str, Connect] = {}
"""Sessions that this worker process has opened, by run folder and plan."""


@dataclass(frozen=True)
class _Opener:
    """Opens the sessions of a run in whatever worker process it is called in."""

    plan: Plan
    populations: Populations
    folder: Path
    machine: Machine
    synthetic: bool

    def __call__(self, node_config: Mapping[str, object]) -> Session:
        key = f"{self.folder}\x1f{self.plan.hash}"
        if key not in _OPEN:
            _OPEN.clear()  # workers are reused; another run's sessions must not stay
            _OPEN[key] = sessions_of(
                self.plan,
                self.populations,
                self.folder,
                self.machine,
                synthetic=self.synthetic,
            )
        site = self.plan.roster.sites[int(str(node_config["partition-id"]))]
        return _OPEN[key]({"site": site})


def run_with_ray(
    plan: Plan,
    populations: Populations,
    folder: Path,
    machine: Machine,
    *,
    synthetic: bool,
    observer: Observer | None = None,
    on_reply: Callable[[str], None] = lambda site: None,
    workers: int = 2,
) -> Outcome:
    """Run a federation on Ray; as `simulations.federation.run_in_process` otherwise.

    Parameters
    ----------
    on_reply : not called; Ray answers a whole round at once
    workers : processes that share the machine's CPUs and GPUs evenly

    Raises
    ------
    PlanError
        If the extra is not installed.
    """
    try:
        import ray
    except ImportError:
        raise PlanError(
            "backend=ray needs the extra: pip install 'mammofed[ray]'"
        ) from None
    threads = machine.threads or torch.get_num_threads()
    folder = folder.resolve()  # workers have a working directory of their own
    approve_everywhere(plan, folder)
    opener = _Opener(
        plan, populations, folder, replace(machine, threads=threads), synthetic
    )
    federation = Federation(
        plan, folder / "coordinator", machine.start_file, observer or Silent()
    )
    outcomes: list[Outcome] = []
    failures: list[Exception] = []

    def play(grid: Grid, run_config: Mapping[str, object]) -> None:
        try:
            outcomes.append(federation.run(grid))
        except Exception as failure:  # raised again below; Flower would only log it
            failures.append(failure)

    gpus = torch.cuda.device_count() / workers if machine.device.type == "cuda" else 0.0
    backend: Any = {"client_resources": {"num_cpus": 1, "num_gpus": gpus}}
    try:
        start_ray(ray, workers)
        run_simulation(
            server_app=make_server_app(play),
            client_app=make_client_app(opener),
            num_supernodes=len(plan.roster.sites),
            backend_config=backend,
        )
    finally:
        ray.shutdown()
    if failures:
        raise failures[0]
    if not outcomes:
        raise RunFailed("Ray ended without a result; its own log says why")
    return outcomes[0]


def start_ray(ray: Any, workers: int) -> None:
    """Start Ray before Flower would, and once more where it does not come up.

    Now and then one of its helpers never starts on a busy machine, and Ray gives up
    after 30 s. Flower takes a Ray that runs.

    Parameters
    ----------
    ray : the module
    workers : CPUs that it gives away

    Raises
    ------
    RunFailed
        If it does not start the second time either.
    """
    for again in (True, False):
        try:
            ray.init(
                num_cpus=workers,
                include_dashboard=False,
                log_to_driver=False,
                runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(sys.path)}},
            )
            return
        except Exception as error:  # Ray raises just that
            ray.shutdown()
            if not again:
                raise RunFailed(
                    f"Ray does not start: {error} End what else computes here, then "
                    "type the command again; or use backend=in_process."
                ) from error
