"""What both ends write about one message: the same words, so that logs compare.

Nothing here is free text, a path, or a value of a patient: names of kinds, hashes,
numbers and sizes. Words of the other party are cut, so that it cannot fill the log.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from common.contract import tensor_hash
from common.records import MESSAGE_TYPES, Code, Kind, Value

KINDS: dict[str, Kind] = {name: kind for kind, name in MESSAGE_TYPES.items()}
"""Message kind by Flower's name of it."""

PERMITTED = "permitted"
"""The decision on a question that was answered."""

_TOLD = ("plan", "run", "round", "role", "fingerprint")
_LONGEST = 100
_REASON = re.compile(r"reference ([0-9a-f]{8})(?: head ([0-9a-f]{64}))?")


def question(kind: Kind, fields: Mapping[str, Value]) -> dict[str, Any]:
    """Name a request: its kind, and which plan, run, round and role it is for."""
    told = {name: fields[name] for name in _TOLD if name in fields}
    return {"kind": kind} | {
        name: value[:_LONGEST] if isinstance(value, str) else value
        for name, value in told.items()
    }


def weights(shared: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Name tensors by their hash, as `common.contract.tensor_hash`, and their bytes."""
    return {
        "weights": tensor_hash(shared, shared) if shared else None,
        "bytes": sum(array.nbytes for array in shared.values()),
    }


def head_in(fields: Mapping[str, Value]) -> str:
    """Return the head that came with a message; empty if it is none."""
    head = str(fields.get("head", ""))
    return head if re.fullmatch("[0-9a-f]{64}", head) else ""


def write_reason(reference: str, head: str) -> str:
    """Write the text that goes with the code of a refusal."""
    return f"reference {reference} head {head}" if head else f"reference {reference}"


def read_reason(text: str) -> tuple[str | None, str]:
    """Read reference and head out of what `write_reason` wrote; nothing else."""
    found = _REASON.fullmatch(text)
    return (found[1], found[2] or "") if found else (None, "")


def name_of(code: int) -> str | None:
    """Name a refusal's code; None for Flower's own, which are no site's words."""
    return Code(code).name if code in Code._value2member_map_ else None
