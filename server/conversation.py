"""One question to several sites, and what became of it, whatever happens in between.

A site that loses a message, because it was killed or cut off, is asked again as soon as
it is back: its answer depends on the question, its disk and the plan alone, so it is
the answer that was lost. The first answer counts, later ones are nobody's.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import httpx
import numpy as np
from flwr.app import ArrayRecord, Message
from flwr.serverapp import Grid

from common.packing import WireError, pack_tensors
from common.records import (
    MESSAGE_TYPES,
    REMEDIES,
    REPLY_FIELDS,
    REQUEST_FIELDS,
    Code,
    Kind,
    Request,
    Value,
    decode,
    encode,
)

log = logging.getLogger(__name__)

ABSENCE_SECONDS = 90.0
"""How long a site may be offline amid a round: it restarts in half a minute."""

OFFLINE = "offline"

LEFT = f"{Code.LEFT.name}: {REMEDIES[Code.LEFT]}"
"""How a site's answer reads that takes part no more, whatever is asked."""

_PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0)
_POLL_SECONDS = 0.1
_NOBODY: Mapping[int, str] = MappingProxyType({})
_LOOK_SECONDS = 2.0
_LOST = frozenset({3, 4, 5})
"""Flower's codes for a message, a reply or a node that is not there any more."""


@dataclass(frozen=True)
class Answer:
    """What became of one request: the reply's content, or why there is none.

    Attributes
    ----------
    attempts : how often the site was asked
    """

    fields: Mapping[str, Value] | None
    shared: Mapping[str, np.ndarray]
    replied: bool
    reason: str | None
    attempts: int = 1


@dataclass
class _Question:
    """A request to one node, and the messages that carried it.

    Attributes
    ----------
    activated : when the node last came online, as of the last message
    lost : nobody will answer the last message
    absent : what is said of the node if it stays offline
    gone : since when the node is seen offline, in seconds of the monotonic clock
    """

    node: int
    request: Request
    messages: list[str] = field(default_factory=list)
    activated: str = ""
    lost: bool = False
    absent: str = OFFLINE
    gone: float | None = None


def ask(
    grid: Grid,
    requests: Mapping[int, Request],
    group: str,
    timeout: float,
    given_up: Mapping[int, str] = _NOBODY,
) -> dict[int, Answer]:
    """Ask each node once, and again where the question was lost.

    Parameters
    ----------
    requests : by node id
    group : Flower's group id, the round
    timeout : seconds; nodes that are silent by then have no reply
    given_up : nodes that were away already, and why: nobody waits for them again, but
        if they are online they are asked

    Returns
    -------
    An answer for every node of ``requests``.
    """
    if not requests:
        return {}
    deadline = time.monotonic() + timeout
    pack = _Packer(group, deadline)
    questions = {node: _Question(node, one) for node, one in requests.items()}
    pack.push(grid, list(questions.values()))
    answers: dict[int, Answer] = {}
    looked = time.monotonic()
    for node, why in given_up.items():
        questions[node].gone, questions[node].absent = -math.inf, why
    while True:
        _collect(grid, questions, answers)
        waiting = [one for node, one in questions.items() if node not in answers]
        now = time.monotonic()
        if not waiting or now >= deadline:
            break
        if now - looked > _LOOK_SECONDS:
            looked = now
            online = _online(grid)
            _give_up(waiting, online, answers)
            pack.push(grid, _to_repeat(waiting, online))
        time.sleep(_POLL_SECONDS)
    for question in waiting:
        silent = Answer(
            None, {}, False, "silent until the deadline", len(question.messages)
        )
        answers[question.node] = silent
    return {node: answers[node] for node in requests}


