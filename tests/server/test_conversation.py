"""Questions that are lost are asked again; the first answer counts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import httpx
import pytest
from flwr.app import ArrayRecord, Error, Message
from flwr.proto.node_pb2 import NodeInfo
from flwr.supercore.task_identity import TaskIdentity

from common.records import REPLY_FIELDS, Request, encode
from server import conversation
from server.conversation import LEFT, OFFLINE, ask

HELLO = {
    name: {str: "x", int: 1, float: 1.0}[kind]
    for name, kind in REPLY_FIELDS["handshake"].items()
}
REQUEST = Request("handshake", {"plan": "p", "run": "r"})
NODE = 7


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation, "_POLL_SECONDS", 0.001)
    monkeypatch.setattr(conversation, "_LOOK_SECONDS", 0.005)
    monkeypatch.setattr(conversation, "ABSENCE_SECONDS", 0.05)
    monkeypatch.setattr(conversation, "_PAUSES", (0.001,) * 9)
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1


@dataclass
class ScriptedGrid:
    """A SuperLink with one node, which does what the test says at each look.

    Attributes
    ----------
    online : when the node came online; None while it is offline
    pushed : messages, in order
    script : called at each pull with how many pulls there were
    """

    script: Callable[[ScriptedGrid, int], None]
    online: str | None = "monday"
    pushed: list[Message] = field(default_factory=list)
    ready: list[Message] = field(default_factory=list)
    pulls: int = 0

    def get_nodes(self) -> Iterable[NodeInfo]:
        if self.online is None:
            return []
        return [NodeInfo(node_id=NODE, name="alpha", last_activated_at=self.online)]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        names = []
        for message in messages:
            names.append(f"message-{len(self.pushed)}")
            message.metadata.__dict__["_message_id"] = names[-1]
            self.pushed.append(message)
        return names

    def pull_messages(self, names: Iterable[str]) -> list[Message]:
        self.pulls += 1
        self.script(self, self.pulls)
        asked = set(names)
        out = [m for m in self.ready if m.metadata.reply_to_message_id in asked]
        self.ready = [m for m in self.ready if m not in out]
        return out

    def answer(self, number: int, site: str = "alpha") -> None:
        """Let the node answer one of the messages."""
        content = encode(
            HELLO | {"site": site}, ArrayRecord({}), REPLY_FIELDS["handshake"]
        )
        self.ready.append(Message(content, reply_to=self.pushed[number]))

    def lose(self, number: int, code: int) -> None:
        """Answer in the SuperLink's name that nobody will."""
        self.ready.append(Message(Error(code, ""), reply_to=self.pushed[number]))


def _ask(
    grid: ScriptedGrid, seconds: float = 5.0, given_up: dict[int, str] | None = None
):  # type: ignore[no-untyped-def]
    return ask(grid, {NODE: REQUEST}, "0", seconds, given_up or {})[NODE]  # type: ignore[arg-type]


def test_an_answer_is_read_at_once() -> None:
    grid = ScriptedGrid(lambda grid, pull: grid.answer(0))
    answer = _ask(grid)
    assert answer.fields is not None and answer.attempts == 1 and len(grid.pushed) == 1


@pytest.mark.parametrize("code", [3, 4, 5])
def test_a_lost_message_is_sent_again(code: int) -> None:
    def script(grid: ScriptedGrid, pull: int) -> None:
        if pull == 1:
            grid.lose(0, code)
        elif len(grid.pushed) == 2:
            grid.answer(1)

    answer = _ask(ScriptedGrid(script))
    assert answer.fields is not None and answer.attempts == 2


def test_a_node_that_came_online_again_is_asked_again() -> None:
    def script(grid: ScriptedGrid, pull: int) -> None:
        if pull == 3:
            grid.online = "tuesday"
        if len(grid.pushed) == 2:
            grid.answer(1)

    answer = _ask(ScriptedGrid(script))
    assert answer.fields is not None and answer.attempts == 2


