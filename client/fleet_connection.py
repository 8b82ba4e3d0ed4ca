"""A site's HTTPS connection: whom it trusts, and how it shows who it is.

Like `client.fleet` it touches what Flower does not promise to keep.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from flwr.common.constant import SYSTEM_TIME_TOLERANCE, TIMESTAMP_TOLERANCE
from flwr.proto.fleet_pb2 import ActivateNodeRequest
from flwr.proto.message_pb2 import PushObjectRequest
from flwr.supercore.error import ApiErrorCode
from flwr.supercore.interceptors.http.runtime_version import (
    RuntimeVersionHttpInterceptor,
)
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from client.fleet_errors import FleetError, flower_code, translated
from common.keys import read_key

CLOCK_AHEAD = float(SYSTEM_TIME_TOLERANCE)
CLOCK_BEHIND = float(SYSTEM_TIME_TOLERANCE + TIMESTAMP_TOLERANCE)
"""Seconds that a site's clock may differ: a signature bears the time of its making."""

_WHETHER_KNOWN = {
    int(ApiErrorCode.FLEET_INVALID_HEARTBEAT_INTERVAL): True,
    int(ApiErrorCode.FLEET_NODE_ACTIVATION_FAILED): False,
}


@dataclass(frozen=True)
class Connection:
    """A way to the coordinator; nothing is sent before something is asked.

    Attributes
    ----------
    client : Flower's client of the Fleet API
    public_key : of this site, as Flower writes it
    """

    client: FleetHttpClient
    public_key: bytes


def connect(
    address: str,
    root_certificates: Path,
    private_key: Path,
    certificate: Callable[[float], None] = lambda ends: None,
) -> Connection:
    """Prepare a connection.

    Parameters
    ----------
    address : host and port of the coordinator's public door
    root_certificates : file, PEM; only these authorities are trusted
    private_key : file of the site's key, OpenSSH format, NIST curve, no passphrase
    certificate : told with each answer until when the coordinator's is valid, in
        seconds since 1970

    Raises
    ------
    KeyFileError
        If the key is of another kind.
    """
    key = read_key(private_key)
    client = FleetHttpClient.from_server_address(
        address,
        False,
        root_certificates.read_bytes(),
        interceptors=[
            RuntimeVersionHttpInterceptor(component_name="SuperNode"),
            NodeAuthHttpInterceptor(key, key.public_key()),
            _CertificateWatch(certificate),
        ],
    )
    return Connection(client, public_key_to_bytes(key.public_key()))


def is_registered(connection: Connection, padding: int = 0) -> bool:
    """Ask whether the coordinator knows our key, which changes nothing there.

    Parameters
    ----------
    padding : bytes that make the question longer, to time it; nobody reads them

    Raises
    ------
    KeyRefusedError
        If the clocks differ too much.
    FleetError
        If the coordinator cannot be reached.
    """
    # The key is looked up first; heartbeats at no distance are refused after that.
    request = ActivateNodeRequest(
        public_key=connection.public_key, heartbeat_interval=0.0
    )
    longer = PushObjectRequest(object_content=os.urandom(padding))
    request.MergeFromString(longer.SerializeToString())  # a field it does not know
    try:
        connection.client.ActivateNode(request)
    except httpx.HTTPStatusError as error:
        code = flower_code(error.response)
        if code not in _WHETHER_KNOWN:
            raise translated(error) from None
        return _WHETHER_KNOWN[code]
    except (httpx.HTTPError, ssl.SSLError, ValueError) as error:
        raise translated(error) from None
    raise FleetError("the coordinator let us come online without heartbeats")


class _CertificateWatch:
    """Looks with each answer at the certificate of whoever gave it."""

    def __init__(self, tell: Callable[[float], None]) -> None:
        self._tell = tell

    def intercept(
        self, context: Any, call_next: Callable[[Any], httpx.Response]
    ) -> httpx.Response:
        response = call_next(context)
        ends = certificate_end(response)
        if ends is not None:
            self._tell(ends)
        return response


def certificate_end(response: httpx.Response) -> float | None:
    """Return until when the certificate that a server was verified by is valid.

    Returns
    -------
    Seconds since 1970; None where the connection has been closed since.
    """
    stream = response.extensions.get("network_stream")
    try:
        encrypted: Any = stream and stream.get_extra_info("ssl_object")
        return float(ssl.cert_time_to_seconds(encrypted.getpeercert()["notAfter"]))
    except (AttributeError, TypeError, KeyError, OSError, ValueError):
        return None
