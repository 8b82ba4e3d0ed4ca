"""The coordinator's public door: hospitals reach the fleet paths, nobody anything else.

A SuperLink serves its fleet, control and runtime paths on one port, and the last two
without any authentication. So it listens on loopback, and this stands before it: TLS
outside, TLS to the SuperLink, and between them an exact list of requests. Those who
have nginx take ``nginx.conf``, which is the same door.

What a SuperNode makes of an answer decides which may be given (flwr 1.41,
``supercore/retry/http_retry.py`` and ``supernode/fleet_http_connection.py``):

===========  =======================================================================
502 503 504  tries again for ever, at most 20 s apart; its heartbeat goes on
401          ends itself
403          drops the message: the run is over
any other    loses the reply it was sending; asking for work or beating, it stays
             alive and deaf for good
===========  =======================================================================

Hence a failure is 502, 503 or 504, and so is what the SuperLink calls 500, such as a
database that was locked. A body over the limit is 413: trying again would block the
site for ever, losing one reply does not, and nothing but a reply is that large.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Iterable
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import httpx
import typer
import uvicorn
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from common.allocator import return_freed_memory
from server.deploy.certificates import CertificateError, read_certificate
from server.deploy.superlink import HOST, PORT

FLEET_PATHS = frozenset(
    f"/v1/fleet/{name}"
    for name in (
        "activate-node",
        "deactivate-node",
        "send-node-heartbeat",
        "pull-messages",
        "push-messages",
        "pull-object",
        "push-object",
        "confirm-message-received",
        "get-run",
        "get-fab",
    )
)
"""All of Flower's but those by which a node registers itself: the coordinator does."""

BODY_LIMIT = 32 * 2**20
"""Bytes; Flower cuts arrays into pieces of 5 MiB."""

PATIENCE = 60.0
"""Seconds that either side may be silent within a request; a SuperNode waits for 30."""

_NOT_PASSED_ON = {
    *(b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"upgrade"),
    *(b"transfer-encoding", b"proxy-authenticate", b"proxy-authorization", b"expect"),
    *(b"host", b"forwarded", b"x-forwarded-for", b"x-forwarded-proto"),
}
_TRIED_AGAIN = (502, 503, 504)
_WARN_BEFORE = timedelta(days=30)

_log = logging.getLogger("mammofed.door")


class DoorError(ValueError):
    """Why the door cannot be opened, and what to do about it."""


class _GoneError(Exception):
    """The client left before its request was whole."""


def fleet_door(superlink: httpx.AsyncClient, address: str) -> ASGIApp:
    """Build the application that passes on fleet requests and refuses all others.

    Bodies are streamed both ways. The server must hand over request targets as they
    were sent: uvicorn with h11 does, with httptools it does not.

    Parameters
    ----------
    superlink : client that verifies the SuperLink
    address : of the SuperLink, such as ``https://127.0.0.1:8000``
    """

    async def door(scope: Scope, receive: Receive, send: Send) -> None:
        status = _refusal(scope)
        if status:
            said = scope["method"], scope["raw_path"][:200], scope["client"]
            _log.warning("Refused with %d: %s %r from %s", status, *said)
            await Response(status_code=status)(scope, receive, send)
            return
        try:
            request = httpx.Request(
                "POST",
                address + scope["raw_path"].decode("ascii"),
                headers=_to_superlink(scope),
                content=_body(receive),
            )
            response = await superlink.send(request, stream=True)
        except _GoneError:
            return
        except (Exception, asyncio.CancelledError) as error:  # else it would be a 500
            status = _status_of(error)
            _log.error("Answered %d: %s %s", status, type(error).__name__, error)
            await Response(status_code=status)(scope, receive, send)
            return
        async with aclosing(response):
            await _answer(response, send)

    return door


def _refusal(scope: Scope) -> int:
    """Decide by the request as it was sent; 0 is to pass it on."""
    target = scope["raw_path"].decode("ascii")
    if scope["method"] != "POST" or scope["query_string"] or target not in FLEET_PATHS:
        return 404
    headers = dict(scope["headers"])
    if b"transfer-encoding" in headers or b"content-length" not in headers:
        return 411  # two lengths are how requests are smuggled; SuperNodes send one
    return 413 if int(headers[b"content-length"]) > BODY_LIMIT else 0


def _to_superlink(scope: Scope) -> list[tuple[bytes, bytes]]:
    """Keep what is signed and all else; name the hospital's address for the log."""
    address = str(scope["client"][0]).encode()
    return [*_passed_on(scope["headers"]), (b"x-forwarded-for", address)]


