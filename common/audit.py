"""A log that nobody changes unnoticed: signed lines, each with the hash of the last.

Site and coordinator keep one each. A line of ``log.jsonl`` is canonical JSON with
``number`` (from 1), ``time`` (UTC, for people: nothing is decided by it), ``event``,
``previous`` (SHA-256 of the line before) and ``signature`` (ECDSA over the rest).

The hash of the last line is the log's head. It travels with every message, and the
other end writes it into its own log: so its owner, who holds the key and could sign
another one, cannot write it anew either. `common.audit_check` and
`common.audit_compare` find what was done.
"""

from __future__ import annotations

import base64
import errno
import json
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from common.atomic import write_atomic
from common.canonical import canonical_json, sha256_hex
from common.keys import public_text
from common.lock import locked

LOG_FILE = "log.jsonl"
FOLDER = "audit"
"""Of the log, in a site's state folder or beside a run's checkpoints."""

FIELDS = {"number": int, "time": str, "event": dict, "previous": str, "signature": str}

Role = Literal["site", "coordinator"]
_ALGORITHM = ec.ECDSA(hashes.SHA256())
_PURPOSE = b"mammofed audit\n"  # the same key answers Flower, which signs other text


class AuditError(RuntimeError):
    """A log that cannot be kept or read; the text says which, and what to do."""


class AuditLog:
    """A log that is open for writing; see `open_log`.

    Parameters
    ----------
    path : a file of whole lines
    key : of the owner
    content : of the file
    """

    def __init__(
        self, path: Path, key: ec.EllipticCurvePrivateKey, content: bytes
    ) -> None:
        self._key = key
        self._number = content.count(b"\n")
        self._size = len(content)
        self._head = _head_of(content)
        self._partial = False
        self._lock = threading.Lock()
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND)

    @property
    def head(self) -> str:
        """Hash of the last line, 64 hexadecimal digits."""
        return self._head

    def append(self, event: Mapping[str, Any]) -> str:
        """Write an event; on return it is on the disk.

        Parameters
        ----------
        event : plain values. What people and programs of another party wrote has no
            place here, nor has a path.

        Returns
        -------
        The new head.

        Raises
        ------
        OSError
            If it cannot be written. The log then ends as before.
        """
        with self._lock:
            line = signed_line(self._key, self._number + 1, self._head, event)
            if self._partial:
                os.ftruncate(self._file, self._size)
            self._partial = True
            if os.write(self._file, line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._file)
            self._partial = False
            self._number += 1
            self._size += len(line)
            self._head = sha256_hex(line[:-1])
            return self._head

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._file)


@contextmanager
def open_log(
    folder: Path, key: ec.EllipticCurvePrivateKey, role: Role, name: str
) -> Iterator[AuditLog]:
    """Open the log of a folder for writing, or begin it.

    The first line tells whose it is, with the public key. A line that a crash left
    unfinished was never sent and is nobody's head: it is set apart as
    ``torn-HASH``, and the next line says so.

    Parameters
    ----------
    folder : made when missing
    name : of the site, or ``coordinator``

    Raises
    ------
    FolderBusyError
        If another process writes it.
    AuditError
        If it was begun with another key.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / LOG_FILE
    with locked(folder):
        log = AuditLog(path, key, _made_whole(path, key, role, name))
        try:
            yield log
        finally:
            log.close()


def _made_whole(
    path: Path, key: ec.EllipticCurvePrivateKey, role: Role, name: str
) -> bytes:
    """Begin a log or mend its end, in one step that happens or does not."""
    content = path.read_bytes() if path.exists() else b""
    whole = content[: content.rfind(b"\n") + 1]
    torn = content[len(whole) :]
    public = public_text(key)
    if not whole:
        first = {"did": "began", "role": role, "name": name, "key": public}
        whole = signed_line(key, 1, "", first)
    elif _key_of(whole) not in ("", public):
        raise AuditError(
            f"{path} was begun with another key. Keep that file under another name, "
            "for whoever wants to check it; the next start begins a new one."
        )
    if torn:
        kept = sha256_hex(torn)
        write_atomic(path.with_name(f"torn-{kept[:16]}"), torn, 0o600)
        healed = {"did": "healed", "torn": kept, "bytes": len(torn)}
        whole += signed_line(key, whole.count(b"\n") + 1, _head_of(whole), healed)
    if whole != content:
        write_atomic(path, whole, 0o600)
    return whole


def signed_line(
    key: ec.EllipticCurvePrivateKey,
    number: int,
    previous: str,
    event: Mapping[str, Any],
) -> bytes:
    """Make a line of a log, line feed included."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    entry = {"number": number, "time": now, "event": event, "previous": previous}
    signature = key.sign(_PURPOSE + canonical_json(entry), _ALGORITHM)
    signed = entry | {"signature": base64.b64encode(signature).decode()}
    return canonical_json(signed) + b"\n"


def is_signed(entry: Mapping[str, Any], key: ec.EllipticCurvePublicKey) -> bool:
    """Tell whether an entry was signed with a key, and is as it was then."""
    rest = {name: value for name, value in entry.items() if name != "signature"}
    try:
        signature = base64.b64decode(entry["signature"], validate=True)
        key.verify(signature, _PURPOSE + canonical_json(rest), _ALGORITHM)
    except (ValueError, InvalidSignature):
        return False
    return True


def parse(line: bytes) -> dict[str, Any] | None:
    """Read a line, or return None if it is not what `signed_line` writes."""
    try:
        entry = json.loads(line)
        if not isinstance(entry, dict) or canonical_json(entry) != line:
            return None
    except (ValueError, RecursionError):
        return None
    fits = {name: type(value) for name, value in entry.items()} == FIELDS
    return entry if fits else None


def _head_of(content: bytes) -> str:
    return sha256_hex(content[:-1].rpartition(b"\n")[2])


def _key_of(content: bytes) -> str:
    """Return the key that a log names; empty if its first line is not to be read."""
    entry = parse(content.partition(b"\n")[0])
    return "" if entry is None else str(entry["event"].get("key", ""))
