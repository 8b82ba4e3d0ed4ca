"""What a site's audit log tells of each message: what was asked, decided and sent.

A question is on the disk before anything is done about it, and an answer before it
leaves. Where the log cannot be written, nothing but a refusal leaves.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Message

from client.approval import approved_plan
from client.egress import Leaving
from common.audit import AuditLog
from common.audit_events import KINDS, PERMITTED, head_in, question, weights
from common.contract import TensorSpec, fingerprint
from common.packing import WireError
from common.plan import Plan
from common.records import REQUEST_FIELDS, Code, Refusal, decode

log = logging.getLogger(__name__)


class AuditTrail:
    """Writes down what a node hears and says, one message after the other.

    Parameters
    ----------
    audit : of the site, open for writing
    site : its name
    state : its folder of local state, where the approved plan is
    """

    def __init__(self, audit: AuditLog, site: str, state: Path) -> None:
        self._audit = audit
        self._site = site
        self._state = state
        self._question: dict[str, Any] = {}
        self._plan: Plan | None = None

    def started(self) -> None:
        """Note that the node comes up."""
        self._try({"did": "started"})

    def stopped(self) -> None:
        """Note that it ends in good order."""
        self._try({"did": "stopped"})

    def asked(self, message: Message) -> None:
        """Note a message that has arrived, whatever it holds.

        Raises
        ------
        Refusal
            With ``DISK`` if the log cannot be written.
        """
        self._question = {"kind": "unreadable", "site": self._site}
        head = ""
        shared: Mapping[str, np.ndarray] = {}
        kind = KINDS.get(message.metadata.message_type)
        if kind is not None and message.has_content():
            try:
                fields, shared = decode(message.content, REQUEST_FIELDS[kind])
                self._question |= question(kind, fields)
                head = head_in(fields)
            except WireError:
                pass  # the app refuses it, and says so
        received = {"did": "asked", "head": head} | weights(shared)
        self._append(self._question | received)

    def leaving(self, leaving: Leaving) -> str:
        """Note what is about to leave, and return the head that goes with it.

        Raises
        ------
        Refusal
            With ``DISK`` if the log cannot be written. A refusal may leave without an
            entry: it holds nothing.
        """
        permitted = leaving.decision == PERMITTED
        asked = {k: v for k, v in self._question.items() if k != "fingerprint"}
        event = asked | {
            "did": "answered",
            "decision": leaving.decision,
            "reference": leaving.reference,
            "fingerprint": self._fingerprint(leaving.shared),
            "epsilon": None,
            **weights(leaving.shared),
        }
        return self._append(event) if permitted else self._try(event)

    def _try(self, event: Mapping[str, Any]) -> str:
        with suppress(Refusal):
            self._append(event)
        return self._audit.head

    def _append(self, event: Mapping[str, Any]) -> str:
        try:
            return self._audit.append(event)
        except OSError as error:
            log.error("the audit log cannot be written: %s", error.strerror)
            raise Refusal(Code.DISK, "the audit log cannot be written") from None

    def _fingerprint(self, shared: Mapping[str, np.ndarray]) -> str | None:
        """Compute the contract's fingerprint from what leaves, not from what should."""
        round_, wanted = self._question.get("round"), self._question.get("plan")
        if not shared or not isinstance(round_, int):
            return None
        if self._plan is None or self._plan.hash != wanted:
            try:
                self._plan = approved_plan(self._state, str(wanted))
            except Refusal:  # somebody approved another one while this was computed
                return None
        stage = self._plan.stages[self._plan.stage_at(round_)]
        layout = [TensorSpec(k, a.shape, a.dtype.name) for k, a in shared.items()]
        transport = self._plan.aggregation.transport
        return fingerprint(layout, stage.name, stage.model.name, transport)