def _passed_on(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    return [pair for pair in headers if pair[0].lower() not in _NOT_PASSED_ON]


async def _body(receive: Receive) -> AsyncIterator[bytes]:
    more = True
    while more:
        event = await asyncio.wait_for(receive(), PATIENCE)
        if event["type"] == "http.disconnect":
            raise _GoneError
        yield event["body"]
        more = event["more_body"]


def _status_of(error: BaseException) -> int:
    if isinstance(error, httpx.TimeoutException | TimeoutError):
        return 504
    down = isinstance(error, httpx.ConnectError | asyncio.CancelledError)
    return 503 if down else 502


async def _answer(response: httpx.Response, send: Send) -> None:
    status = response.status_code
    if status == 429 or (status >= 500 and status not in _TRIED_AGAIN):
        _log.error("The SuperLink answered %d, passed on as 503", status)
        status = 503
    headers = _passed_on(response.headers.raw)
    await send({"type": "http.response.start", "status": status, "headers": headers})
    try:
        async for part in response.aiter_raw():
            await send({"type": "http.response.body", "body": part, "more_body": True})
    except httpx.HTTPError as error:  # the connection is cut, and the node asks again
        _log.error("The SuperLink broke off: %s %s", type(error).__name__, error)
        return
    await send({"type": "http.response.body"})


def open_door(
    listen: str, upstream: str, certificate: Path, key: Path, upstream_ca: Path
) -> None:
    """Serve until a signal.

    Raises
    ------
    DoorError
        If an address, a file or the port cannot be used.
    """
    return_freed_memory()
    outside, inside = _outside(certificate, key), _inside(upstream_ca)
    address = _superlink_address(upstream)
    listener = _listener(listen)
    host, port = listener.getsockname()[:2]
    print(f"Fleet requests to {host}:{port} are passed on to {address}", flush=True)
    asyncio.run(_serve(listener, address, outside, inside))


async def _serve(
    listener: socket.socket,
    address: str,
    outside: ssl.SSLContext,
    inside: ssl.SSLContext,
) -> None:
    async with httpx.AsyncClient(
        verify=inside,
        trust_env=False,  # no HTTPS_PROXY on the way to loopback
        timeout=httpx.Timeout(PATIENCE, connect=5.0),
        limits=httpx.Limits(keepalive_expiry=2.0),  # the SuperLink hangs up after 5
    ) as superlink:
        config = uvicorn.Config(
            fleet_door(superlink, address),
            http="h11",
            ws="none",
            lifespan="off",
            ssl_context_factory=lambda *_: outside,
            timeout_keep_alive=75,  # a SuperNode hangs up after 5, and must be first
            proxy_headers=False,
            server_header=False,
            date_header=False,
            access_log=False,
            log_config=None,
        )
        await uvicorn.Server(config).serve(sockets=[listener])


def _outside(certificate: Path, key: Path) -> ssl.SSLContext:
    try:
        end = read_certificate(certificate).not_valid_after_utc
    except CertificateError as error:
        raise DoorError(str(error)) from None
    renew = "python -m server.deploy.certificates renew FOLDER"
    if end <= datetime.now(UTC):
        raise DoorError(
            f"{certificate} ended on {end.date()}. Nodes that meet it stay deaf for "
            f"good, those that find no door try again. Renew it, then start: {renew}"
        )
    if end - datetime.now(UTC) < _WARN_BEFORE:
        _log.warning("%s ends on %s. Renew it: %s", certificate, f"{end.date()}", renew)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_3  # both ends are ours
    try:
        context.load_cert_chain(certificate, key, password="")
    except OSError as error:
        raise DoorError(
            f"{key} cannot be used as the key of {certificate}: {error.strerror}. Both "
            f"are written by one command, and this account must read them: {renew}"
        ) from None
    return context


def _inside(upstream_ca: Path) -> ssl.SSLContext:
    try:
        read_certificate(upstream_ca)
    except CertificateError as error:
        raise DoorError(str(error)) from None
    return ssl.create_default_context(cafile=str(upstream_ca))


def _superlink_address(upstream: str) -> str:
    try:
        url = httpx.URL(upstream)
    except httpx.InvalidURL:
        url = httpx.URL("")
    if url.scheme != "https" or not url.host or url.raw_path != b"/":
        raise DoorError(
            f"--upstream {upstream!r}: give https://, host and port of the SuperLink, "
            f"such as https://{HOST}:{PORT}"
        )
    return str(url).rstrip("/")


def _listener(listen: str) -> socket.socket:
    host, _, port = listen.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise DoorError(f"--listen {listen!r}: give address and port: 0.0.0.0:443")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, int(port)), family=family, backlog=128)
    except OSError as error:
        raise DoorError(
            f"Cannot listen on {listen}: {error.strerror}. Stop what uses the port, or "
            "choose another; ports below 1024 need a privilege that the unit file has."
        ) from None


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    cert: Annotated[Path, typer.Option(help="server.crt, which hospitals see")],
    key: Annotated[Path, typer.Option(help="server.key")],
    upstream_ca: Annotated[
        Path, typer.Option(help="ca.crt, which the SuperLink is verified by")
    ],
    listen: Annotated[
        str, typer.Option(metavar="ADDRESS:PORT", help="where hospitals connect")
    ] = "0.0.0.0:8443",
    upstream: Annotated[
        str, typer.Option(metavar="URL", help="the SuperLink, on loopback")
    ] = f"https://{HOST}:{PORT}",
) -> None:
    """Open the coordinator's public door: fleet requests pass, all else is 404.

    Start the SuperLink on loopback only: whoever reaches its own port can start runs.
    It may be started, stopped and restarted at any time; nodes wait.

    Example, with the files of python -m server.deploy.certificates create tls:

    python -m server.deploy.proxy --listen 0.0.0.0:443
    --cert tls/server.crt --key tls/server.key --upstream-ca tls/ca.crt
    """
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    try:
        open_door(listen, upstream, cert, key, upstream_ca)
    except DoorError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


if __name__ == "__main__":
    app()
