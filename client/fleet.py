"""The way to the coordinator: the SuperLink's Fleet API, as a site uses it.

With `client.fleet_connection` this is all at a site that touches what Flower does not
promise to keep; a test pins the version. It stands in place of Flower's own SuperNode,
which installs and imports the bundle that it is sent, starts a process for each
message, opens a second API on the machine, and stays behind as a zombie after one HTTP
500. A site asks, and is never asked: every connection goes out.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
from flwr.app import Message
from flwr.app.message import remove_content_from_message
from flwr.common.constant import HEARTBEAT_MIN_INTERVAL
from flwr.common.serde import fab_from_proto, message_to_proto, run_from_proto
from flwr.proto.fab_pb2 import GetFabRequest
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import ObjectTree
from flwr.proto.node_pb2 import Node
from flwr.proto.run_pb2 import GetRunRequest
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_protobuf_utils import (
    make_confirm_message_received_fn_protobuf,
    make_pull_object_fn_protobuf,
    make_push_object_fn_protobuf,
)
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectPullError,
    ObjectPushError,
    pull_and_inflate_object_from_tree,
    push_objects,
)
from flwr.supercore.task_identity import TaskIdentity

from client.fleet_connection import connect
from client.fleet_errors import (
    FleetError,
    LostMessageError,
    RunOverError,
    StillOnlineError,
    translated,
)

HEARTBEAT_SECONDS = float(HEARTBEAT_MIN_INTERVAL)
"""The shortest that Flower allows; after twice as long without one a site is absent."""

_AGAIN = 0.25
"""Seconds until what is not stored yet of a question is asked for again, doubling: it
is announced before all of it is there.
"""

_T = TypeVar("_T")


@dataclass(frozen=True)
class Bundle:
    """What came with a run: nothing of it is ever installed or imported.

    Attributes
    ----------
    content : Flower's app bundle, a zip archive
    overrides : run-config values that the coordinator's command line gave
    """

    content: bytes
    overrides: dict[str, Any]


@dataclass(frozen=True)
class Waiting:
    """A message that is announced, but whose content was not fetched yet."""

    run: int
    kind: str
    id: str
    _tree: ObjectTree


class Fleet:
    """One site's connection; safe to use from two threads.

    Parameters
    ----------
    address : host and port of the coordinator's public door
    root_certificates : file, PEM; only these authorities are trusted
    private_key : file of the site's key, OpenSSH format, NIST curve, no passphrase
    asking : entered for each request
    certificate : as of `client.fleet_connection.connect`
    """

    def __init__(
        self,
        address: str,
        root_certificates: Path,
        private_key: Path,
        asking: Callable[[], AbstractContextManager[None]] = nullcontext,
        certificate: Callable[[float], None] = lambda ends: None,
    ) -> None:
        self._asking = asking
        connection = connect(address, root_certificates, private_key, certificate)
        self._client, self._public = connection.client, connection.public_key
        self._node = Node()
        self._begun = ""

    @property
    def node_id(self) -> int:
        """Of this site's key, as the coordinator counts; 0 before `join`."""
        return int(self._node.node_id)

    def join(self, last_node_id: int = 0) -> int:
        """Come online, in place of a process of this site that ended without a word.

        Parameters
        ----------
        last_node_id : what `join` returned to that process, if it is known. With it
            one need not wait until the coordinator misses its heartbeats.

        Raises
        ------
        KeyRefusedError
            If the key is not registered.
        StillOnlineError
            If the process before is thought to be online, and its id is not known.
        FleetError
            If the coordinator cannot be reached.
        """
        request = ActivateNodeRequest(
            public_key=self._public, heartbeat_interval=HEARTBEAT_SECONDS
        )
        try:
            response = self._call(self._client.ActivateNode, request)
        except StillOnlineError:
            if not last_node_id:
                raise
            self._call(
                self._client.DeactivateNode, DeactivateNodeRequest(node_id=last_node_id)
            )
            response = self._call(self._client.ActivateNode, request)
        self._node = Node(node_id=response.node_id)
        return self.node_id

    def heartbeat(self) -> None:
        """Tell that this site is there; once in `HEARTBEAT_SECONDS` or more often.

        Raises
        ------
        FleetError
            If it did not arrive.
        """
        request = SendNodeHeartbeatRequest(
            node=self._node, heartbeat_interval=HEARTBEAT_SECONDS
        )
        if not self._call(self._client.SendNodeHeartbeat, request).success:
            raise StillOnlineError("the coordinator does not know that we are online")

    def next(self) -> Waiting | None:
        """Ask for a message; it is then ours, and nobody else is given it."""
        response = self._call(
            self._client.PullMessages, PullMessagesRequest(node=self._node)
        )
        if not response.messages_list:
            return None
        metadata = response.messages_list[0].metadata
        return Waiting(
            metadata.run_id,
            metadata.message_type,
            metadata.message_id,
            response.message_object_trees[0],
        )

    def bundle(self, run: int) -> Bundle:
        """Fetch what came with a run.

        Raises
        ------
        RunOverError
            If it is over.
        """
        found = run_from_proto(
            self._call(
                self._client.GetRun, GetRunRequest(node=self._node, run_id=run)
            ).run
        )
        request = GetFabRequest(node=self._node, hash_str=found.fab_hash, run_id=run)
        fab = fab_from_proto(self._call(self._client.GetFab, request).fab)
        return Bundle(fab.content, dict(found.override_config))

    def is_over(self, run: int) -> bool:
        """Tell whether a run was stopped or has ended."""
        try:
            self._call(self._client.GetRun, GetRunRequest(node=self._node, run_id=run))
        except RunOverError:
            return True
        return False

    def fetch(self, waiting: Waiting) -> Message:
        """Fetch a message whole, after which replies to it can be built.

        Raises
        ------
        LostMessageError
            If it cannot be had any more.
        RunOverError, FleetError
            If it cannot be had now.
        """
        TaskIdentity.task_id = TaskIdentity.run_id = waiting.run
        TaskIdentity.node_id = self.node_id
        pull = make_pull_object_fn_protobuf(
            lambda request: self._call(self._client.PullObject, request),
            self._node,
            waiting.run,
        )
        confirm = make_confirm_message_received_fn_protobuf(
            lambda request: self._call(self._client.ConfirmMessageReceived, request),
            self._node,
            waiting.run,
        )

        def try_to_confirm(name: str) -> None:
            with suppress(FleetError):  # else the message is kept there for longer
                confirm(name)

        try:
            message = pull_and_inflate_object_from_tree(
                waiting._tree,
                pull,
                try_to_confirm,
                return_type=Message,
                initial_backoff=_AGAIN,
            )
        except (ObjectPullError, ValueError) as error:
            raise LostMessageError(
                f"a message was lost ({type(error).__name__})"
            ) from None
        message.metadata.__dict__["_message_id"] = waiting.id
        return message

    def send(self, reply: Message, seconds: float) -> int:
        """Send a reply; may be called again if it failed.

        Flower does not say a second time what it still lacks of a reply that it knows:
        whatever is sent again is sent whole, and what is there already does no harm.

        Parameters
        ----------
        seconds : that the answer took, for Flower's own statistics

        Returns
        -------
        Bytes of content that were sent.

        Raises
        ------
        RunOverError, FleetError
            If it did not arrive.
        """
        reply.metadata.__dict__["_message_id"] = reply.object_id
        run = reply.metadata.run_id
        begun = self._begun == reply.metadata.message_id
        self._begun = reply.metadata.message_id
        with no_object_id_recompute():
            response = self._call(
                self._client.PushMessages,
                PushMessagesRequest(
                    node=self._node,
                    messages_list=[
                        message_to_proto(remove_content_from_message(reply))
                    ],
                    message_object_trees=[get_object_tree(reply)],
                    clientapp_runtime_list=[seconds],
                ),
            )
            objects = get_all_nested_objects(reply)
            sent = 0

            def push(request: Any) -> Any:
                nonlocal sent
                answer = self._call(self._client.PushObject, request)
                sent += len(request.object_content)
                return answer

            wanted, session = set(response.objects_to_push), response.session_id
            again = begun and not wanted
            if again:
                wanted, session = set(objects), ""  # of the session that lacks it
            put = make_push_object_fn_protobuf(push, self._node, run, session)

            def put_again(name: str, content: bytes) -> None:
                with suppress(ObjectPushError):
                    put(name, content)

            try:
                push_objects(
                    objects, put_again if again else put, object_ids_to_push=wanted
                )
            except ObjectPushError:
                raise FleetError("the reply was not stored") from None
        return sent

    def _call(self, method: Callable[[Any], _T], request: Any) -> _T:
        """Ask once; what goes wrong becomes one of our errors."""
        try:
            with self._asking():
                return method(request)
        except (httpx.HTTPError, ssl.SSLError, ValueError) as error:
            raise translated(error) from None

    def leave(self) -> None:
        """Go offline, so that nobody waits for a heartbeat.

        Raises
        ------
        FleetError
            If the coordinator was not told; it will notice.
        """
        self._call(
            self._client.DeactivateNode, DeactivateNodeRequest(node_id=self.node_id)
        )
