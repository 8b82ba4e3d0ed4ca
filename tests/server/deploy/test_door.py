"""A real SuperLink behind both doors: what reaches it, and what does not."""

from __future__ import annotations

import json
import re
import shutil
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.proto import node_pb2
from flwr.proto.fleet_pb2 import ActivateNodeRequest, PushMessagesRequest
from flwr.proto.message_pb2 import PushObjectRequest
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from server.deploy.certificates import TlsFiles, create
from server.deploy.proxy import BODY_LIMIT, FLEET_PATHS
from server.deploy.superlink import flower_environment
from tests.server.deploy.running import (
    PATIENCE,
    TOMORROW,
    Running,
    flwr,
    free_port,
    key_pair,
    proxy,
    raw,
    request,
    running,
    superlink,
    supernode,
    trusting,
)

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
FLEET = "POST /v1/fleet/pull-messages HTTP/1.1"
NO_NODE = b"Invalid SuperNode authentication"  # what only the SuperLink says

REFUSED = [
    "GET / HTTP/1.1",
    "GET /docs HTTP/1.1",
    "GET /openapi.json HTTP/1.1",
    "GET /health HTTP/1.1",
    "POST /v1/control/list-nodes HTTP/1.1",
    "POST /v1/control/start-run HTTP/1.1",
    "POST /v1/runtime/acquire-task HTTP/1.1",
    "POST /v1/runtime/push-object HTTP/1.1",
    "POST /v1/fleet/register-node HTTP/1.1",
    "POST /v1/fleet/unregister-node HTTP/1.1",
    "POST /v1/fleet/ HTTP/1.1",
    "POST /v1/fleet HTTP/1.1",
    "GET /v1/fleet/pull-messages HTTP/1.1",
    "PUT /v1/fleet/pull-messages HTTP/1.1",
    "POST /v1/fleet/pull-messages/ HTTP/1.1",
    "POST /v1/fleet/pull-messages?a=b HTTP/1.1",
    "POST /v1/fleet/pull-messages;a HTTP/1.1",
    "POST /v1/fleet/pull-messages%20 HTTP/1.1",
    "POST //v1/fleet/pull-messages HTTP/1.1",
    "POST /v1//fleet/pull-messages HTTP/1.1",
    "POST //v1/control/list-nodes HTTP/1.1",
    "POST /v1/fleet//pull-messages HTTP/1.1",
    "POST /v1/fleet/./pull-messages HTTP/1.1",
    "POST /v1/fleet/x/../pull-messages HTTP/1.1",
    "POST /v1/fleet/../control/list-nodes HTTP/1.1",
    "POST /v1/fleet/pull-messages/../../control/list-nodes HTTP/1.1",
    "POST /v1/fleet/%2e%2e/control/list-nodes HTTP/1.1",
    "POST /v1/fleet/%2E%2e/control/list-nodes HTTP/1.1",
    "POST /v1/fleet/..%2fcontrol%2flist-nodes HTTP/1.1",
    "POST /v1/fleet/..%5ccontrol%5clist-nodes HTTP/1.1",
    "POST /v1/fleet/..\\control\\list-nodes HTTP/1.1",
    "POST /v1%2ffleet%2fpull-messages HTTP/1.1",
    "POST /v1/fleet/pull%2dmessages HTTP/1.1",
    "POST /%76%31/control/list-nodes HTTP/1.1",
    "POST /V1/fleet/pull-messages HTTP/1.1",
    "POST /v1/fleet/PULL-MESSAGES HTTP/1.1",
    "POST /V1/CONTROL/list-nodes HTTP/1.1",
    "POST https://127.0.0.1/v1/fleet/pull-messages HTTP/1.1",
    "POST https://127.0.0.1/v1/control/list-nodes HTTP/1.1",
    "POST http://127.0.0.1:8000/v1/runtime/acquire-task HTTP/1.1",
    "POST /v1/fleet/pull-messages#/../../control HTTP/1.1",
]
MALFORMED = [
    "POST /v1/fleet/pull-messages%00 HTTP/1.1",
    "POST /../v1/control/list-nodes HTTP/1.1",
    "POST v1/control/list-nodes HTTP/1.1",
    "CONNECT 127.0.0.1:8000 HTTP/1.1",
    "OPTIONS * HTTP/1.1",
    "POST /v1/fleet/pull-messages x HTTP/1.1",
]


MAKE = Callable[[Path, TlsFiles, int], AbstractContextManager[int]]


@dataclass(frozen=True)
class Coordinator:
    """What a consortium's machine runs: a SuperLink on loopback, and its doors."""

    folder: Path
    tls: TlsFiles
    port: int
    superlink: Running
    doors: dict[MAKE, int]

    def said(self) -> int:
        return len(self.superlink.said())

    def passed(self, since: int) -> list[str]:
        """List requests that came to the SuperLink after so many characters of log.

        It is silent on nodes' requests that succeed, and on its own processes'.
        """
        told = self.superlink.said()[since:]
        return re.findall(r'"([A-Z]+ \S+) HTTP/1\.1" \d{3}', told)


