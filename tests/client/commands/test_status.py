"""``status``: the truth for people, for programs, and as an exit code."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from client.approval import approve
from client.health import WORKER_LOCK
from client.local_state import LocalState
from client.node_status import NodeStatus
from client.site import read_site
from common.lock import held
from tests.support.hospitals import small_plan
from tests.support.mammo_client import client, make_hospital

PLAN = small_plan(sites=("north", "south"))


@pytest.fixture
def hospital(tmp_path: Path) -> Path:
    return make_hospital(tmp_path, images=1)


@pytest.fixture
def working(hospital: Path) -> Iterator[tuple[Path, NodeStatus]]:
    """A hospital whose node and worker are this very process."""
    state = read_site(hospital, "north").state_folder
    state.mkdir(parents=True)
    status = NodeStatus(state)
    status.joined(7)
    status.beat()
    status.idle()
    with held(state / WORKER_LOCK):
        yield hospital, status


def facts_of(hospital: Path) -> tuple[int, dict[str, Any]]:
    code, said = client(hospital, "status", "--json")
    return code, json.loads(said)


def test_a_site_that_was_never_started(hospital: Path) -> None:
    code, said = client(hospital, "status")
    assert code == 1 and "at work no: the node does not run" in said
    assert "last heartbeat that arrived never" in said and "not seen yet" in said
    code, facts = facts_of(hospital)
    assert code == 1 and facts["at_work"] is False
    assert facts["plan"] is facts["last_counted_round"] is facts["last_answer"] is None
    assert not (hospital / "data").exists()  # looking makes nothing


def test_a_site_at_work(working: tuple[Path, NodeStatus]) -> None:
    hospital, status = working
    status.answered("train.round", well=True)
    code, said = client(hospital, "status")
    assert code == 0 and "at work yes" in said and "doing waiting" in said
    assert re.search(r"last answer train.round, \d+ s ago", said)
    assert "epsilon spent none: no differential privacy yet" in said
    code, facts = facts_of(hospital)
    assert code == 0 and facts["at_work"] is True and facts["obstacle"] is None
    assert 0 <= facts["last_heartbeat_seconds"] < 60
    assert facts["last_answer"]["refused"] is False


def test_a_refused_answer_and_trouble_are_told(
    working: tuple[Path, NodeStatus],
) -> None:
    hospital, status = working
    status.answered("train.round", well=False)
    status.trouble("the coordinator cannot be reached")
    status.idle()
    said = client(hospital, "status")[1]
    assert re.search(r"train.round, refused, \d+ s ago", said)
    assert "trouble the coordinator cannot be reached" in said


def test_a_paused_site_is_not_at_work(working: tuple[Path, NodeStatus]) -> None:
    hospital, _ = working
    client(hospital, "pause")
    code, facts = facts_of(hospital)
    assert code == 1 and facts["paused"] and facts["obstacle"] == "it is paused"
    client(hospital, "resume")
    assert facts_of(hospital)[0] == 0


def test_the_approved_plan_and_the_policy_are_told(hospital: Path) -> None:
    approve(read_site(hospital, "north").state_folder, PLAN)
    (hospital / "policy.yaml").write_text("counts: banded\nmaximum_rounds: 40\n")
    said = client(hospital, "status")[1]
    assert f"approved plan small, 3 rounds, hash {PLAN.hash[:12]}" in said
    assert "counts leave rounded down to published steps" in said
    assert "rounds: at most 40" in said
    facts = facts_of(hospital)[1]
    assert (facts["plan"], facts["plan_id"]) == (PLAN.hash, "small")
    assert "rounds: at most 40" in facts["policy"]


def test_a_policy_that_cannot_be_read_is_told_and_status_goes_on(
    hospital: Path,
) -> None:
    (hospital / "policy.yaml").write_text("count: banded\n")
    assert "all is refused" in facts_of(hospital)[1]["policy"][0]
    assert "policy all is refused" in client(hospital, "status")[1]


def test_the_last_counted_round_is_that_of_the_run_that_spoke_last(
    hospital: Path,
) -> None:
    state = read_site(hospital, "north").state_folder
    LocalState(state, "older", PLAN.hash, "s").note_counted(9)
    time.sleep(0.02)
    LocalState(state, "newer", PLAN.hash, "s").note_counted(2)
    facts = facts_of(hospital)[1]
    assert (facts["last_counted_round"], facts["last_counted_run"]) == (2, "newer")
    said = client(hospital, "status")[1]
    assert "last counted round 2 of run newer, known for " in said


def test_the_days_of_the_certificate_are_those_last_seen(
    working: tuple[Path, NodeStatus],
) -> None:
    hospital, status = working
    status.certificate(time.time() + 88 * 86_400)
    status.idle()
    assert facts_of(hospital)[1]["certificate_days_left"] == 88.0
    assert "days left: 88, as last seen" in client(hospital, "status")[1]
    NodeStatus(read_site(hospital, "north").state_folder)  # the node starts again
    assert facts_of(hospital)[1]["certificate_days_left"] == 88.0
