"""Keyed pseudonyms: what stands for a patient, an exam, a breast, an image.

HMAC-SHA-256 with a secret of the site, truncated to 128 bits (RFC 2104). An unkeyed
hash would be reversible by anyone who holds a list of the original identifiers, and one
secret for all sites would link patients across hospitals.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import stat
from pathlib import Path

from common.atomic import write_atomic

SECRET_FILE = "secret.key"
_SECRET_BYTES = 32
_SYNTHETIC = "synthetic"


class SecretError(RuntimeError):
    """The site's secret is unusable; the text says what to do."""


class Pseudonymiser:
    """Turn identifiers into 32 hexadecimal digits, each kind in a domain of its own.

    Parameters
    ----------
    secret : at least 16 bytes, known to one site only
    """

    def __init__(self, secret: bytes) -> None:
        if len(secret) < 16:
            raise SecretError("A site secret needs at least 16 bytes.")
        self._secret = secret

    def row(self, uid: str) -> str:
        """Stand for one image: its SOP instance UID, or its path where it has none."""
        return self._digest("row", uid)

    def patient(self, patient: str) -> str:
        """Stand for one patient."""
        return self._digest("patient", patient)

    def exam(self, patient: str, exam: str) -> str:
        """Stand for one exam of one patient."""
        return self._digest("exam", patient, exam)

    def breast(self, patient: str, exam: str, side: str) -> str:
        """Stand for one breast in one exam; `side` is ``L`` or ``R``."""
        return self._digest("breast", patient, exam, side)

    def volume(self, patient: str, series: str, side: str, view: str) -> str:
        """Stand for one tomosynthesis volume; `side` and `view` may be empty."""
        return self._digest("volume", patient, series, side, view)

    def label(self, kind: str, text: str) -> str:
        """Stand for a free text that only has to be told apart, 8 digits."""
        return self._digest(kind, text)[:8]

    def _digest(self, *parts: str) -> str:
        # Lengths in front: no two lists of parts give the same message.
        message = "".join(f"{len(part)}:{part}" for part in parts)
        content = message.encode("utf-8", "surrogateescape")
        return hmac.new(self._secret, content, hashlib.sha256).hexdigest()[:32]


def site_secret(
    folder: Path, given: bytes | None = None, *, synthetic: bool = False
) -> bytes:
    """Load the site's secret; store the given one or draw one the first time.

    Parameters
    ----------
    folder : the site's folder, which exists
    given : secret to use, for virtual hospitals whose splits must reproduce
    synthetic : marks the file as derived, so that no real site mistakes it for drawn

    Raises
    ------
    SecretError
        If the stored file is malformed, readable by others, or not the given one.
    """
    path = folder / SECRET_FILE
    if path.exists():
        stored = _read(path)
        if given is not None and not hmac.compare_digest(stored, given):
            raise SecretError(
                f"{path} holds another secret than the one given. The pseudonyms in "
                "this folder belong to the stored one: use another site folder."
            )
        return stored
    secret = secrets.token_bytes(_SECRET_BYTES) if given is None else given
    mark = f"\n{_SYNTHETIC}" if synthetic else ""
    write_atomic(path, f"{secret.hex()}{mark}\n".encode(), mode=0o600)
    return secret


def stored_secret(folder: Path) -> bytes:
    """Load the site's secret; never draw one, which would know no patient.

    Raises
    ------
    SecretError
        If there is none, or it is malformed or readable by others.
    """
    if not (folder / SECRET_FILE).is_file():
        raise SecretError(
            f"No {SECRET_FILE} in {folder}. Import the archive first, or restore the "
            "file from your backup."
        )
    return _read(folder / SECRET_FILE)


def _read(path: Path) -> bytes:
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise SecretError(f"{path} can be read by others. Do: chmod 600 {path}")
    lines = path.read_text().split()
    try:
        return bytes.fromhex(lines[0])
    except (IndexError, ValueError):
        raise SecretError(
            f"{path} holds no hexadecimal secret. Restore it from your backup: "
            "without it no pseudonym of this site can be made again."
        ) from None
