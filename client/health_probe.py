"""What monitoring asks: the truth of `client.health` by gRPC's own health service.

``grpc_health_probe -addr 127.0.0.1:PORT`` and the probes of Kubernetes speak it. It
listens on loopback only, and says SERVING or NOT_SERVING and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from client.health import obstacle
from client.site import SiteError


@contextmanager
def health_probe(state: Path, port: int) -> Iterator[None]:
    """Answer probes while the block runs; each answer is computed when it is asked for.

    Parameters
    ----------
    state : the site's folder of local state
    port : on loopback

    Raises
    ------
    SiteError
        If the port is in use.
    """
    # Without the option two sites of one machine would share a port without a word.
    server = grpc.server(ThreadPoolExecutor(2), options=[("grpc.so_reuseport", 0)])
    health_pb2_grpc.add_HealthServicer_to_server(_Servicer(state), server)
    try:
        server.add_insecure_port(f"127.0.0.1:{port}")
    except RuntimeError:
        raise SiteError(
            f"health_port: port {port} is in use. Name another one in the settings."
        ) from None
    server.start()
    try:
        yield
    finally:
        server.stop(None)


class _Servicer(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """Answers ``Check``; ``Watch`` is left unimplemented, as the protocol permits."""

    def __init__(self, state: Path) -> None:
        self._state = state

    def Check(  # noqa: N802  the name is the protocol's
        self,
        request: health_pb2.HealthCheckRequest,
        context: grpc.ServicerContext,
    ) -> health_pb2.HealthCheckResponse:
        if request.service:
            context.abort(grpc.StatusCode.NOT_FOUND, "there is one service: the site")
        answer = health_pb2.HealthCheckResponse
        well = obstacle(self._state) is None
        return answer(status=answer.SERVING if well else answer.NOT_SERVING)
