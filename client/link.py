"""Between a site's node and its resident worker: a local socket, JSON, raw tensors.

The node has no torch and no model, the worker no network. The socket has mode 0600 and
lies in the site's state folder; both processes have that folder as working directory,
because the name of a socket may not be long. Hanging up is how the node stops the
worker: it ends within one training step.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load, save

from common.records import Code, Kind, Refusal, Reply, Request

SOCKET = "worker.sock"


class HungUpError(RuntimeError):
    """The other end closed the connection, or its process ended."""


class WorkerGoneError(RuntimeError):
    """There is no worker, or it ended before it answered."""


def listen() -> Listener:
    """Open the socket in the working directory; one that is left over is replaced."""
    Path(SOCKET).unlink(missing_ok=True)
    before = os.umask(0o177)
    try:
        return Listener(SOCKET, "AF_UNIX")
    finally:
        os.umask(before)


def receive_request(connection: Connection) -> Request:
    """Read what the node asks.

    Raises
    ------
    HungUpError
        If the node closes the connection.
    """
    head, tensors = _receive(connection)
    return Request(head["kind"], head["fields"], tensors)


def send_answer(connection: Connection, answer: Reply | Refusal) -> None:
    """Answer the node.

    Raises
    ------
    HungUpError
        If nobody listens any more.
    """
    if isinstance(answer, Refusal):
        _send(connection, {"code": int(answer.code), "text": str(answer)}, {})
    else:
        head = {"kind": answer.kind, "fields": dict(answer.fields)}
        _send(connection, head, answer.shared)


def has_hung_up(connection: Connection) -> bool:
    """Tell whether the node has closed the connection; it never says a second thing."""
    try:
        return connection.poll(0)
    except OSError:
        return True


def ask_worker(request: Request, waiting: Callable[[], None]) -> Reply:
    """Let the worker answer.

    Parameters
    ----------
    waiting : called about every second; what it raises hangs up, which stops the worker

    Raises
    ------
    Refusal
        As the worker refuses.
    WorkerGoneError
        If there is none, or it ended.
    """
    try:
        connection = Client(SOCKET, "AF_UNIX")
    except OSError as error:
        raise WorkerGoneError(f"no worker ({type(error).__name__})") from None
    with connection:
        try:
            head = {"kind": request.kind, "fields": dict(request.fields)}
            _send(connection, head, request.shared)
            while not connection.poll(1.0):
                waiting()
            answer, tensors = _receive(connection)
        except (HungUpError, OSError):
            raise WorkerGoneError("the worker ended before it answered") from None
    if "code" in answer:
        raise Refusal(Code(answer["code"]), answer["text"])
    kind: Kind = answer["kind"]
    return Reply(kind, answer["fields"], tensors)


def _send(
    connection: Connection, head: dict[str, Any], tensors: Mapping[str, np.ndarray]
) -> None:
    try:
        connection.send_bytes(json.dumps(head).encode())
        connection.send_bytes(
            save({name: np.ascontiguousarray(array) for name, array in tensors.items()})
        )
    except OSError:
        raise HungUpError from None


def _receive(connection: Connection) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    try:
        head = json.loads(connection.recv_bytes())
        tensors = load(connection.recv_bytes())
    except (EOFError, OSError):
        raise HungUpError from None
    return head, tensors
