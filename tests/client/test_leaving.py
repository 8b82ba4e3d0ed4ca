"""What the processes of a site do once it has left the federation."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from flwr.app import ArrayRecord, Message
from flwr.supercore.task_identity import TaskIdentity

from client import node as node_module
from client import supervisor
from client.approval import approve, has_left, last_approved, leave
from client.audit_trail import AuditTrail
from client.fleet import Bundle, Fleet, Waiting
from client.fleet_errors import FleetError
from client.health import obstacle
from client.node import Node, NodeSettings
from client.node_status import NodeStatus, read_status
from client.supervisor import supervise
from common.audit import FOLDER, open_log
from common.keys import make_key
from common.records import (
    MESSAGE_TYPES,
    REQUEST_FIELDS,
    Code,
    Reply,
    Request,
    encode,
)
from tests.support.hospitals import small_plan

PLAN = small_plan(sites=("north",))


class FakeFleet:
    """A coordinator with one question; notes what it is told."""

    def __init__(self, question: Message | None, reachable: bool = True) -> None:
        self.node_id = 7
        self.question, self.reachable = question, reachable
        self.sent: list[Message] = []
        self.offline = False
        self.heard: list[str] = []

    def join(self, last_node_id: int = 0) -> int:
        return self.node_id

    def heartbeat(self) -> None:
        self.heard.append("heartbeat")

    def next(self) -> Waiting | None:
        if self.question is None:
            return None
        kind = self.question.metadata.message_type
        return Waiting(1, kind, "id", cast(Any, None))

    def bundle(self, run: int) -> Bundle:
        return Bundle(b"", {})

    def is_over(self, run: int) -> bool:
        return False

    def fetch(self, waiting: Waiting) -> Message:
        assert self.question is not None
        found, self.question = self.question, None
        return found

    def send(self, reply: Message, seconds: float) -> int:
        if not self.reachable:
            raise FleetError("the coordinator cannot be reached")
        self.sent.append(reply)
        self.heard.append("send")
        return 0

    def leave(self) -> None:
        self.offline = True


def question() -> Message:
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
    schema = REQUEST_FIELDS["train"]
    fields: dict[str, Any] = {name: kind() for name, kind in schema.items()}
    content = encode(fields | {"plan": PLAN.hash}, ArrayRecord({}), schema)
    message = Message(content, 7, MESSAGE_TYPES["train"], group_id="1")
    message.metadata.__dict__["_message_id"] = "id"
    return message


@pytest.fixture
def state(tmp_path: Path) -> Path:
    folder = tmp_path / "federation"
    approve(folder, PLAN)
    (folder / "keepsake").write_text("local state")
    return folder


def run_node(
    state: Path,
    fleet: FakeFleet,
    monkeypatch: pytest.MonkeyPatch,
    worker: Callable[[Request, Callable[[], None]], Reply],
) -> None:
    """Run a node until it ends by itself."""
    monkeypatch.setattr(node_module, "require_permitted", lambda *_: None)
    monkeypatch.setattr(node_module, "ask_worker", worker)
    key = make_key(state.parent / "key")
    with open_log(state / FOLDER, key, "site", "north") as audit:
        Node(
            NodeSettings("north", state, state / "paused"),
            cast(Fleet, fleet),
            NodeStatus(state),
            AuditTrail(audit, "north", state),
            threading.Event(),
        ).run()


def never(request: Request, waiting: Callable[[], None]) -> Reply:
    raise AssertionError("the worker was asked")


def leaves_amid_training(
    state: Path,
) -> Callable[[Request, Callable[[], None]], Reply]:
    """Be a worker that trains for ever; somebody types ``leave`` meanwhile."""

    def work(request: Request, waiting: Callable[[], None]) -> Reply:
        waiting()
        leave(state)
        while True:
            waiting()

    return work


def test_training_ends_with_a_refusal_and_the_node_stays_until_it_is_fetched(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = FakeFleet(question())
    run_node(state, fleet, monkeypatch, leaves_amid_training(state))
    (reply,) = fleet.sent
    assert reply.error.code == Code.LEFT
    assert read_status(state)["online"] is False
    assert not fleet.offline  # else Flower throws the answer away
    assert fleet.heard[-1] == "heartbeat"
    assert (state / "keepsake").read_text() == "local state"


def test_a_node_whose_answers_are_fetched_goes_offline_at_once(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = FakeFleet(question())
    monkeypatch.setattr(node_module, "_FETCHED_SECONDS", -1.0)
    run_node(state, fleet, monkeypatch, leaves_amid_training(state))
    assert fleet.offline


def test_a_question_that_waits_is_refused_unread(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = FakeFleet(question())
    looked = fleet.fetch

    def fetch(waiting: Waiting) -> Message:
        leave(state)
        return looked(waiting)

    monkeypatch.setattr(fleet, "fetch", fetch)
    run_node(state, fleet, monkeypatch, never)
    assert [reply.error.code for reply in fleet.sent] == [Code.LEFT]


def test_a_site_does_not_wait_for_a_coordinator_that_is_out_of_reach(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = FakeFleet(question(), reachable=False)
    run_node(state, fleet, monkeypatch, leaves_amid_training(state))
    assert not fleet.sent and read_status(state)["doing"] == "stopped"


def test_the_supervisor_ends_both_processes(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[str] = []

    def keep(self: supervisor._Child) -> None:
        leave(state)  # amid the work of both

    monkeypatch.setattr(supervisor._Child, "keep", keep)
    monkeypatch.setattr(supervisor._Child, "end", lambda self: ended.append(self.name))
    supervise(["--site", "north"], state, threading.Event())
    assert ended == ["node", "worker"]


def test_leaving_withdraws_the_approval_until_the_next_one(state: Path) -> None:
    leave(state)
    assert has_left(state) and last_approved(state) is None
    assert obstacle(state) == "it has left the federation"
    approve(state, PLAN)
    assert not has_left(state) and last_approved(state) == PLAN
