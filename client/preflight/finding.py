"""What the preflight says about one thing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warning", "problem", "unknown"]


@dataclass(frozen=True)
class Finding:
    """One line of the preflight.

    Attributes
    ----------
    name : of the thing that was looked at
    state : with a ``problem`` the site cannot take part; ``unknown`` is what could
        not be looked at
    said : what was found, without a full stop
    remedy : what to do, in a sentence; every problem and every warning has one
    """

    name: str
    state: State
    said: str
    remedy: str = ""


def gigabytes(size: float) -> str:
    """Write bytes for a person, in units of 10^9, or of 10^6 where they are few."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
