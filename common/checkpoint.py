"""Named tensors on disk: safetensors with plain-text metadata, whole or absent."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from common.atomic import atomic_file
from common.contract import tensor_hash

Tensors = dict[str, np.ndarray]


class CheckpointError(RuntimeError):
    """A tensor file that is absent, damaged or not the one asked for."""


def write_tensors(
    path: Path,
    tensors: Mapping[str, np.ndarray],
    metadata: Mapping[str, object],
    mode: int = 0o644,
    content_hash: str = "",
) -> str:
    """Write tensors and metadata as one file, atomically.

    Parameters
    ----------
    path : final name; its folder must exist
    tensors : contiguous or not; written in the order of their names
    metadata : plain JSON data; the content's hash is added under ``tensors``
    mode : permission bits
    content_hash : of the tensors, if the caller has just computed it

    Returns
    -------
    The hash of the tensors, see `common.contract.tensor_hash`.

    Raises
    ------
    CheckpointError
        If the file cannot be written, for instance because the disk is full.
    """
    ordered = {name: np.asarray(tensors[name], order="C") for name in sorted(tensors)}
    content_hash = content_hash or tensor_hash(ordered, ordered)
    header = {"mammofed": json.dumps({**metadata, "tensors": content_hash})}
    try:
        with atomic_file(path, mode) as temporary:
            save_file(ordered, temporary, metadata=header)
    except SafetensorError as error:
        raise CheckpointError(f"{path.name} cannot be written: {error}") from None
    return content_hash


def read_tensors(path: Path) -> tuple[Tensors, dict[str, object]]:
    """Read what `write_tensors` wrote, and verify it.

    Returns
    -------
    Tensors by name, and the metadata with the hash under ``tensors``.

    Raises
    ------
    CheckpointError
        If the file is absent, cut short, or its tensors do not match their hash.
    """
    if not path.is_file():
        raise CheckpointError(
            f"No tensor file {path.name}: it was never written or moved"
        )
    try:
        with safe_open(path, framework="numpy") as stream:
            metadata = json.loads((stream.metadata() or {}).get("mammofed", "{}"))
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise CheckpointError(f"{path.name} is damaged: {error}") from None
    if metadata.get("tensors") != tensor_hash(tensors, tensors):
        raise CheckpointError(
            f"{path.name} does not match the hash it was written with. "
            "Restore it from a backup or resume from an earlier round."
        )
    return tensors, metadata
