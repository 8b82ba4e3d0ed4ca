"""The way to the coordinator: proxy, name, certificate, answer, clock.

One request without a signature is sent, as the node would send it; the coordinator
refuses it without looking at it, which is all there is to know.
"""

from __future__ import annotations

import socket
import ssl
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from pathlib import Path

import httpx

from client.fleet_connection import CLOCK_AHEAD, CLOCK_BEHIND, certificate_end
from client.preflight.finding import Finding
from client.site import Coordinator
from common.progress import duration

_NAMES = ("proxy", "DNS", "certificate", "coordinator", "clock")
_PATH = "/v1/fleet/get-run"
_SECONDS = 15.0
_DAY = 86_400.0
_WARN_DAYS = 30
_UNEASY_SECONDS = 2.0  # the header has whole seconds
_TRY_AGAIN = (502, 503, 504)
_EXPIRED, _NOT_YET = 10, 9  # of OpenSSL's X509_V_ERR_
_OTHER_NAME, _OTHER_ADDRESS = 62, 64


@dataclass(frozen=True)
class _Heard:
    """What came back.

    Attributes
    ----------
    ahead : seconds that this machine's clock is ahead of the answer's header ``Date``;
        None where there is none
    days_left : of the certificate; None where it could not be seen
    """

    status: int
    ahead: float | None
    days_left: float | None


