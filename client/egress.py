"""The one place that builds a reply: an allow-list, and codes for errors.

Everything that leaves a site passes `pack_reply` or `pack_refusal`. What is not named
in ``common.records.REPLY_FIELDS`` raises instead of leaving; an error leaves as a
number and a random reference, its text stays in the site's log.
"""

from __future__ import annotations

import secrets

from flwr.app import Error, Message, RecordDict

from common.records import (
    ARRAYS,
    REPLY_FIELDS,
    Code,
    Reply,
    WireError,
    encode,
    pack_tensors,
)


def content_of(reply: Reply) -> RecordDict:
    """Pack what a reply may carry.

    Raises
    ------
    WireError
        If the reply holds a field outside its schema, or tensors where its kind
        carries none.
    """
    if reply.shared and not ARRAYS[reply.kind]:
        raise WireError(f"a {reply.kind} reply carries no tensors")
    return encode(reply.fields, pack_tensors(reply.shared), REPLY_FIELDS[reply.kind])


def pack_reply(reply: Reply, message: Message) -> Message:
    """Build the reply to a message from what the session computed.

    Raises
    ------
    WireError
        As `content_of`.
    """
    return Message(content_of(reply), reply_to=message)


def pack_refusal(code: Code, message: Message) -> tuple[Message, str]:
    """Build an error reply that says nothing but its code.

    Returns
    -------
    The reply, and a random reference that the site's log carries beside the details.
    """
    reference = secrets.token_hex(4)
    return Message(
        Error(int(code), f"reference {reference}"), reply_to=message
    ), reference
