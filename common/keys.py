"""Keys of sites and of the coordinator: ECDSA on a NIST curve, in OpenSSH's format."""

from __future__ import annotations

import base64
import hashlib
import os
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from common.atomic import write_atomic


class KeyFileError(ValueError):
    """A file that holds no key of this kind; the text names it."""


def make_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Make a private key on the curve P-384, readable by its owner only.

    A key that is there, or that another process makes meanwhile, stays.

    Parameters
    ----------
    path : its folder must exist

    Returns
    -------
    The key that is in the file.
    """
    content = ec.generate_private_key(ec.SECP384R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    )
    made = path.with_name(f".{path.name}.{os.getpid()}.new")
    write_atomic(made, content, 0o600)
    try:
        path.hardlink_to(made)
    except FileExistsError:
        pass
    finally:
        made.unlink()
    return read_key(path)


def read_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Read a private key without passphrase.

    Raises
    ------
    KeyFileError
        If the file holds another thing.
    """
    try:
        key = serialization.load_ssh_private_key(path.read_bytes(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        reason = type(error).__name__
        raise KeyFileError(
            f"{path} holds no key without passphrase ({reason})"
        ) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise KeyFileError(f"{path} is no ECDSA key: Flower takes no other")
    return key


def public_text(key: ec.EllipticCurvePrivateKey) -> str:
    """Write a key's public part as OpenSSH does, without a comment."""
    return (
        key.public_key()
        .public_bytes(
            serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
        )
        .decode()
    )


def key_fingerprint(text: str) -> str:
    """Shorten a public key as ``ssh-keygen -l`` does, for people to compare."""
    try:
        blob = base64.b64decode(text.split(" ")[1], validate=True)
    except (IndexError, ValueError):
        return "unreadable"
    digest = base64.b64encode(hashlib.sha256(blob).digest()).decode()
    return f"SHA256:{digest.rstrip('=')}"


def read_public(text: str) -> ec.EllipticCurvePublicKey:
    """Read what `public_text` wrote.

    Raises
    ------
    KeyFileError
        If it is another thing.
    """
    try:
        key = serialization.load_ssh_public_key(text.encode())
    except (ValueError, UnsupportedAlgorithm):
        raise KeyFileError("this is no public key in OpenSSH's format") from None
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise KeyFileError("the public key is no ECDSA key")
    return key
