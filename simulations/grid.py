"""Flower's Grid in one process: messages reach the ClientApp by a call.

The one place that touches what Flower does not promise to keep: task identity, the run
object, and the private field of a message's id. A test pins the version.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from flwr.app import Context, Error, Message, RecordDict
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

_RUN_ID = 1


class Answer(Protocol):
    """How a ClientApp is called."""

    def __call__(self, *, message: Message, context: Context) -> Message:
        """Answer a message."""
        ...


class InProcessGrid(Grid):
    """Calls one ClientApp for every site in turn.

    Parameters
    ----------
    app : of all sites; which one it plays, the node configuration says
    sites : names; node ids are 1, 2, ... in this order
    on_reply : told after each site has answered, for progress
    """

    def __init__(
        self,
        app: Answer,
        sites: Sequence[str],
        on_reply: Callable[[str], None] = lambda site: None,
    ) -> None:
        TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = _RUN_ID
        self._app = app
        self._sites = dict(enumerate(sites, start=1))
        self._on_reply = on_reply
        self._replies: dict[str, Message] = {}
        self._run = Run.create_empty(run_id=_RUN_ID)
        self._contexts = {
            node: Context(
                run_id=_RUN_ID,
                node_id=node,
                node_config={"site": site},
                state=RecordDict(),
                run_config={},
            )
            for node, site in self._sites.items()
        }

    def set_run(self, run: Run) -> None:
        """Take the run object that Flower passes."""
        self._run = run

    @property
    def run(self) -> Run:
        """Run information."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Create a message to one site."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """List all nodes; every virtual hospital is always there."""
        return list(self._sites)

    def get_nodes(self) -> Iterable[NodeInfo]:
        """List all nodes with the names of their sites."""
        return [NodeInfo(node_id=node, name=s) for node, s in self._sites.items()]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Let each site answer, one after the other; the replies wait to be pulled.

        An exception of the app becomes an error reply with Flower's code 2 and no
        text, as a deployment would deliver it.
        """
        names = []
        for message in messages:
            _set_id(message)
            node = message.metadata.dst_node_id
            try:
                reply = self._app(message=message, context=self._contexts[node])
            except Exception as error:
                reply = Message(Error(2, type(error).__name__), reply_to=message)
            _set_id(reply)
            self._replies[message.metadata.message_id] = reply
            names.append(message.metadata.message_id)
            self._on_reply(self._sites[node])
        return names

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Hand out the replies to these messages, each once."""
        wanted = [name for name in message_ids if name in self._replies]
        return [self._replies.pop(name) for name in wanted]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Push, then pull; ``timeout`` has nothing to stop."""
        return self.pull_messages(self.push_messages(messages))


def _set_id(message: Message) -> None:
    """Give a message its id, as the SuperLink would: there is no public setter."""
    message.metadata.__dict__["_message_id"] = uuid.uuid4().hex