class _SilenceError(Exception):
    """No answer; the finding says at which step it ended."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.said)
        self.finding = finding


def network(coordinator: Coordinator) -> Iterator[Finding]:
    """Go the way to the coordinator, as far as it leads."""
    host = coordinator.address.rpartition(":")[0].strip("[]")
    diverted = _proxy_variable(host)
    yield _proxy(host, diverted)
    yield _name(host, diverted)
    try:
        heard = _knock(coordinator, host)
    except _SilenceError as silence:
        name = silence.finding.name
        for other in _NAMES[2:]:
            unknown = Finding(other, "unknown", "not known without an answer")
            yield silence.finding if other == name else unknown
        return
    yield _certificate(coordinator, host, heard)
    yield _answer(coordinator, heard)
    yield clock(heard.ahead)


def _proxy_variable(host: str) -> str:
    """Name the variable that leads requests to a host through a proxy, or none."""
    proxies = urllib.request.getproxies()
    if urllib.request.proxy_bypass(host):
        return ""
    found = [kind for kind in ("https", "all") if proxies.get(kind)]
    return f"{found[0]}_proxy".upper() if found else ""


def _proxy(host: str, variable: str) -> Finding:
    if not variable:
        return Finding("proxy", "ok", "none: the connection is direct")
    return Finding(
        "proxy",
        "warning",
        f"the variable {variable} leads the connection through a proxy",
        f"If that is not wanted, add {host} to NO_PROXY where the node is started.",
    )


def _name(host: str, diverted: str) -> Finding:
    try:
        return Finding("DNS", "ok", f"{ip_address(host)} is an address already")
    except ValueError:
        pass
    if diverted:
        return Finding("DNS", "unknown", "the proxy looks it up")
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        remedy = "Compare the address in the settings, then ask for it in your DNS."
        return Finding("DNS", "problem", f"{host} is not found", remedy)
    addresses = sorted({str(entry[4][0]) for entry in found})
    return Finding("DNS", "ok", f"{host} is {', '.join(addresses)}")


def _knock(coordinator: Coordinator, host: str) -> _Heard:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        authority = coordinator.certificates.read_bytes().decode("ascii")
        context.load_verify_locations(cadata=authority)
    except (OSError, ValueError):
        raise _SilenceError(_no_authority(coordinator.certificates)) from None
    before = time.time()
    try:
        with (
            httpx.Client(verify=context, timeout=_SECONDS) as client,
            client.stream(
                "POST",
                f"https://{coordinator.address}{_PATH}",
                headers={"content-type": "application/protobuf"},
                content=b"",
            ) as response,
        ):
            now = (before + time.time()) / 2
            date, ends = _date(response), certificate_end(response)
            return _Heard(
                response.status_code, date and now - date, ends and (ends - now) / _DAY
            )
    except (httpx.HTTPError, httpx.InvalidURL, ssl.SSLError) as error:
        raise _SilenceError(_why(error, coordinator, host)) from None
    except (ImportError, ValueError) as error:  # of a proxy's address
        said = f"the proxy's address cannot be used ({type(error).__name__})"
        remedy = "Correct the variable, in the form http://HOST:PORT."
        raise _SilenceError(Finding("coordinator", "problem", said, remedy)) from None


def _date(response: httpx.Response) -> float | None:
    """Read the header ``Date``: whole seconds, of which this is the middle."""
    try:
        return parsedate_to_datetime(response.headers["date"]).timestamp() + 0.5
    except (KeyError, ValueError):
        return None


def _no_authority(file: Path) -> Finding:
    return Finding(
        "certificate",
        "problem",
        f"{file} holds no certificate of an authority",
        "Ask the coordinator for ca.crt, and put it there.",
    )


def _why(error: Exception, coordinator: Coordinator, host: str) -> Finding:
    """Say what ended the way to the coordinator, and at which step."""
    if isinstance(wrong := _cause(error, ssl.SSLCertVerificationError), ssl.SSLError):
        return _distrusted(getattr(wrong, "verify_code", 0), coordinator, host)
    if isinstance(wrong := _cause(error, ssl.SSLError), ssl.SSLError):
        said = f"whoever answers does not speak TLS with us ({wrong.reason})"
        remedy = "Compare host and port of the address with the coordinator's."
        return Finding("certificate", "problem", said, remedy)
    remedy = f"Ask your network's people to let HTTPS out to {coordinator.address}."
    said = "the connection broke"
    if isinstance(error, httpx.ProxyError):
        said = "the proxy lets nobody through to it"
    elif isinstance(error, httpx.TimeoutException):
        said = f"no answer within {_SECONDS:.0f} s"
    elif _cause(error, ConnectionRefusedError):
        said = "nobody listens there"
        remedy = "Compare host and port of the address; ask whether the door is open."
    elif _cause(error, socket.gaierror):
        said = "its name is not found"
        remedy = "Compare the address in the settings with the coordinator's."
    return Finding("coordinator", "problem", said, remedy)


def _cause(error: BaseException, kind: type[BaseException]) -> BaseException | None:
    """Find what an error comes from."""
    found: BaseException | None = error
    while found is not None and not isinstance(found, kind):
        found = found.__cause__ or found.__context__
    return found


def _distrusted(code: int, coordinator: Coordinator, host: str) -> Finding:
    said = f"it is not of the authority in {coordinator.certificates}"
    remedy = (
        "Compare that file with the coordinator's ca.crt. If it is the same, something "
        "on the way reads along and answers in its place: have that switched off."
    )
    if code == _EXPIRED:
        said = "it has expired, or this machine's clock is wrong"
        remedy = "Look at the clock; the coordinator renews the certificate."
    elif code == _NOT_YET:
        said = "it is not valid yet: this machine's clock is late"
        remedy = "Let this machine take its time by NTP."
    elif code in (_OTHER_NAME, _OTHER_ADDRESS):
        said = f"it is not for {host}"
        remedy = "Write the address as the coordinator told it, with the name in it."
    return Finding("certificate", "problem", said, remedy)


def _certificate(coordinator: Coordinator, host: str, heard: _Heard) -> Finding:
    said = f"of the authority in {coordinator.certificates.name}, for {host}"
    if heard.days_left is None:
        return Finding("certificate", "ok", said)
    said += f", days left: {heard.days_left:.0f}"
    if heard.days_left < _WARN_DAYS:
        remedy = "Remind the coordinator to renew it; nothing changes for this site."
        return Finding("certificate", "warning", said, remedy)
    return Finding("certificate", "ok", said)


def _answer(coordinator: Coordinator, heard: _Heard) -> Finding:
    name = "coordinator"
    if heard.status == httpx.codes.UNAUTHORIZED:
        return Finding(name, "ok", f"{coordinator.address} answers, and asks for a key")
    if heard.status in _TRY_AGAIN:
        said = f"its door answers, what is behind does not (status {heard.status})"
        remedy = "Tell the coordinator; the node tries again until it is back."
        return Finding(name, "problem", said, remedy)
    said = f"whoever answers at {coordinator.address} is none (status {heard.status})"
    remedy = "Compare host and port of the address with the coordinator's."
    return Finding(name, "problem", said, remedy)


def clock(ahead: float | None) -> Finding:
    """Compare this machine's clock with the coordinator's.

    Parameters
    ----------
    ahead : seconds; negative = behind, None = not known
    """
    if ahead is None:
        return Finding("clock", "unknown", "the answer bears no time")
    side = "ahead of" if ahead > 0 else "behind"
    said = f"{duration(abs(ahead))} {side} the coordinator's"
    remedy = "Let this machine take its time by NTP: signatures bear the time."
    if not -CLOCK_BEHIND < ahead < CLOCK_AHEAD:
        return Finding("clock", "problem", said, remedy)
    if abs(ahead) > _UNEASY_SECONDS:
        return Finding("clock", "warning", said, remedy)
    return Finding("clock", "ok", said)
