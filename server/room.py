"""Room on the coordinator's disk: looked for before a round, not in the midst of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from shutil import disk_usage

import numpy as np

from server.participation import RunFailed

_CHECKPOINTS = 4
"""On the disk at once: the last, the best, the one being written; one to spare."""


def require_room(folder: Path, shared: Mapping[str, np.ndarray], sites: int) -> None:
    """Fail before work is lost: a round's checkpoint and its messages must fit.

    Parameters
    ----------
    folder : of the run; the SuperLink's database, which holds the messages of a round,
        is taken to lie on the same disk
    shared : tensors of one checkpoint
    sites : each sends about as much as a checkpoint, and is sent it once

    Raises
    ------
    RunFailed
        With the bytes that are needed; the same command goes on once they are free.
    """
    size = sum(array.nbytes for array in shared.values())
    needed = (_CHECKPOINTS + sites) * size
    free = disk_usage(folder).free
    if free < needed:
        raise RunFailed(
            f"the coordinator's disk is too full for another round: {needed / 1e6:.1f} "
            f"MB are needed, {free / 1e6:.1f} are free at {folder}. Make room, then "
            "resume."
        )
