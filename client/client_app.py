"""The hospital's Flower ClientApp: unpack, ask the session, let egress pack.

Thin on purpose, and free of torch: in a deployment Flower starts a fresh process for
every message, and the session lives in a resident one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Protocol

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from client.egress import Note, pack_refusal, pack_reply, unrecorded
from common.packing import WireError
from common.records import REQUEST_FIELDS, Code, Kind, Refusal, Reply, Request
from common.records import decode as decode_record

log = logging.getLogger(__name__)


class Session(Protocol):
    """The one interface behind which models and pixels live."""

    def answer(self, request: Request) -> Reply:
        """Do what the coordinator asks, or raise `Refusal`.

        The reply's tensors may be the session's own memory: pack them before asking
        again.
        """
        ...


Connect = Callable[[Mapping[str, object]], Session]
"""Finds the session of the site that a node configuration names."""


def make_client_app(connect: Connect, note: Note = unrecorded) -> ClientApp:
    """Build the app of every site; which site it is, the node's configuration says.

    Parameters
    ----------
    connect : called once per message with ``context.node_config``
    note : told what is about to leave; returns the head of the site's audit log

    Returns
    -------
    ClientApp that answers handshake, train, close and offer messages.
    """
    app = ClientApp()

    @app.query("handshake")
    def handshake(message: Message, context: Context) -> Message:
        return _answer("handshake", message, context, connect, note)

    @app.train("round")
    def train(message: Message, context: Context) -> Message:
        return _answer("train", message, context, connect, note)

    @app.evaluate("close")
    def close(message: Message, context: Context) -> Message:
        return _answer("close", message, context, connect, note)

    @app.query("shared")
    def offer(message: Message, context: Context) -> Message:
        return _answer("offer", message, context, connect, note)

    return app


def _answer(
    kind: Kind, message: Message, context: Context, connect: Connect, note: Note
) -> Message:
    try:
        fields, shared = decode_record(message.content, REQUEST_FIELDS[kind])
        reply = connect(context.node_config).answer(Request(kind, fields, shared))
        return pack_reply(reply, message, note)
    except Refusal as refusal:
        return _refuse(refusal.code, message, refusal, note)
    except WireError as error:
        return _refuse(Code.REQUEST, message, error, note)
    except Exception as error:  # the text may hold PHI: it must not reach Flower
        return _refuse(Code.INTERNAL, message, error, note)


def _refuse(code: Code, message: Message, error: Exception, note: Note) -> Message:
    reply, reference = pack_refusal(code, message, note)
    expected = isinstance(error, Refusal)
    log.warning(
        "refused with %s, reference %s: %s",
        code.name,
        reference,
        error if expected else type(error).__name__,
        exc_info=None if expected else error,
    )
    return reply
