"""Manufacturers that a plan can tell apart."""

from __future__ import annotations

from typing import Annotated

from pydantic import StringConstraints

VENDORS = (
    "hologic",
    "ge",
    "siemens",
    "fuji",
    "philips",
    "planmed",
    "ims",
    "carestream",
    "agfa",
    "konica",
    "metaltronica",
    "synthetic",
    "other",
    "unknown",
)
"""``other`` is none of them, ``unknown`` says nothing."""

VendorIntent = Annotated[
    str,
    StringConstraints(pattern=rf"^({'|'.join(VENDORS)})(/(presentation|unknown))?$"),
]
"""``VENDOR``, or ``VENDOR/INTENT`` with the presentation intent type of the header."""
