"""What stays at the hospital between rounds: BatchNorm, head, optimiser, on its disk.

One *generation* is a site's local state after one round, one file, written whole or not
at all and verified by hash when it is read. Nothing of it lives in Flower's
``context.state``, which is lost with the process. A round is asked for by number, so a
round that was killed half way starts again from the same generation.

Names in a file are ``<compartment>/<tensor>``: ``trunk norm_affine norm_stats head``
for the model's parts, ``optimizer`` for the optimiser's.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.checkpoint import CheckpointError, Tensors, read_tensors, write_tensors
from common.records import Code, Refusal

OPTIMIZER = "optimizer"
_OWNER_ONLY = 0o600


@dataclass(frozen=True)
class Generation:
    """A site's local state after one round.

    Attributes
    ----------
    round : of the run, counted over all stages; 0 = before training
    base_hash : of the shared tensors that round started from
    tensors : local model tensors by name
    optimizer : optimiser tensors by name; empty where it is reset
    """

    round: int
    base_hash: str
    tensors: Tensors
    optimizer: Tensors


class LocalState:
    """The generations of one site in one run.

    Parameters
    ----------
    folder : of this site; made when missing
    run : our own run id, not Flower's, so that a resumed run finds its state
    plan_hash : generations of another plan are never read
    """

    def __init__(self, folder: Path, run: str, plan_hash: str) -> None:
        self._folder = folder / run / plan_hash[:12]
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._plan_hash = plan_hash
        self._latest: Generation | None = None

    def write(self, generation: Generation, parts: Mapping[str, str]) -> None:
        """Store a generation as pending; it counts once a later round starts from it.

        Parameters
        ----------
        generation : to store; an older file of the same round is replaced
        parts : compartment of each local tensor
        """
        named = {f"{parts[k]}/{k}": v for k, v in generation.tensors.items()}
        named |= {f"{OPTIMIZER}/{k}": v for k, v in generation.optimizer.items()}
        metadata = {
            "plan": self._plan_hash,
            "round": generation.round,
            "base": generation.base_hash,
        }
        write_tensors(self._path(generation.round), named, metadata, _OWNER_ONLY)
        self._latest = generation

    def read(self, round_: int) -> Generation:
        """Return the generation of a round, from memory if it was the last one written.

        Raises
        ------
        Refusal
            With ``LOCAL_STATE`` if it is absent, damaged or of another plan.
        """
        if self._latest is not None and self._latest.round == round_:
            return self._latest
        try:
            named, metadata = read_tensors(self._path(round_))
        except CheckpointError as error:
            raise Refusal(Code.LOCAL_STATE, str(error)) from None
        if metadata["plan"] != self._plan_hash or metadata["round"] != round_:
            raise Refusal(Code.LOCAL_STATE, f"round {round_} belongs to another plan")
        tensors: Tensors = {}
        optimizer: Tensors = {}
        for name, array in named.items():
            compartment, _, key = name.partition("/")
            (optimizer if compartment == OPTIMIZER else tensors)[key] = array
        return Generation(round_, str(metadata["base"]), tensors, optimizer)

    def write_fixed(self, stage: str, tensors: Mapping[str, np.ndarray]) -> None:
        """Keep the shared tensors that a stage does not change; they never travel."""
        if not tensors:
            return
        write_tensors(self._folder / f"fixed-{stage}.safetensors", tensors, {})

    def read_fixed(self, stage: str) -> Tensors:
        """Return what `write_fixed` kept for a stage; empty if that was nothing."""
        path = self._folder / f"fixed-{stage}.safetensors"
        try:
            return read_tensors(path)[0] if path.is_file() else {}
        except CheckpointError as error:
            raise Refusal(Code.LOCAL_STATE, str(error)) from None

    def keep_only(self, rounds: Collection[int]) -> None:
        """Delete the generations of every round but these."""
        for path in self._folder.glob("round-*.safetensors"):
            if int(path.stem.removeprefix("round-")) not in rounds:
                path.unlink()

    def _path(self, round_: int) -> Path:
        return self._folder / f"round-{round_:05d}.safetensors"
