"""Files that are either whole or absent, also after a power cut."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_atomic(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Write a file under a temporary name, flush it to disk, then rename it.

    Parameters
    ----------
    path : final name; the folder must exist
    content : the whole file
    mode : permission bits; 0o600 for what must not leave the site's account
    """
    with atomic_file(path, mode) as temporary:
        temporary.write_bytes(content)


@contextmanager
def atomic_file(path: Path, mode: int = 0o644) -> Iterator[Path]:
    """Lend an empty file of a temporary name; flush and rename it when all went well.

    For libraries that write files themselves, be it into this file or over it.

    Parameters
    ----------
    path : final name; the folder must exist
    mode : permission bits
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    granted = stat.S_IMODE(os.fstat(descriptor).st_mode)  # less the umask
    os.close(descriptor)
    try:
        yield temporary
        temporary.chmod(granted)  # of what may be another file by now
        _sync(temporary)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    temporary.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Flush a folder's list of names, so that a rename survives a power cut."""
    _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
