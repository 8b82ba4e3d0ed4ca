"""Locks of the file system: a killed process lets go of them."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class FolderBusyError(RuntimeError):
    """Another process works in the folder; the text says which folder."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder's lock while the block runs; a killed process lets go of it.

    Raises
    ------
    FolderBusyError
        If another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FolderBusyError(
                f"Another process works in {folder}. Wait for it, or stop it."
            ) from None
        yield


@contextmanager
def held(file: Path) -> Iterator[None]:
    """Hold a file's lock while the block runs, once its last holder has ended.

    It tells others that this process lives, see `is_held`; the number of a process
    would not, since another one may have it by now.
    """
    with file.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def is_held(file: Path) -> bool:
    """Tell whether a living process is inside `held`; the file need not exist."""
    try:
        with file.open() as stream:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
