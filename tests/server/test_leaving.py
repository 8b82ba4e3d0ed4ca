"""A site that has left is absent, and nobody waits for it, until the run is over."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message
from flwr.proto.node_pb2 import NodeInfo

from common.records import Code, Refusal, Request
from server import conversation
from server.conversation import LEFT
from server.participation import RunFailed
from server.rounds import Outcome
from simulations.grid import InProcessGrid
from tests.support.hospitals import small_plan
from tests.support.killed_run import two_stage_plan
from tests.support.runs import (
    Hear,
    absent_in,
    assert_same_models,
    in_round,
    model_tensors,
    play,
    with_tensors,
)

ALPHA = 1
"""The node of ``alpha``."""


class WithoutAlpha(InProcessGrid):
    """Alpha's node has gone offline; questions to it stay where they are."""

    def get_nodes(self) -> Iterable[NodeInfo]:
        return [node for node in super().get_nodes() if node.node_id != ALPHA]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        asked = list(messages)
        there = [m for m in asked if m.metadata.dst_node_id != ALPHA]
        names = iter(list(super().push_messages(there)))
        return ["" if m.metadata.dst_node_id == ALPHA else next(names) for m in asked]


class AlphaGoes(WithoutAlpha):
    """Alpha answers its first two training questions, then goes offline."""

    def __init__(self, *words: Any) -> None:
        super().__init__(*words)
        self._heard = 0

    def get_nodes(self) -> Iterable[NodeInfo]:
        if self._heard < 3:  # the handshake, and two rounds
            return InProcessGrid.get_nodes(self)
        return super().get_nodes()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        asked = list(messages)
        self._heard += any(m.metadata.dst_node_id == ALPHA for m in asked)
        if self._heard <= 3:
            return InProcessGrid.push_messages(self, asked)
        return super().push_messages(asked)


@pytest.fixture(autouse=True)
def _nobody_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look often; whoever waits for an absent site hangs for longer than a test may."""
    monkeypatch.setattr(conversation, "_LOOK_SECONDS", 0.01)
    monkeypatch.setattr(conversation, "_POLL_SECONDS", 0.01)
    monkeypatch.setattr(conversation, "ABSENCE_SECONDS", 3600.0)


def left_from(round_: int) -> Hear:
    """Leave amid a round: everything is refused from then on."""

    def hear(request: Request) -> None:
        if int(request.fields.get("round", 0)) >= round_:
            raise Refusal(Code.LEFT, "left")

    return hear


def entries(outcome: Outcome, site: str) -> dict[int, dict[str, Any]]:
    return {e["round"]: e for e in outcome.state.ledger if e["site"] == site}


def closed(folder: Path) -> dict[str, Any]:
    outcome = json.loads((folder / "coordinator" / "outcome.json").read_bytes())
    return dict(outcome["closed"])


def set_nan(tensors: dict[str, np.ndarray]) -> None:
    key = min(tensors)
    tensors[key] = np.full_like(tensors[key], np.nan)


def test_the_rest_goes_on_and_closes_without_it(tmp_path: Path) -> None:
    plan = small_plan()
    outcome = play(plan, tmp_path, hear={"alpha": left_from(2)}, grid_type=AlphaGoes)
    assert outcome.status == "complete_with_absences"
    alpha = entries(outcome, "alpha")
    assert [alpha[r]["counted"] for r in (1, 2, 3)] == [True, False, False]
    assert [alpha[r]["replied"] for r in (2, 3)] == [True, False]
    assert alpha[2]["reason"] == alpha[3]["reason"] == LEFT
    assert LEFT == "LEFT: the site has left this federation"
    assert closed(tmp_path)["last"]["without"] == ["alpha"]
    for site in ("beta", "gamma"):
        assert model_tensors(tmp_path, plan, site, 3)
    play(plan, tmp_path / "absent", hear={"alpha": absent_in(2, 3)})
    left = model_tensors(tmp_path, plan, "beta", 3)
    away = model_tensors(tmp_path / "absent", plan, "beta", 3)
    assert all(np.array_equal(left[key], away[key]) for key in left)


def test_a_site_that_leaves_as_the_run_closes_does_not_fail_it(tmp_path: Path) -> None:
    def hear(request: Request) -> None:
        if request.kind == "close":
            raise Refusal(Code.LEFT, "left")

    outcome = play(small_plan(), tmp_path, hear={"alpha": hear})
    assert outcome.status == "complete_with_absences"
    assert all(entry["counted"] for entry in outcome.state.ledger)
    assert closed(tmp_path)["selected"]["without"] == ["alpha"]


@pytest.mark.parametrize("code", [Code.STOPPED, Code.LOCAL_STATE])
def test_a_site_that_only_refuses_to_close_fails_the_run(
    code: Code, tmp_path: Path
) -> None:
    def hear(request: Request) -> None:
        if request.kind == "close":
            raise Refusal(code, "not now")

    with pytest.raises(RunFailed, match=f"closing .* alpha: {code.name}"):
        play(small_plan(), tmp_path, hear={"alpha": hear})


def test_a_run_that_is_resumed_does_not_need_it(tmp_path: Path) -> None:
    """The coordinator failed after alpha had left; then alpha is not online."""
    plan = small_plan(minimum=2)
    hear = {"alpha": left_from(2)}
    bad = {"beta": in_round(3, with_tensors(set_nan))}
    with pytest.raises(RunFailed, match="round 3"):
        play(plan, tmp_path / "resumed", spoil=bad, hear=hear)
    outcome = play(plan, tmp_path / "resumed", grid_type=WithoutAlpha)
    assert outcome.status == "complete_with_absences"
    last = entries(outcome, "alpha")[3]
    assert last["reason"] == LEFT and not last["replied"] and last["expected"]
    straight = play(plan, tmp_path / "straight", hear=hear)
    assert straight.state.shared_hash == outcome.state.shared_hash


def test_a_stage_opens_without_it_and_it_cannot_come_back_into_that(
    tmp_path: Path,
) -> None:
    """Its local part was not carried over; asked, it could only fail the closing."""
    plan = two_stage_plan()
    heard: list[tuple[str, object]] = []
    hear = absent_in(2, 3, code=Code.LEFT)

    def watch(request: Request) -> None:
        heard.append((request.kind, request.fields.get("round")))
        hear(request)

    outcome = play(plan, tmp_path, hear={"alpha": watch})
    assert outcome.status == "complete_with_absences"
    assert outcome.last == 5
    trained = [round_ for kind, round_ in heard if kind == "train"]
    assert trained == [1, 2, 3]
    reasons = [e["reason"] for r, e in sorted(entries(outcome, "alpha").items())]
    assert reasons == [None, LEFT, LEFT, LEFT, LEFT]
    assert closed(tmp_path)["last"]["without"] == ["alpha"]


def test_a_site_that_takes_part_again_is_heard_again(tmp_path: Path) -> None:
    plan = small_plan()
    hear = absent_in(2, code=Code.LEFT)
    outcome = play(plan, tmp_path / "left", hear={"alpha": hear})
    assert entries(outcome, "alpha")[3]["counted"]
    play(plan, tmp_path / "absent", hear={"alpha": absent_in(2)})
    assert_same_models(plan, tmp_path / "absent", tmp_path / "left", 3)