@dataclass(frozen=True)
class Node:
    """A registered one, and its key."""

    identifier: int
    key: ec.EllipticCurvePrivateKey

    def push_nothing(self, port: int, ca: Path) -> None:
        """Send replies as the node does, but none: the SuperLink stumbles over that."""
        signs = NodeAuthHttpInterceptor(self.key, self.key.public_key())
        with FleetHttpClient.from_server_address(
            f"127.0.0.1:{port}", False, ca.read_bytes(), [signs]
        ) as client:
            node = node_pb2.Node(node_id=self.identifier)
            client.PushMessages(PushMessagesRequest(node=node))


@contextmanager
def nginx(folder: Path, tls: TlsFiles, superlink_port: int) -> Iterator[int]:
    """Run nginx with our file, on a free port and with other folders."""
    port = free_port()
    ours = Path(__file__).parents[3] / "server" / "deploy" / "nginx.conf"
    text = ours.read_text()
    for old, new in {
        "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
        "127.0.0.1:8000": f"127.0.0.1:{superlink_port}",
        "/etc/mammofed/tls": str(tls.key.parent),
    }.items():
        assert old in text
        text = text.replace(old, new)
    kinds = "client_body", "proxy", "fastcgi", "uwsgi", "scgi"
    temporary = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
    (folder / "nginx.conf").write_text(
        f"daemon off; pid {folder}/nginx.pid; events {{}} "
        f"http {{ access_log off; {temporary}\n{text} }}"
    )
    command = [str(NGINX), "-p", str(folder), "-c", str(folder / "nginx.conf")]
    with running([*command, "-e", "stderr"], folder / "nginx.log") as process:
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except ConnectionRefusedError:
                assert process.process.poll() is None, process.said()
        yield port


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Coordinator]:
    folder = tmp_path_factory.mktemp("coordinator")
    tls = create(folder / "tls", [], TOMORROW)
    port = free_port()
    with ExitStack() as stack:
        server = stack.enter_context(superlink(folder, tls, port))
        makes = [proxy, nginx] if NGINX else [proxy]
        doors = {make: stack.enter_context(make(folder, tls, port)) for make in makes}
        yield Coordinator(folder, tls, port, server, doors)


DOORS = {"proxy": proxy, "nginx": nginx}


@pytest.fixture(params=list(DOORS))
def make(request: pytest.FixtureRequest) -> MAKE:
    if request.param == "nginx" and not NGINX:
        pytest.skip("nginx is not installed; the same list is tested with the proxy")
    return DOORS[request.param]


@pytest.fixture
def door(make: MAKE, coordinator: Coordinator) -> int:
    return coordinator.doors[make]


@pytest.fixture(scope="module")
def north(coordinator: Coordinator) -> Node:
    """Register a hospital's key, as its coordinator does."""
    key = key_pair(coordinator.folder, "north")
    home = coordinator.folder / "coordinator"
    (home / "config.toml").write_text(
        f'[superlink.consortium]\naddress = "127.0.0.1:{coordinator.port}"\n'
        f'root-certificates = "{coordinator.tls.authority}"\n'
    )
    words = str(coordinator.folder / "north.pub"), "consortium", "--name", "north"
    said = flwr(home, "supernode", "register", *words, "--format", "json")
    return Node(int(json.loads(said)["node-id"]), key)


def test_a_fleet_request_reaches_the_superlink(
    coordinator: Coordinator, door: int
) -> None:
    for path in sorted(FLEET_PATHS):
        before = coordinator.said()
        line = f"POST {path} HTTP/1.1"
        status, body = raw(door, coordinator.tls.authority, request(line))
        assert (status, NO_NODE in body) == (401, True)
        assert coordinator.passed(before) == [f"POST {path}"]


def test_the_superlink_itself_would_serve_what_the_door_refuses(
    coordinator: Coordinator,
) -> None:
    line = "POST /v1/control/list-nodes HTTP/1.1"
    ca = coordinator.tls.authority
    assert raw(coordinator.port, ca, request("GET /docs HTTP/1.1"))[0] == 200
    assert raw(coordinator.port, ca, request(line))[0] == 200


@pytest.mark.parametrize("line", REFUSED)
def test_anything_else_is_not_found_and_does_not_reach_it(
    coordinator: Coordinator, door: int, line: str
) -> None:
    before = coordinator.said()
    status, body = raw(door, coordinator.tls.authority, request(line))
    assert status == 404
    assert NO_NODE not in body
    assert coordinator.passed(before) == []


@pytest.mark.parametrize("line", MALFORMED)
def test_what_is_no_request_is_refused(
    coordinator: Coordinator, door: int, line: str
) -> None:
    before = coordinator.said()
    status, _ = raw(door, coordinator.tls.authority, request(line))
    assert status in {400, 404, 405}
    assert coordinator.passed(before) == []


