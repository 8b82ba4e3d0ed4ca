"""What the coordinator makes of our key, and how fast the way to it is."""

from __future__ import annotations

import time
from collections.abc import Iterator

from client.fleet_connection import Connection, connect, is_registered
from client.fleet_errors import FleetError
from client.preflight.finding import Finding, gigabytes
from client.site import Coordinator
from common.keys import KeyFileError
from common.progress import duration

PIECE = 5 * 2**20
"""Bytes of the pieces in which Flower sends arrays; the door has to take one."""

_SLOWEST = 1.4e6
"""Bits per second below which a piece does not arrive in Flower's 30 s."""


def traffic(coordinator: Coordinator, bytes_per_round: int) -> Iterator[Finding]:
    """Show the key, and send a piece as large as Flower's.

    Parameters
    ----------
    bytes_per_round : that the plan sends, one way; 0 where none is known
    """
    name = "registration"
    try:
        connection = connect(
            coordinator.address, coordinator.certificates, coordinator.key
        )
    except (OSError, KeyFileError):
        yield from no_traffic("without a key")
        return
    try:
        known = is_registered(connection)
    except FleetError as error:
        remedy = "Mend what is named above, then check again."
        yield Finding(name, "problem", str(error), remedy)
        yield Finding("bandwidth", "unknown", "not known without an answer")
        return
    if known:
        yield Finding(name, "ok", "the coordinator knows this site's key")
    else:
        yield Finding(
            name,
            "problem",
            "the coordinator does not know this site's key",
            f"Send it {coordinator.key.with_suffix('.pub')}, to be registered.",
        )
    yield _bandwidth(connection, bytes_per_round)


def no_traffic(why: str) -> Iterator[Finding]:
    """Tell that nothing could be asked."""
    for name in ("registration", "bandwidth"):
        yield Finding(name, "unknown", f"not known {why}")


def _bandwidth(connection: Connection, bytes_per_round: int) -> Finding:
    """Time a short and a long question; what comes back is short both times."""
    name = "bandwidth"
    try:
        began = time.perf_counter()
        is_registered(connection)
        between = time.perf_counter()
        is_registered(connection, PIECE)
        ended = time.perf_counter()
    except FleetError as error:
        said = f"a piece of {gigabytes(PIECE)} does not arrive: {error}"
        remedy = "Something on the way limits requests: have 16 MB allowed, and 60 s."
        return Finding(name, "problem", said, remedy)
    return speed((ended - between) - (between - began), bytes_per_round)


def speed(seconds: float, bytes_per_round: int) -> Finding:
    """Compare the line with what Flower needs.

    Parameters
    ----------
    seconds : that `PIECE` took
    bytes_per_round : as `traffic`
    """
    rate = PIECE / max(seconds, 1e-3)
    said = f"about {8 * rate / 1e6:.3g} Mbit/s to the coordinator"
    if bytes_per_round:
        takes = duration(bytes_per_round / rate)
        said += f": {gigabytes(bytes_per_round)} a round take {takes}"
    said += "; the way back is not measured"
    if 8 * rate < _SLOWEST:
        remedy = f"Flower needs {_SLOWEST / 1e6} Mbit/s: ask for a faster line."
        return Finding("bandwidth", "problem", said, remedy)
    return Finding("bandwidth", "ok", said)