class _Packer:
    """Puts requests into messages; most carry the very same tensors."""

    def __init__(self, group: str, deadline: float) -> None:
        self._group, self._deadline = group, deadline
        self._packed: dict[int, ArrayRecord] = {}

    def push(self, grid: Grid, questions: list[_Question]) -> None:
        """Send each question, and note when its node came online."""
        if not questions:
            return
        activated = _online(grid)
        messages = [self._message(question) for question in questions]
        try:
            names: list[object] = list(grid.push_messages(messages))
        except httpx.HTTPError as error:
            log.warning("questions cannot be sent now (%s)", type(error).__name__)
            names = [None] * len(messages)
        for question, name in zip(questions, names, strict=True):
            question.messages.append(str(name or ""))
            question.activated = activated.get(question.node, "")
            question.lost = not name

    def _message(self, question: _Question) -> Message:
        request = question.request
        identity = id(request.shared)
        if identity not in self._packed:
            self._packed[identity] = pack_tensors(request.shared)
        schema = REQUEST_FIELDS[request.kind]
        fields = {**request.fields, "head": ""}  # see `server.audit_trail`
        content = encode(fields, self._packed[identity], schema)
        return Message(
            content,
            question.node,
            MESSAGE_TYPES[request.kind],
            group_id=self._group,
            ttl=max(1.0, self._deadline - time.monotonic()),
        )


def _collect(
    grid: Grid, questions: Mapping[int, _Question], answers: dict[int, Answer]
) -> None:
    """Take the answers that have come; one that gets lost on the way is asked for."""
    open_ = {
        name: question
        for node, question in questions.items()
        if node not in answers
        for name in question.messages
        if name
    }
    try:
        replies = list(grid.pull_messages(list(open_)))
    except httpx.HTTPError as error:
        log.warning("answers cannot be had now (%s)", type(error).__name__)
        for unanswered in open_.values():
            unanswered.lost = True
        return
    for reply in replies:
        question = open_.get(reply.metadata.reply_to_message_id)
        if question is None or question.node in answers:
            continue
        if reply.has_error() and reply.error.code in _LOST:
            question.messages.remove(reply.metadata.reply_to_message_id)
            question.messages.append("")  # counts as an attempt, is not asked for
            question.lost = True
        else:
            attempts = len(question.messages)
            answers[question.node] = _read(reply, question.request.kind, attempts)


def _give_up(
    waiting: list[_Question], online: Mapping[int, str], answers: dict[int, Answer]
) -> None:
    """Stop waiting for nodes that are offline for so long that they may stay so.

    Who had left is seen online for some seconds more, and then nobody waits at all.
    """
    now = time.monotonic()
    for question in waiting:
        if question.node in online:
            question.gone = None
        elif question.gone is None and question.absent != LEFT:
            question.gone = now
            log.warning("node %d is offline", question.node)
        elif question.gone is None or now - question.gone > ABSENCE_SECONDS:
            attempts = len(question.messages)
            answers[question.node] = Answer(None, {}, False, question.absent, attempts)


def _to_repeat(
    waiting: list[_Question], activated: Mapping[int, str]
) -> list[_Question]:
    """Find nodes that are online, but will not answer what they were asked."""
    again = [
        question
        for question in waiting
        if question.node in activated
        and (question.lost or activated[question.node] != question.activated)
    ]
    for question in again:
        log.warning("node %d lost a message; it is asked again", question.node)
    return again


def _online(grid: Grid) -> dict[int, str]:
    """Return when each node that is online came so; waits for a busy SuperLink."""
    for pause in _PAUSES:
        try:
            return {node.node_id: node.last_activated_at for node in grid.get_nodes()}
        except httpx.HTTPError as error:
            log.warning("sites cannot be seen now (%s)", type(error).__name__)
            time.sleep(pause)
    return {node.node_id: node.last_activated_at for node in grid.get_nodes()}


def _read(reply: Message, kind: Kind, attempts: int) -> Answer:
    if reply.has_error():
        return Answer(None, {}, True, _explain(reply.error.code), attempts)
    try:
        fields, shared = decode(reply.content, REPLY_FIELDS[kind])
    except WireError as error:
        return Answer(None, {}, True, f"unreadable reply: {error}", attempts)
    return Answer(fields, shared, True, None, attempts)


def _explain(code: int) -> str:
    try:
        known = Code(code)
    except ValueError:
        return f"Flower error {code}"
    return f"{known.name}: {REMEDIES[known]}"