def test_the_answer_to_the_first_question_counts_if_it_comes_late() -> None:
    def script(grid: ScriptedGrid, pull: int) -> None:
        if pull == 2:
            grid.online = "tuesday"
        if len(grid.pushed) == 2 and not grid.ready:
            grid.answer(0, "first")
            grid.answer(1, "second")

    answer = _ask(ScriptedGrid(script))
    assert answer.fields is not None and answer.fields["site"] == "first"


def test_duplicates_are_nobodys() -> None:
    def script(grid: ScriptedGrid, pull: int) -> None:
        if pull == 1:
            grid.answer(0, "once")
            grid.answer(0, "twice")

    answer = _ask(ScriptedGrid(script))
    assert answer.fields is not None and answer.fields["site"] == "once"


def test_an_offline_node_that_comes_back_is_asked_again() -> None:
    def script(grid: ScriptedGrid, pull: int) -> None:
        if pull == 1:
            grid.online = None
            grid.lose(0, 5)
        if pull == 8:
            grid.online = "tuesday"
        if len(grid.pushed) == 2:
            grid.answer(1)

    assert _ask(ScriptedGrid(script)).fields is not None


def test_a_node_that_stays_offline_is_absent_before_the_deadline() -> None:
    grid = ScriptedGrid(lambda grid, pull: None, online=None)
    answer = _ask(grid, seconds=60.0)
    assert answer.reason == OFFLINE and not answer.replied and grid.pulls > 3


def test_nobody_waits_for_a_node_that_was_given_up() -> None:
    grid = ScriptedGrid(lambda grid, pull: None, online=None)
    conversation.ABSENCE_SECONDS = 60.0
    gone = {NODE: LEFT}
    assert _ask(grid, seconds=60.0, given_up=gone).reason == LEFT  # it stays so


@pytest.mark.parametrize("given_up", [LEFT, OFFLINE])
def test_who_has_left_is_not_waited_for_once_its_heartbeat_has_run_out(
    given_up: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def script(grid: ScriptedGrid, pull: int) -> None:
        if pull == 9:
            monkeypatch.setattr(conversation, "ABSENCE_SECONDS", 60.0)
            grid.online = None

    answer = _ask(ScriptedGrid(script), seconds=0.5, given_up={NODE: given_up})
    waited = "silent until the deadline"
    assert answer.reason == (LEFT if given_up == LEFT else waited)


def test_a_node_that_was_given_up_is_heard_if_it_is_back() -> None:
    grid = ScriptedGrid(lambda grid, pull: grid.answer(0) if pull == 9 else None)
    assert _ask(grid, given_up={NODE: OFFLINE}).fields is not None


def test_a_silent_node_has_no_reply_at_the_deadline() -> None:
    answer = _ask(ScriptedGrid(lambda grid, pull: None), seconds=0.05)
    assert answer.reason == "silent until the deadline" and answer.fields is None


def test_a_superlink_that_fails_for_a_while_is_asked_again() -> None:
    """As Flower does with its database locked: HTTP 500, whatever is asked."""

    class Busy(ScriptedGrid):
        busy = 3

        def _fail(self) -> None:
            if self.busy:
                self.busy -= 1
                raise httpx.ReadError("busy")

        def get_nodes(self) -> Iterable[NodeInfo]:
            self._fail()
            return super().get_nodes()

        def push_messages(self, messages: Iterable[Message]) -> list[str]:
            self._fail()
            return super().push_messages(messages)

        def pull_messages(self, names: Iterable[str]) -> list[Message]:
            self._fail()
            return super().pull_messages(names)

    def script(grid: ScriptedGrid, pull: int) -> None:
        if grid.pushed and not grid.ready:
            grid.answer(len(grid.pushed) - 1)

    for failures in range(1, 8):
        grid = Busy(script)
        grid.busy = failures
        assert _ask(grid).fields is not None, failures


def test_a_refusal_is_an_answer() -> None:
    grid = ScriptedGrid(lambda grid, pull: grid.lose(0, 105))
    answer = _ask(grid)
    assert answer.replied and (answer.reason or "").startswith("SHARED_HASH")
    assert len(grid.pushed) == 1
