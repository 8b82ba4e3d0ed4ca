"""The sharing contract of one stage as plain data, and the hashes both ends compare.

Free of torch: the per-message process at a hospital checks a reply against it.
`common.sharing` derives it from a model and a stage.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from common import plan
from common.canonical import canonical_json, sha256_hex
from common.transport import WIRE_TYPES, Transport

_POOL = ThreadPoolExecutor(max_workers=4, thread_name_prefix="hash")


class TensorSpec(NamedTuple):
    """Name, shape and dtype (numpy's name, such as ``float32``) of one tensor."""

    key: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Contract:
    """Which tensor of the state dict goes where in one stage.

    ``sent``, ``fixed``, ``local`` and ``constant`` are sorted, disjoint and cover the
    state dict.

    Attributes
    ----------
    stage : the stage it was made for
    sent : shared and changing in this stage; floating point
    fixed : shared, but standing still in this stage; compared by hash, never sent
    local : stays at the site, with every ``num_batches_tracked``
    constant : follows from the model's description; compared by hash, never sent
    trainable : names of the parameters that the local optimiser moves
    layout : every tensor of the state dict, sorted by name
    warnings : what the reader of a report should know about this combination
    copies : names of norm tensors that a site keeps for each vendor, each to its name
        in the model without; empty at the coordinator
    transport : number format of ``sent`` in messages
    """

    stage: plan.Stage
    sent: tuple[str, ...]
    fixed: tuple[str, ...]
    local: tuple[str, ...]
    constant: tuple[str, ...]
    trainable: tuple[str, ...]
    layout: tuple[TensorSpec, ...]
    warnings: tuple[str, ...]
    copies: Mapping[str, str] = field(default_factory=dict)
    transport: Transport = "float32"

    @property
    def shared(self) -> tuple[str, ...]:
        """Everything whose value the coordinator holds: ``sent`` and ``fixed``."""
        return tuple(sorted((*self.sent, *self.fixed)))

    @property
    def federated(self) -> bool:
        """False where nothing is sent: such a stage is local training."""
        return bool(self.sent)

    @property
    def fingerprint(self) -> str:
        """The fingerprint of what is sent; both ends compare it before using any."""
        stage = self.stage
        return fingerprint(self.on_wire, stage.name, stage.model.name, self.transport)

    @property
    def on_wire(self) -> tuple[TensorSpec, ...]:
        """What is sent, as it looks in a message."""
        layout = self.layout_of(self.sent)
        if self.transport == "float32":
            return layout
        return tuple(one._replace(dtype=WIRE_TYPES[self.transport]) for one in layout)

    def layout_of(self, keys: Collection[str]) -> tuple[TensorSpec, ...]:
        """Select name, shape and dtype of some tensors, sorted by name."""
        wanted = set(keys)
        return tuple(spec for spec in self.layout if spec.key in wanted)


def fingerprint(
    layout: Iterable[TensorSpec],
    stage_name: str,
    model_name: str,
    transport: Transport = "float32",
) -> str:
    """Hash what tensors look like, not what they hold.

    Parameters
    ----------
    layout : in any order; sorted by name here
    stage_name, model_name : of the plan
    transport : what the numbers mean, which a layout of uint16 does not tell

    Returns
    -------
    64 hexadecimal digits
    """
    tensors = [[key, list(shape), dtype] for key, shape, dtype in sorted(layout)]
    document = {"model": model_name, "stage": stage_name, "tensors": tensors}
    if transport != "float32":
        document["transport"] = transport
    return sha256_hex(canonical_json(document))


def tensor_hash(tensors: Mapping[str, Any], keys: Iterable[str]) -> str:
    """Hash the content of tensors, the same for numpy and torch on any device.

    Name, dtype, shape and the values in C order enter; the memory format does not.

    Parameters
    ----------
    tensors : numpy arrays or torch tensors by name
    keys : names to hash, in any order; sorted by name here

    Returns
    -------
    64 hexadecimal digits

    Raises
    ------
    KeyError
        If a name is missing.
    """
    ordered = sorted(keys)
    arrays = [_as_array(tensors[key]) for key in ordered]
    digests = _POOL.map(_sha256, arrays)  # hashlib lets go of the GIL
    lines = [
        [key, array.dtype.name, list(array.shape), digest]
        for key, array, digest in zip(ordered, arrays, digests, strict=True)
    ]
    return sha256_hex(canonical_json(lines))


def _sha256(array: np.ndarray[Any, Any]) -> str:
    flat = np.ascontiguousarray(array).reshape(-1)
    return hashlib.sha256(flat.view(np.uint8).data).hexdigest()


def _as_array(value: Any) -> np.ndarray[Any, Any]:
    if isinstance(value, np.ndarray):
        return value
    array: np.ndarray[Any, Any] = value.detach().cpu().numpy()
    return array
