"""What the tests of a whole consortium share: plans, waiting, killing, comparing."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any

import psutil
from typer.testing import CliRunner

from client.cli import app
from client.data.snapshot import open_snapshot
from client.node_status import read_status
from common.checkpoint import read_tensors
from common.compose import mammofed_version
from common.contract import tensor_hash
from common.plan import Plan, Preprocessing, Roster, plan_to_json
from common.stages import Model, Optimizer, Stage, Work
from simulations.consortium import Consortium, Hospital
from simulations.federation import Machine, run_in_process
from tests.e2e.wire import Wire

SITES = ("north", "harbour", "lakeside")
PATIENCE = 420.0
"""Seconds for anything that is sure to come; a machine may be busy."""


def small_plan(name: str, *, rounds: int = 3, steps: int = 20, **changes: Any) -> Plan:
    """Make a plan whose rounds last as long as so many steps of a small model."""
    stage = Stage(
        name="adapt",
        rounds=rounds,
        model=Model("resnet_small", widths=(16, 32), blocks=(1, 1)),
        work=Work("steps", steps, 8),
        optimizer=Optimizer("sgd", learning_rate=0.02, state="keep"),
    )
    fields: dict[str, Any] = {
        "id": name,
        "version": mammofed_version(),
        "roster": Roster(SITES, minimum_sites=2),
        "stages": (stage,),
        "preprocessing": Preprocessing(rows=64, columns=32),
        "threads": 1,
    }
    return Plan(**(fields | changes))


class TestConsortium(Consortium):
    """Small hospitals; verbs run in this process, which saves their imports.

    Parameters
    ----------
    folder : of everything
    archives : of three hospitals; further ones have copies of the same images
    sites : their names
    """

    __test__ = False

    def __init__(
        self, folder: Path, archives: Path, sites: Sequence[str] = SITES
    ) -> None:
        hospitals = [
            Hospital(site, {"importer": "synthetic", "archive": str(archives / name)})
            for site, name in zip(sites, cycle(SITES), strict=False)
        ]
        super().__init__(folder, folder / "no-plan.json", hospitals)
        self.wires = {site: Wire(self.door_port) for site in sites}

    def __exit__(self, *error: object) -> None:
        """End processes, then wires."""
        super().__exit__(*error)
        for wire in self.wires.values():
            wire.close()

    def open(self) -> None:
        """Set up, prepare every hospital's images, and start all."""
        self.set_up()
        for hospital in self.hospitals:
            self.client(hospital.name, "prepare", "--rows", 64, "--columns", 32)
            self.start_site(hospital.name)

    def address_for(self, name: str) -> str:
        """Lead every hospital over a wire of its own."""
        return f"127.0.0.1:{self.wires[name].port}"

    def restart_site(self, name: str, **variables: str) -> None:
        """Kill a hospital and start it again, with more variables if there are any."""
        self.kill_site(name)
        self.processes.pop(name).wait()
        before = os.environ.copy()
        os.environ.update(variables)
        try:
            self.start_site(name)
        finally:
            os.environ.clear()
            os.environ.update(before)

    def kill_site(self, name: str) -> None:
        """End a hospital's processes without a word."""
        kill(*reversed(self.family(name).values()))

    def client(self, name: str, *words: object) -> str:
        """Type a verb at a hospital, in this process."""
        chosen = ["--config-dir", str(self.config_dir), "--site", name]
        result = CliRunner().invoke(app, [*chosen, *map(str, words)])
        assert result.exit_code == 0, result.output
        return result.output

    def adopt(self, plan: Plan, *sites: str) -> None:
        """Write the plan down, and let hospitals approve it: all, if none is named."""
        self.plan = self.folder / "plans" / f"{plan.id}.json"
        self.plan.parent.mkdir(exist_ok=True)
        self.plan.write_bytes(plan_to_json(plan))
        for site in sites or plan.roster.sites:
            self.client(site, "approve", "--yes", self.plan)

    def play(self, plan: Plan) -> dict[str, Any]:
        """Run a plan undisturbed, and return its outcome."""
        self.adopt(plan)
        return self.outcome(self.start_run(), PATIENCE)

    def kill_coordinator(self) -> None:
        """End the SuperLink and all it has started, the ServerApp too."""
        superlink = psutil.Process(self.processes.pop("superlink").pid)
        kill(*superlink.children(recursive=True), superlink)
        superlink.wait()

    def state(self, site: str) -> Path:
        """Return a site's folder of local state."""
        return self.folder / "data" / site / "federation"

    def family(self, site: str) -> dict[str, psutil.Process]:
        """Find the processes of a site: ``site``, ``node`` and ``worker``."""
        parent = psutil.Process(self.processes[site].pid)
        found = {"site": parent}
        for child in parent.children():
            found[child.cmdline()[-1].removeprefix("run-")] = child
        return found

    def wait_for(self, what: str, condition: Callable[[], bool]) -> None:
        """Wait until something holds."""
        end = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < end, f"never: {what}\n{self.logs()}"
            time.sleep(0.05)

    def wait_until_training(self, site: str, round_: int) -> None:
        """Wait until a site is amid a round."""

        def begun() -> bool:
            doing = read_status(self.state(site)).get("doing")
            return doing == "train.round" and self.round_saved() == round_ - 1

        self.wait_for(f"{site} trains in round {round_}", begun)

    def round_saved(self) -> int:
        """Return the last round of the plan that the coordinator has saved; or -1."""
        found = (self.plan.with_suffix("") / "checkpoints").glob("round-*.json")
        return max((int(path.stem[-5:]) for path in found), default=-1)

    def logs(self) -> str:
        """Return the end of every log."""
        names = ["superlink", "door", *(one.name for one in self.hospitals)]
        return "\n".join(self.log_of(name) for name in names)


def kill(*processes: psutil.Process) -> None:
    """End processes without a word, children before parents."""
    for process in processes:
        os.kill(process.pid, signal.SIGKILL)


def ledger_of(outcome: dict[str, Any]) -> dict[tuple[int, str], dict[str, Any]]:
    """Index a run's ledger by round and site."""
    return {(entry["round"], entry["site"]): entry for entry in outcome["ledger"]}


def require_equal_to_simulation(consortium: TestConsortium, plan: Plan) -> None:
    """Compare shared weights and all local parts with a simulation's, bit by bit.

    No weight depends on the name of a plan, so that plans that differ in nothing else
    are compared with one simulation.
    """
    same = replace(plan, id="simulated")
    folder = consortium.folder / "simulations" / same.hash[:12]
    if not folder.exists():
        populations = {
            site: {
                site: open_snapshot(
                    consortium.folder / "data" / site, plan.preprocessing
                )
            }
            for site in plan.roster.sites
        }
        run_in_process(same, populations, folder, Machine(threads=1), synthetic=True)
    last = f"round-{plan.rounds:05d}.safetensors"
    ours = consortium.plan.with_suffix("") / "checkpoints" / last
    theirs = folder / "coordinator" / "checkpoints" / last
    assert _content(ours) == _content(theirs)
    for site in plan.roster.sites:
        (mine,) = consortium.state(site).glob(f"*/{plan.hash[:12]}/{last}")
        (other,) = (folder / "sites" / site / "state").glob(f"*/*/{last}")
        assert _content(mine) == _content(other), site


def _content(path: Path) -> str:
    tensors, _ = read_tensors(path)
    return tensor_hash(tensors, tensors)
