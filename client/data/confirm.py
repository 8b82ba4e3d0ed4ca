"""Confirm that a finished preparation is still that of the archive's files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from client.data.importers.files import decode_path
from client.data.manifest import NEW_FOLDER
from client.data.snapshot import CacheError
from common.canonical import sha256_of_file


def confirm_files(
    files: Sequence[Mapping[str, Any]],
    archive_root: Path,
    *,
    verify: bool,
    progress: Callable[[int, int], None],
) -> None:
    """Compare every file with what the import noted of it.

    A file of the same size and time is taken for the same, as rsync and make do; one
    with another time is hashed, because a copied archive has new times.

    Parameters
    ----------
    files : each with ``source``, ``sha256``, ``size`` and ``mtime_ns``, the last two as
        text, empty where they are not known
    verify : hash every file, whatever its size and time
    progress : called with files done and in total

    Raises
    ------
    CacheError
        If files have changed or are gone.
    """
    changed = 0
    for done, file in enumerate(files):
        path = archive_root / decode_path(file["source"])
        if verify or not _looks_the_same(path, file):
            changed += not _holds(path, file["sha256"])
            progress(done + 1, len(files))
        elif done % 1000 == 0:
            progress(done, len(files))
    progress(len(files), len(files))
    if changed:
        raise CacheError(
            f"{changed} of {len(files)} files that were prepared have changed in "
            f"{archive_root}, cannot be read, or are gone. The prepared images are "
            "still those of the import. If the change is meant, import the archive "
            f"again. {NEW_FOLDER}"
        )


def _holds(path: Path, sha256: str) -> bool:
    try:
        return path.is_file() and sha256_of_file(path) == sha256
    except OSError:
        return False


def _looks_the_same(path: Path, file: Mapping[str, Any]) -> bool:
    try:
        found = path.stat()
    except OSError:
        return False
    return (str(found.st_size), str(found.st_mtime_ns)) == (
        file["size"],
        file["mtime_ns"],
    )
