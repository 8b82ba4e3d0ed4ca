"""A site's node: asks the coordinator for messages and lets the worker answer them.

It holds no model, reads no image and imports no torch. What goes wrong on the way is
tried again until the run is over; only the end of the process ends the node.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from flwr.app import Context, Message, RecordDict

from client.approval import has_left
from client.audit_trail import AuditTrail
from client.bundle import require_permitted
from client.client_app import make_client_app
from client.egress import pack_refusal
from client.fleet import HEARTBEAT_SECONDS, Fleet, Waiting
from client.fleet_errors import (
    FleetError,
    KeyRefusedError,
    LostMessageError,
    RunOverError,
    StillOnlineError,
)
from client.link import WorkerGoneError, ask_worker
from client.node_status import HEARTBEAT_THREAD, NodeStatus
from common.records import MESSAGE_TYPES, Code, Refusal, Reply, Request

log = logging.getLogger(__name__)

_T = TypeVar("_T")

POLL_SECONDS = 1.0
_POLL_SECONDS_AMID_A_RUN = 0.2
_AMID_A_RUN = 20.0
"""The next round's question follows soon after an answer; later one may look less."""
_BACKOFF = (1.0, 2.0, 5.0, 10.0, 20.0)
_WORKER_TRIES = 3
_WORKER_STARTS = 60.0
"""Seconds until a worker that was started again listens: it imports torch."""
_RUN_CHECK = 5.0
_FETCHED_SECONDS = 10.0
"""Until when the coordinator has surely fetched an answer: it looks all the time."""


class Stopping(Exception):  # noqa: N818  an order, not a fault
    """The node is to end."""


@dataclass(frozen=True)
class NodeSettings:
    """What a node needs to know.

    Attributes
    ----------
    site : name, as in the plan's roster
    state : folder of local state; the working directory
    paused : file whose presence makes the site refuse work
    """

    site: str
    state: Path
    paused: Path


