"""The one place that builds a reply: an allow-list, and codes for errors.

Everything that leaves a site passes `pack_reply` or `pack_refusal`. What is not named
in ``common.records.REPLY_FIELDS`` raises instead of leaving; an error leaves as a
number and a random reference, its text stays in the site's log. Before anything leaves
it is noted in the audit log, whose head goes with it.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from flwr.app import Error, Message, Metadata, RecordDict

from common.audit_events import PERMITTED, write_reason
from common.packing import WireError, pack_tensors
from common.records import (
    ARRAYS,
    MESSAGE_TYPES,
    REPLY_FIELDS,
    REQUEST_FIELDS,
    Code,
    Reply,
    Request,
    encode,
)


@dataclass(frozen=True)
class Leaving:
    """What is about to leave.

    Attributes
    ----------
    decision : `PERMITTED`, or the name of a refusal's code
    reference : of a refusal; the site's log carries it beside the details
    shared : tensors
    """

    decision: str
    reference: str | None = None
    shared: Mapping[str, np.ndarray] = field(default_factory=dict)


Note = Callable[[Leaving], str]
"""Writes down what is about to leave, and returns the audit log's head."""


def unrecorded(leaving: Leaving) -> str:
    """Write nothing down, as in a simulation."""
    return ""


def _content_of(reply: Reply) -> RecordDict:
    """Pack what a reply may carry; its head is empty.

    Raises
    ------
    WireError
        If the reply holds a field outside its schema, or tensors where its kind
        carries none.
    """
    if reply.shared and not ARRAYS[reply.kind]:
        raise WireError(f"a {reply.kind} reply carries no tensors")
    fields = {**reply.fields, "head": ""}
    return encode(fields, pack_tensors(reply.shared), REPLY_FIELDS[reply.kind])


def pack_reply(reply: Reply, message: Message, note: Note) -> Message:
    """Build the reply to a message from what the session computed.

    Raises
    ------
    WireError
        As `_content_of`.
    Refusal
        As ``note`` raises where it cannot write: then nothing leaves.
    """
    content = _content_of(reply)
    content.config_records["fields"]["head"] = note(
        Leaving(PERMITTED, shared=reply.shared)
    )
    return Message(content, reply_to=message)


def pack_refusal(code: Code, message: Message, note: Note) -> tuple[Message, str]:
    """Build an error reply that says nothing but its code.

    Returns
    -------
    The reply, and a random reference that the site's log carries beside the details.
    """
    reference = secrets.token_hex(4)
    reason = write_reason(reference, note(Leaving(code.name, reference)))
    return Message(Error(int(code), reason), reply_to=message), reference


def rehearsed_question(request: Request) -> Message:
    """Build a request as a coordinator sends it, to reply to where none is.

    It goes nowhere. Numbers of run and nodes are made up.
    """
    metadata = Metadata(
        run_id=1,
        message_id="0" * 64,
        src_node_id=1,
        dst_node_id=2,
        reply_to_message_id="",
        group_id=str(request.fields.get("round", "")),
        created_at=time.time(),
        ttl=43_200.0,
        message_type=MESSAGE_TYPES[request.kind],
    )
    content = encode(
        {**request.fields, "head": ""},
        pack_tensors(request.shared),
        REQUEST_FIELDS[request.kind],
    )
    question: Message = Message(content, metadata=metadata)  # type: ignore[call-overload]
    return question
