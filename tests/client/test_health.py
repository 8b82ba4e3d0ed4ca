"""When a site is at work, and that a gRPC client is told the same."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from client.health import PAUSED_FILE, WORKER_LOCK, obstacle
from client.health_probe import health_probe
from client.node_status import STATUS_FILE, NodeStatus, read_status
from client.site import SiteError
from common.lock import held
from tests.server.deploy.running import PATIENCE, free_port

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
def working(tmp_path: Path) -> Iterator[Path]:
    """The state folder of a site whose node and worker are this very process."""
    status = NodeStatus(tmp_path)
    status.joined(7)
    status.beat()
    status.idle()
    with held(tmp_path / WORKER_LOCK):
        yield tmp_path


def changed(state: Path, **facts: Any) -> None:
    file = state / STATUS_FILE
    file.write_text(json.dumps(json.loads(file.read_text()) | facts))


def ask(port: int, service: str = "") -> int:
    options = [("grpc.enable_http_proxy", 0)]
    with grpc.insecure_channel(f"127.0.0.1:{port}", options) as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        stub = health_pb2_grpc.HealthStub(channel)
        return int(stub.Check(request, timeout=PATIENCE, wait_for_ready=True).status)


def test_a_site_is_at_work(working: Path) -> None:
    assert obstacle(working) is None


def ago(seconds: float) -> float:
    return time.time() - seconds


def threads(state: Path, **facts: list[float]) -> None:
    """Change what a node's threads have said: when, and for how long."""
    before = read_status(state)["threads"]
    changed(state, threads=before | facts)


OBSTACLES: dict[str, tuple[Callable[[Path], object], str]] = {
    "paused": (lambda state: (state / PAUSED_FILE).touch(), "it is paused"),
    "never started": (
        lambda state: (state / STATUS_FILE).unlink(),
        "the node does not run",
    ),
    "dead": (lambda state: changed(state, pid=2**22 + 1), "the node does not run"),
    "silent": (lambda state: threads(state, node=[ago(16), 0.0]), "silent"),
    "no longer beating": (
        lambda state: threads(state, heartbeat=[ago(22), 6.0]),
        "the node is silent",
    ),
    "clock set back": (
        lambda state: threads(state, node=[ago(-3600), 60.0]),
        "the node is silent",
    ),
    "left": (lambda state: changed(state, online=False), "is not connected"),
    "unheard": (
        lambda state: changed(state, heartbeat=ago(61)),
        "heartbeats do not arrive",
    ),
    "never heard": (
        lambda state: changed(state, heartbeat=None),
        "heartbeats do not arrive",
    ),
    "garbled": (
        lambda state: (state / STATUS_FILE).write_text("{"),
        "the node does not run",
    ),
}


@pytest.mark.parametrize("kind", OBSTACLES)
def test_anything_that_is_amiss_is_named(working: Path, kind: str) -> None:
    change, said = OBSTACLES[kind]
    change(working)
    assert said in (obstacle(working) or "at work")


@pytest.mark.parametrize(
    ("node", "beating", "beat"),
    [
        ([13.0, 0.0], [5.0, 6.0], 10.0),
        ([70.0, 60.0], [5.0, 6.0], 10.0),  # a request may take a minute
        ([5.0, 0.0], [17.0, 6.0], 58.0),
    ],
)
def test_a_little_late_is_not_amiss(
    working: Path, node: list[float], beating: list[float], beat: float
) -> None:
    changed(working, heartbeat=ago(beat))
    threads(
        working, node=[ago(node[0]), node[1]], heartbeat=[ago(beating[0]), beating[1]]
    )
    assert obstacle(working) is None


def test_a_worker_that_is_gone_leaves_its_file_and_is_not_there(
    tmp_path: Path,
) -> None:
    status = NodeStatus(tmp_path)
    status.joined(7)
    status.beat()
    status.idle()
    assert obstacle(tmp_path) == "the worker does not run"
    with held(tmp_path / WORKER_LOCK):
        assert obstacle(tmp_path) is None
    assert (tmp_path / WORKER_LOCK).exists()
    assert obstacle(tmp_path) == "the worker does not run"


def test_a_grpc_client_is_told_the_truth_of_the_moment(working: Path) -> None:
    port = free_port()
    with health_probe(working, port):
        assert ask(port) == SERVING
        (working / PAUSED_FILE).touch()
        assert ask(port) == NOT_SERVING
        (working / PAUSED_FILE).unlink()
        assert ask(port) == SERVING


def test_another_service_is_unknown_and_the_probe_goes_on(working: Path) -> None:
    port = free_port()
    with health_probe(working, port):
        with pytest.raises(grpc.RpcError) as caught:
            ask(port, "patients")
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND
        assert ask(port) == SERVING


def test_two_sites_never_share_a_port(working: Path) -> None:
    port = free_port()
    with ExitStack() as stack:
        stack.enter_context(health_probe(working, port))
        with pytest.raises(SiteError, match=f"port {port} is in use"):
            stack.enter_context(health_probe(working, port))
    with health_probe(working, port):  # it was given back
        assert ask(port) == SERVING