class Node:
    """One site's conversation with the coordinator.

    Parameters
    ----------
    fleet : connection, not joined yet
    status : what `mammo-client status` and the watchdog read
    trail : the site's audit log
    stop : set to end the node
    """

    def __init__(
        self,
        settings: NodeSettings,
        fleet: Fleet,
        status: NodeStatus,
        trail: AuditTrail,
        stop: threading.Event,
    ) -> None:
        self._settings = settings
        self._fleet = fleet
        self._status = status
        self._trail = trail
        self._stop = stop
        self._runs: dict[int, Refusal | None] = {}
        self._run = 0
        self._checked = 0.0
        self._answered = -math.inf
        self._app = make_client_app(
            lambda node_config: _Worker(self._while_waiting), trail.leaving
        )

    def run(self) -> None:
        """Join, then answer messages until told to stop; leaves in good order."""
        self._trail.started()
        try:
            self._insist(self._join)
            threading.Thread(
                target=self._beat, name=HEARTBEAT_THREAD, daemon=True
            ).start()
            while not self._stop.is_set() and not self._has_left():
                waiting = self._next()
                if waiting is None:
                    self._stop.wait(self._pause())
                else:
                    self._handle(waiting)
        except Stopping:
            pass
        finally:
            self._leave()

    def _pause(self) -> float:
        """Tell how long until the next look for a message, in seconds."""
        amid = time.monotonic() - self._answered < _AMID_A_RUN
        return _POLL_SECONDS_AMID_A_RUN if amid else POLL_SECONDS

    def _next(self) -> Waiting | None:
        """Ask for a message; if the answer got lost, a message may have with it."""
        try:
            waiting = self._fleet.next()
        except FleetError as error:
            log.warning("%s; coming online again", error)
            self._status.trouble(str(error))
            self._insist(self._join)
            return None
        self._status.contact()
        return waiting

    def _join(self) -> None:
        """Come online, also if we are: then the coordinator asks again."""

        self._fleet.join(self._status.last_node_id)
        self._status.joined(self._fleet.node_id)
        log.info("online as node %d", self._fleet.node_id)

    def _leave(self) -> None:
        """Go offline: by falling silent where the last answer may not be fetched yet.

        Flower 1.41 throws an answer away whose node goes offline before that.
        """
        self._status.left()
        self._trail.stopped()
        if not self._fleet.node_id:
            return
        fetched = time.monotonic() - self._answered > _FETCHED_SECONDS
        try:
            if fetched:
                self._fleet.leave()
            else:
                self._fleet.heartbeat()  # the last
        except FleetError as error:
            log.warning("the coordinator was not told that we leave: %s", error)

    def _beat(self) -> None:
        """Tell that we are here; a beat that fails is followed by another soon."""
        pause = 0.0
        while not self._stop.wait(pause):
            self._status.tick()
            try:
                self._fleet.heartbeat()
                self._status.beat()
                pause = HEARTBEAT_SECONDS * 0.6
            except FleetError as error:
                self._status.trouble(str(error))
                pause = 2.0
            self._status.tick(pause)

    def _handle(self, waiting: Waiting) -> None:
        """Answer one message; a run that ends meanwhile takes its message with it."""
        began = time.monotonic()
        try:
            message = self._insist(lambda: self._fleet.fetch(waiting))
            self._run, self._checked = waiting.run, time.monotonic()
            self._status.working(waiting.kind)
            reply = self._answer(waiting, message)
            seconds = time.monotonic() - began
            sent = self._insist(lambda: self._fleet.send(reply, seconds))
            self._answered = time.monotonic()
            self._status.answered(waiting.kind, not reply.has_error())
            log.info("answered %s in %.1f s, %d bytes", waiting.kind, seconds, sent)
        except RunOverError:
            log.warning("%s was dropped: its run is over", waiting.kind)
        except LostMessageError as error:
            log.warning("%s; coming online again", error)
            self._insist(self._join)
        finally:
            self._status.idle()

    def _answer(self, waiting: Waiting, message: Message) -> Message:
        try:
            self._trail.asked(message)
            self._permit(waiting)
        except Refusal as refusal:
            reply, reference = pack_refusal(refusal.code, message, self._trail.leaving)
            log.warning(
                "refused with %s, reference %s: %s",
                refusal.code.name,
                reference,
                refusal,
            )
            return reply
        context = Context(
            run_id=waiting.run,
            node_id=self._fleet.node_id,
            node_config={"site": self._settings.site},
            state=RecordDict(),
            run_config={},
        )
        return self._app(message=message, context=context)

    def _permit(self, waiting: Waiting) -> None:
        """Refuse before anything is read: the task, then what came with the run."""
        if waiting.kind not in MESSAGE_TYPES.values():
            raise Refusal(Code.REQUEST, "the message asks for another task")
        if self._has_left():
            raise Refusal(Code.LEFT, "the site has left the federation")
        if self._settings.paused.exists():
            raise Refusal(Code.STOPPED, "the site is paused")
        if waiting.run not in self._runs:
            bundle = self._insist(lambda: self._fleet.bundle(waiting.run))
            try:
                require_permitted(bundle.content, bundle.overrides)
                self._runs[waiting.run] = None
            except Refusal as refusal:
                self._runs[waiting.run] = refusal
        if (refused := self._runs[waiting.run]) is not None:
            raise refused

    def _while_waiting(self) -> None:
        """Look around once a second while the worker works.

        Raises
        ------
        Refusal, RunOverError
            Where the worker is to stop.
        """
        self._status.tick()
        if self._has_left():  # first: who leaves ends too
            raise Refusal(Code.LEFT, "the site has left the federation")
        if self._stop.is_set() or self._settings.paused.exists():
            raise Refusal(Code.STOPPED, "the site was told to stop")
        now = time.monotonic()
        if now - self._checked > _RUN_CHECK:
            self._checked = now
            if self._is_over():
                raise Refusal(Code.STOPPED, "the run is over")

    def _has_left(self) -> bool:
        return has_left(self._settings.state)

    def _is_over(self) -> bool:
        try:
            return self._fleet.is_over(self._run)
        except FleetError:  # out of reach: what is being computed will be wanted
            return False

    def _insist(self, step: Callable[[], _T]) -> _T:
        """Try a step until it works; only the end of the run or of the node ends it.

        A site that leaves does not wait for a coordinator that is out of reach.
        """
        tries = 0
        while True:
            try:
                return step()
            except (RunOverError, LostMessageError):
                raise
            except FleetError as error:
                pause = _BACKOFF[min(tries, len(_BACKOFF) - 1)]
                tries += 1
                self._status.trouble(str(error))
                if isinstance(error, KeyRefusedError | StillOnlineError) or tries < 3:
                    log.warning("%s; trying again in %g s", error, pause)
                self._status.tick(pause)
                if self._has_left() or self._stop.wait(pause):
                    raise Stopping from error


class _Worker:
    """The session behind the ClientApp: the resident worker, which may be restarted."""

    def __init__(self, waiting: Callable[[], None]) -> None:
        self._waiting = waiting

    def answer(self, request: Request) -> Reply:
        """Ask the worker; one that ends is asked again once it is back.

        The answer to a request depends on the site's disk and the plan alone, so the
        second one is the first one.
        """
        deaths = 0
        deadline = time.monotonic() + _WORKER_STARTS
        while True:
            try:
                return ask_worker(request, self._waiting)
            except WorkerGoneError as error:
                began = str(error).startswith("the worker ended")
                deaths += began
                if began:
                    deadline = time.monotonic() + _WORKER_STARTS
                    log.warning("the worker ended while it answered")
                if deaths == _WORKER_TRIES or time.monotonic() > deadline:
                    raise Refusal(Code.WORKER, str(error)) from None
                self._waiting()
                time.sleep(0.5)


def connect_worker(node_config: Mapping[str, object]) -> _Worker:
    """Find the session for a ClientApp that runs without a node, see `flower_app`."""
    return _Worker(lambda: None)


def enter(state: Path) -> None:
    """Make the state folder the working directory, where the socket is."""
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.chdir(state)