def test_no_second_request_hides_in_the_first(
    coordinator: Coordinator, door: int
) -> None:
    before = coordinator.said()
    hidden = request("GET /docs HTTP/1.1")
    both = request(FLEET, "Transfer-Encoding: chunked", length=len(hidden) + 5)
    status, _ = raw(door, coordinator.tls.authority, both, b"0\r\n\r\n", hidden)
    assert status in {400, 411}
    assert coordinator.passed(before) == []


def test_plain_http_is_refused(coordinator: Coordinator, door: int) -> None:
    before = coordinator.said()
    with socket.create_connection(("127.0.0.1", door), 10) as plain:
        plain.sendall(request(FLEET))
        said = plain.recv(1000)
    assert said == b"" or said.startswith(b"HTTP/1.1 400 ")
    assert coordinator.passed(before) == []


def test_old_tls_is_refused(coordinator: Coordinator, door: int) -> None:
    assert handshake(door, trusting(coordinator.tls.authority)) == "TLSv1.3"
    old = trusting(coordinator.tls.authority)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError):
        handshake(door, old)


def handshake(port: int, context: ssl.SSLContext) -> str | None:
    with (
        socket.create_connection(("127.0.0.1", port), 10) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as encrypted,
    ):
        return encrypted.version()


def activate(door: int, ca: Path) -> None:
    """Knock as a SuperNode does, with its own client."""
    with FleetHttpClient.from_server_address(
        f"127.0.0.1:{door}", False, ca.read_bytes(), []
    ) as node:
        node.ActivateNode(ActivateNodeRequest())


def test_a_node_refuses_a_door_of_another_authority(
    coordinator: Coordinator, door: int, tmp_path: Path
) -> None:
    other = create(tmp_path, [], TOMORROW)
    with pytest.raises(httpx.ConnectError, match="unable to get local issuer"):
        activate(door, other.authority)
    with pytest.raises(httpx.HTTPStatusError, match="401"):
        activate(door, coordinator.tls.authority)


def test_a_body_of_20_megabytes_passes(coordinator: Coordinator, door: int) -> None:
    """Whole: the SuperLink parses a message before it asks who sent it."""
    body = PushObjectRequest(object_content=bytes(20_000_000)).SerializeToString()
    line = "POST /v1/fleet/push-object HTTP/1.1"
    head = request(line, length=len(body))
    status, said = raw(door, coordinator.tls.authority, head, body)
    assert (status, NO_NODE in said) == (401, True)
    spoilt = b"\xff" + body[1:]
    assert raw(door, coordinator.tls.authority, head, spoilt)[0] == 400


def test_a_body_over_the_limit_is_refused(coordinator: Coordinator, door: int) -> None:
    before = coordinator.said()
    head = request(FLEET, length=BODY_LIMIT + 1)
    status, _ = raw(door, coordinator.tls.authority, head, bytes(BODY_LIMIT + 1))
    assert status == 413
    assert coordinator.passed(before) == []


def test_without_a_superlink_a_node_is_told_to_try_again(
    coordinator: Coordinator, make: MAKE, tmp_path: Path
) -> None:
    with make(tmp_path, coordinator.tls, free_port()) as door:
        status, _ = raw(door, coordinator.tls.authority, request(FLEET))
    assert status in {502, 503}


def test_a_superlink_of_another_authority_is_not_talked_to(
    coordinator: Coordinator, make: MAKE, tmp_path: Path
) -> None:
    other = create(tmp_path, [], TOMORROW)
    before = coordinator.said()
    with make(tmp_path, other, coordinator.port) as door:
        assert raw(door, other.authority, request(FLEET))[0] in {502, 503}
    assert coordinator.passed(before) == []


def test_what_the_superlink_calls_500_a_node_may_try_again(
    coordinator: Coordinator, door: int, north: Node
) -> None:
    ca = coordinator.tls.authority
    with pytest.raises(httpx.HTTPStatusError, match="500"):
        north.push_nothing(coordinator.port, ca)
    with pytest.raises(httpx.HTTPStatusError, match="503"):
        north.push_nothing(door, ca)


def test_nodes_pass_the_door_with_a_registered_key_only(
    coordinator: Coordinator, north: Node
) -> None:
    folder, ca = coordinator.folder, coordinator.tls.authority
    door = coordinator.doors[proxy]
    key_pair(folder, "stranger")
    nodes = [
        running(
            supernode(folder / f"{name}.key", ca, door),
            folder / f"{name}.log",
            flower_environment(folder / name),
        )
        for name in ("north", "stranger")
    ]
    with nodes[0] as known, nodes[1] as stranger:
        stranger.wait_for("Exit Code: 305")
        assert stranger.process.wait(PATIENCE) == 1
        known.wait_for(f"SuperNode ID: {north.identifier}")
        home = folder / "coordinator"
        told = flwr(home, "supernode", "list", "consortium", "--format", "json")
    listed = [(node["node-id"], node["status"]) for node in json.loads(told)["nodes"]]
    assert listed == [(str(north.identifier), "online")]
