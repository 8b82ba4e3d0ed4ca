"""What the coordinator's audit log tells: what was asked of whom, answered, averaged.

A question is on the disk before it is sent, an average before it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Message, RecordDict
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from common.audit import AuditLog
from common.audit_events import (
    KINDS,
    PERMITTED,
    head_in,
    name_of,
    question,
    read_reason,
    weights,
)
from common.keys import make_key, read_key
from common.packing import WireError
from common.records import REPLY_FIELDS, REQUEST_FIELDS, Kind, decode
from server.checkpoints import RunState
from server.pulling import Pull

KEY_FILE = "audit.key"


def coordinator_key(folder: Path) -> ec.EllipticCurvePrivateKey:
    """Return the key that the coordinator signs its logs with; made on first use.

    Parameters
    ----------
    folder : of a run; the key lies beside it, one for all runs there
    """
    path = folder.parent / KEY_FILE
    return read_key(path) if path.exists() else make_key(path)


def note_rounds(audit: AuditLog) -> Callable[[RunState], None]:
    """Note of each round whose update counted, or why not, and the average's hash."""

    def note(state: RunState) -> None:
        judged = {
            entry["site"]: "counted"
            if entry["counted"]
            else str(entry["reason"]).partition(":")[0]  # what follows may be counts
            for entry in state.ledger
            if entry["round"] == state.round
        }
        told = {"run": state.run, "round": state.round, "weights": state.shared_hash}
        audit.append({"did": "averaged", "sites": judged} | told)

    return note


class AuditedGrid(Grid):
    """Notes all that goes through a grid; puts the log's head into every question.

    Parameters
    ----------
    grid : Flower's
    audit : open for writing
    pull : how replies are pulled; default: as the grid does
    """

    def __init__(self, grid: Grid, audit: AuditLog, pull: Pull | None = None) -> None:
        self._grid = grid
        self._pull = pull or grid.pull_messages
        self._audit = audit
        self._names: dict[int, str] = {}
        self._open: dict[str, dict[str, Any]] = {}

    def set_run(self, run: Run) -> None:
        """Pass on the run object."""
        self._grid.set_run(run)

    @property
    def run(self) -> Run:
        """Run information."""
        return self._grid.run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Create a message to one site."""
        return self._grid.create_message(
            content, message_type, dst_node_id, group_id, ttl
        )

    def get_node_ids(self) -> Iterable[int]:
        """List all nodes."""
        return self._grid.get_node_ids()

    def get_nodes(self) -> Iterable[NodeInfo]:
        """List all nodes, and learn their names."""
        nodes = list(self._grid.get_nodes())
        self._names |= {node.node_id: node.name for node in nodes}
        return nodes

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Note every question, then send all."""
        asked = list(messages)
        if {message.metadata.dst_node_id for message in asked} - set(self._names):
            self.get_nodes()
        hashed: dict[int, dict[str, Any]] = {}
        noted = [self._note_question(message, hashed) for message in asked]
        names = [str(name) for name in self._grid.push_messages(asked)]
        self._open |= dict(zip(names, noted, strict=True))
        return names

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Note every answer that is there."""
        replies = list(self._pull(message_ids))
        for reply in replies:
            asked = self._open.pop(reply.metadata.reply_to_message_id, None)
            if asked is not None:
                self._audit.append(asked | _told(reply, asked["kind"]))
        return replies

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Refuse: it would go past the log, and nothing of ours asks in this way."""
        raise NotImplementedError("push and pull messages")

    def _note_question(
        self, message: Message, hashed: dict[int, dict[str, Any]]
    ) -> dict[str, Any]:
        """Note a question; ``hashed`` spares those that carry the same tensors."""
        kind = KINDS[message.metadata.message_type]
        fields, shared = decode(message.content, REQUEST_FIELDS[kind])
        record = id(message.content["shared"])
        if record not in hashed:
            hashed[record] = weights(shared)
        node = message.metadata.dst_node_id
        asked = question(kind, fields) | {"site": self._names.get(node) or str(node)}
        event = asked | {"did": "asked"} | hashed[record]
        message.content.config_records["fields"]["head"] = self._audit.append(event)
        asked.pop("fingerprint", None)
        return asked


def _told(reply: Message, kind: Kind) -> dict[str, Any]:
    """Tell what an answer amounts to; Flower's own errors are no site's words."""
    if reply.has_error():
        decision = name_of(reply.error.code)
        if decision is None:
            return {"did": "lost", "flower": reply.error.code}
        reference, head = read_reason(reply.error.reason or "")
        return _answered(decision, reference, head) | weights({})
    try:
        fields, shared = decode(reply.content, REPLY_FIELDS[kind])
    except WireError:
        return _answered("unreadable", None, "")
    return _answered(PERMITTED, None, head_in(fields)) | weights(shared)


def _answered(decision: str, reference: str | None, head: str) -> dict[str, Any]:
    return {
        "did": "answered",
        "decision": decision,
        "reference": reference,
        "head": head,
    }
