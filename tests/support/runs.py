"""Run small federations, and look at what they leave behind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from client.client_app import Connect, make_client_app
from common.checkpoint import read_tensors
from common.observer import Silent
from common.plan import Plan
from common.records import Code, Refusal, Reply, Request
from server.rounds import Federation, Outcome
from simulations.federation import Machine, approve_everywhere, sessions_of
from simulations.grid import InProcessGrid
from tests.support.hospitals import populations

MACHINE = Machine(threads=1)
Spoil = Callable[[Request, Reply], Reply]
Hear = Callable[[Request], None]


def play(
    plan: Plan,
    folder: Path,
    *,
    spoil: dict[str, Spoil] | None = None,
    hear: dict[str, Hear] | None = None,
    machine: Machine = MACHINE,
    grid_type: type[InProcessGrid] = InProcessGrid,
    hospitals: Any = None,
) -> Outcome:
    """Run a plan over memory hospitals.

    Parameters
    ----------
    spoil : changes what a site answers
    hear : is told each request before the site is, and may refuse in its place
    """
    approve_everywhere(plan, folder)
    hospitals = hospitals or populations(plan)
    connect = sessions_of(plan, hospitals, folder, machine, synthetic=True)
    app = make_client_app(_spoiled(connect, spoil or {}, hear or {}))
    federation = Federation(plan, folder / "coordinator", machine.start_file, Silent())
    return federation.run(grid_type(app, plan.roster.sites))


def _spoiled(
    connect: Connect, spoil: dict[str, Spoil], hear: dict[str, Hear]
) -> Connect:
    class Spoiled:
        def __init__(self, node_config: Any) -> None:
            self._site = str(node_config["site"])
            self._session = connect(node_config)

        def answer(self, request: Request) -> Reply:
            hear.get(self._site, lambda request: None)(request)
            reply = self._session.answer(request)
            change = spoil.get(self._site)
            return change(request, reply) if change else reply

    return Spoiled


def absent_in(*rounds: int, code: Code = Code.STOPPED) -> Hear:
    """Let a site hear nothing of some training rounds."""

    def hear(request: Request) -> None:
        if request.kind == "train" and request.fields["round"] in rounds:
            raise Refusal(code, "not there")

    return hear


def in_round(round_: int, change: Callable[[Reply], Reply]) -> Spoil:
    """Change a site's answer to one training round."""

    def spoil(request: Request, reply: Reply) -> Reply:
        wanted = request.kind == "train" and request.fields["round"] == round_
        return change(reply) if wanted else reply

    return spoil


def with_tensors(change: Callable[[dict[str, Any]], None]) -> Callable[[Reply], Reply]:
    """Change the tensors of a reply in place of the site."""

    def changed(reply: Reply) -> Reply:
        tensors = dict(reply.shared)
        change(tensors)
        return replace(reply, shared=tensors)

    return changed


def with_field(name: str, value: Any) -> Callable[[Reply], Reply]:
    """Change one field of a reply."""
    return lambda reply: replace(reply, fields={**reply.fields, name: value})


def model_tensors(folder: Path, plan: Plan, site: str, round_: int) -> dict[str, Any]:
    """Read a site's finished model."""
    models = folder / "sites" / site / "models" / plan.id / str(round_)
    return read_tensors(models / "model.safetensors")[0]


def assert_same_models(plan: Plan, one: Path, other: Path, round_: int) -> None:
    """Assert that two runs left every site the same model, bit for bit."""
    for site in plan.roster.sites:
        left = model_tensors(one, plan, site, round_)
        right = model_tensors(other, plan, site, round_)
        assert left.keys() == right.keys()
        for key in left:
            assert np.array_equal(left[key], right[key]), f"{site}: {key} differs"
