"""The thin app: free of torch, and a failure leaves as a number."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from flwr.app import Message, RecordDict

from client.client_app import Session, make_client_app
from common.records import MESSAGE_TYPES, Code, Refusal, Reply, Request
from server.conversation import ask
from simulations.grid import InProcessGrid

ROOT = Path(__file__).parents[2]
SECRET = "/archive/DOE^JANE/19400101"


class Failing:
    def __init__(self, error: Exception) -> None:
        self._error = error

    def answer(self, request: Request) -> Reply:
        raise self._error


def grid_of(session: Session) -> InProcessGrid:
    def connect(node_config: Mapping[str, object]) -> Session:
        return session

    return InProcessGrid(make_client_app(connect), ["alpha"])


def test_the_app_and_egress_load_no_torch() -> None:
    code = (
        "import client.client_app, client.egress, client.policy, common.plan, sys; "
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60)
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ValueError(SECRET), Code.INTERNAL),
        (FileNotFoundError(2, "missing", SECRET), Code.INTERNAL),
        (Refusal(Code.CACHE, SECRET), Code.CACHE),
    ],
)
def test_the_text_of_a_failure_stays_at_the_site(error: Exception, code: Code) -> None:
    grid = grid_of(Failing(error))
    request = Request("handshake", {"plan": "p", "run": "r"})
    sent: list[Message] = []
    original = grid.pull_messages

    def remember(names):  # type: ignore[no-untyped-def]
        sent.extend(original(names))
        return sent

    grid.pull_messages = remember  # type: ignore[method-assign]
    answer = ask(grid, {1: request}, "0", 1.0)[1]
    assert answer.fields is None
    assert answer.replied
    assert code.name in (answer.reason or "")
    assert sent[0].error.code == code
    assert "DOE" not in repr(sent[0].error.reason) + repr(sent[0])


def test_a_message_that_does_not_fit_the_schema_is_refused() -> None:
    grid = grid_of(Failing(AssertionError("the session must not be asked")))
    message = Message(RecordDict(), 1, MESSAGE_TYPES["train"])
    reply = next(iter(grid.send_and_receive([message])))
    assert reply.error.code == Code.REQUEST


def test_a_reply_outside_the_allow_list_becomes_an_error() -> None:
    class Leaking:
        def answer(self, request: Request) -> Reply:
            return Reply("handshake", {"site": "alpha", "patient_name": "DOE^JANE"})

    request = Request("handshake", {"plan": "p", "run": "r"})
    answer = ask(grid_of(Leaking()), {1: request}, "0", 1.0)[1]
    assert answer.fields is None
    assert Code.REQUEST.name in (answer.reason or "")
