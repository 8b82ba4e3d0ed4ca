"""Who must be there when a run begins, and who may be missing when it goes on."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import pytest
from flwr.app import Message
from flwr.proto.node_pb2 import NodeInfo

from common.plan import Plan, Roster
from server import conversation, greeting
from server.conversation import OFFLINE
from server.participation import RunFailed
from simulations.grid import InProcessGrid
from tests.support.hospitals import SITES, small_plan
from tests.support.runs import in_round, model_tensors, play, with_field

PLAN = small_plan(roster=Roster(SITES, required=("alpha",), minimum_sites=2))
BAD = in_round(2, with_field("patients", 0))


@pytest.fixture(autouse=True)
def _in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(greeting, "GATHER_SECONDS", 0.0)
    monkeypatch.setattr(conversation, "_LOOK_SECONDS", 0.0)


def without(*away: str, stranger: str = "") -> type[InProcessGrid]:
    """Make a grid on which some sites are offline, and a stranger may be online."""

    class Thinned(InProcessGrid):
        def get_nodes(self) -> Iterable[NodeInfo]:
            here = [node for node in super().get_nodes() if node.name not in away]
            return here + [NodeInfo(node_id=99, name=stranger)] * bool(stranger)

        def get_node_ids(self) -> Iterable[int]:
            return [node.node_id for node in self.get_nodes()]

        def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
            online = {node.node_id for node in self.get_nodes()} - {99}
            return [
                *(
                    name
                    for one in messages
                    for name in (
                        super(Thinned, self).push_messages([one])
                        if one.metadata.dst_node_id in online
                        else [""]
                    )
                )
            ]

    return Thinned


def interrupted(plan: Plan, folder: Path) -> None:
    """Play one round, and fail in the second."""
    with pytest.raises(RunFailed, match="round 2: 1 sites counted"):
        play(plan, folder, spoil={"beta": BAD, "gamma": BAD})


def test_a_run_begins_with_all_its_sites(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match="gamma: not connected"):
        play(PLAN, tmp_path, grid_type=without("gamma"))


def test_a_run_goes_on_without_a_site_that_left_for_good(tmp_path: Path) -> None:
    interrupted(PLAN, tmp_path)
    outcome = play(PLAN, tmp_path, grid_type=without("gamma"))
    assert outcome.status == "complete_with_absences"
    ledger = {(entry["round"], entry["site"]): entry for entry in outcome.state.ledger}
    assert ledger[1, "gamma"]["counted"]
    for round_ in (2, 3):
        assert ledger[round_, "gamma"]["reason"] == OFFLINE
        assert ledger[round_, "beta"]["counted"]
    assert model_tensors(tmp_path, PLAN, "beta", 3)
    with pytest.raises(Exception, match="model"):
        model_tensors(tmp_path, PLAN, "gamma", 3)


def test_a_site_that_is_back_takes_part_again(tmp_path: Path) -> None:
    interrupted(PLAN, tmp_path)
    with pytest.raises(RunFailed, match="round 2: 1 sites counted"):
        play(PLAN, tmp_path, spoil={"beta": BAD}, grid_type=without("gamma"))
    outcome = play(PLAN, tmp_path)
    assert outcome.status == "complete"
    assert model_tensors(tmp_path, PLAN, "gamma", 3)


@pytest.mark.parametrize(
    ("away", "said"),
    [(["alpha"], "alpha: not connected"), (["beta", "gamma"], "beta: not connected")],
)
def test_a_run_does_not_go_on_without_those_it_needs(
    away: list[str], said: str, tmp_path: Path
) -> None:
    interrupted(PLAN, tmp_path)
    with pytest.raises(RunFailed, match=said):
        play(PLAN, tmp_path, grid_type=without(*away))


def test_a_hospital_of_another_federation_is_not_asked(tmp_path: Path) -> None:
    outcome = play(PLAN, tmp_path, grid_type=without(stranger="elsewhere"))
    assert outcome.status == "complete"
    first = json.loads((tmp_path / "coordinator" / "handshake.json").read_bytes())
    assert list(first["nodes"]) == list(SITES)
