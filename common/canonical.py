"""Canonical JSON and the hash of it: the identity of plans, ledgers and indexes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any


def canonical_json(value: Any) -> bytes:
    """Encode plain data so that equal values give equal bytes.

    Sorted keys, no white space, UTF-8, no NaN or infinity.

    Raises
    ------
    ValueError
        If a number is NaN or infinite.
    TypeError
        If a value is not plain JSON data.
    """
    return json.dumps(
        value,
        sort_keys=True,
        separators=(",", ":"),
        ensure_ascii=False,
        allow_nan=False,
    ).encode()


def sha256_hex(content: bytes) -> str:
    """Hash bytes to 64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def sha256_of_file(path: Path) -> str:
    """Hash a file's content without holding it in memory."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
