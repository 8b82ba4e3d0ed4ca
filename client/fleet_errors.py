"""What may go wrong between a site and the coordinator, in words that name nobody."""

from __future__ import annotations

import httpx
from flwr.supercore.error import ApiErrorCode, FlowerError


class FleetError(RuntimeError):
    """The coordinator did not do what was asked; trying again may help."""


class KeyRefusedError(FleetError):
    """The coordinator does not know this key, or the clocks differ too much."""


class StillOnlineError(FleetError):
    """The coordinator believes that another process of this site is online."""


class LostMessageError(FleetError):
    """A message that was announced cannot be had any more."""


class RunOverError(FleetError):
    """The run that a message belongs to is over, or was stopped."""


def translated(error: Exception) -> FleetError:
    """Say what went wrong with a request, without naming a host or a path."""
    if isinstance(error, httpx.HTTPStatusError):
        return _of_status(error.response)
    return FleetError(f"{_reason(error)} ({type(error).__name__})")


def flower_code(response: httpx.Response) -> int:
    """Return Flower's number of what went wrong; 0 where the answer has none."""
    known = FlowerError.from_json(response.text)
    return int(known.code) if known else 0


def _of_status(response: httpx.Response) -> FleetError:
    code = flower_code(response)
    if response.status_code == httpx.codes.UNAUTHORIZED:
        return KeyRefusedError(
            "the coordinator refused our signature: the key is not registered, or the "
            "clocks differ by more than a few seconds"
        )
    if code in (
        ApiErrorCode.FLEET_RUN_STATUS_NOT_ALLOWED,
        ApiErrorCode.FLEET_GET_RUN_FAILED,
    ):
        return RunOverError("the run is over")
    if code == ApiErrorCode.FLEET_NODE_ACTIVATION_FAILED:
        return StillOnlineError("the coordinator does not let us come online")
    return FleetError(f"the coordinator answered {response.status_code}, code {code}")


def _reason(error: Exception) -> str:
    text = str(error)
    if "CERTIFICATE_VERIFY_FAILED" in text:
        detail = (
            "has expired" if "expired" in text else "is not of an authority we trust"
        )
        return f"the coordinator's certificate {detail}"
    if isinstance(error, httpx.TimeoutException):
        return "the coordinator did not answer in time"
    if isinstance(error, httpx.ConnectError):
        return "the coordinator cannot be reached"
    return "the connection to the coordinator broke"
