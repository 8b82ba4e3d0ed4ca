"""What stays at the hospital between rounds: BatchNorm, head, optimiser, on its disk.

One *generation* is a site's local state after one round, one file, written whole or not
at all and verified by hash when it is read. Nothing of it lives in Flower's
``context.state``, which is lost with the process. A round is asked for by number, so a
round that was killed half way starts again from the same generation.

Names in a file are ``<compartment>/<tensor>``: ``trunk norm_affine norm_stats head``
for the model's parts, ``optimizer`` for the optimiser's, ``residual`` for what rounding
kept back of an update, ``objective`` for what a loss has of its own: a projector.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from common.atomic import write_atomic
from common.canonical import canonical_json
from common.checkpoint import CheckpointError, Tensors, read_tensors, write_tensors
from common.records import Code, Refusal

OPTIMIZER, RESIDUAL, OBJECTIVE = "optimizer", "residual", "objective"
_SNAPSHOTS = "snapshots.json"
_COUNTED = "counted.json"
_ROUNDS = "round-*.safetensors"
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
    residual : what rounding kept back of the update, see `client.update`
    spreads : of the first layers that round started from, see `client.sanity`
    objective : tensors of the stage's objective, see `client.objectives`
    """

    round: int
    base_hash: str
    tensors: Tensors
    optimizer: Tensors
    residual: Tensors = field(default_factory=dict)
    spreads: Mapping[str, float] = field(default_factory=dict)
    objective: Tensors = field(default_factory=dict)

    def only(self, names: Collection[str]) -> list[tuple[str, np.ndarray]]:
        """Return the tensors of a model, by name.

        Raises
        ------
        Refusal
            With ``LOCAL_STATE`` if one is absent: images of a vendor that the site did
            not have when the run began need norms that nothing has learnt.
        """
        if missing := set(names) - self.tensors.keys():
            raise Refusal(
                Code.LOCAL_STATE,
                f"local state of round {self.round} lacks {len(missing)} tensors; if "
                "the images are of other vendors than when the run began, prepare "
                "those of then, or start a new run",
            )
        return [(name, self.tensors[name]) for name in names]


class LocalState:
    """The generations of one site in one run.

    Parameters
    ----------
    folder : of this site; made when missing
    run : our own run id, not Flower's, so that a resumed run finds its state
    plan_hash : generations of another plan are never read
    snapshot : hash of the images that this session trains on
    """

    def __init__(self, folder: Path, run: str, plan_hash: str, snapshot: str) -> None:
        self._folder = folder / run / plan_hash[:12]
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._plan_hash = plan_hash
        self._snapshot = snapshot
        self._latest: Generation | None = None
        self._counted: int | None = None

    def write(self, generation: Generation, parts: Mapping[str, str]) -> None:
        """Store a generation as pending; it counts once a later round starts from it.

        Parameters
        ----------
        generation : to store; an older file of the same round is replaced
        parts : compartment of each local tensor
        """
        self._record_snapshot(generation.round)
        named = {f"{parts[k]}/{k}": v for k, v in generation.tensors.items()}
        named |= {f"{OPTIMIZER}/{k}": v for k, v in generation.optimizer.items()}
        named |= {f"{RESIDUAL}/{k}": v for k, v in generation.residual.items()}
        named |= {f"{OBJECTIVE}/{k}": v for k, v in generation.objective.items()}
        metadata = {
            "plan": self._plan_hash,
            "round": generation.round,
            "base": generation.base_hash,
            "spreads": dict(generation.spreads),
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
        own: dict[str, Tensors] = {OPTIMIZER: {}, RESIDUAL: {}, OBJECTIVE: {}}
        for name, array in named.items():
            compartment, _, key = name.partition("/")
            own.get(compartment, tensors)[key] = array
        spreads: Any = metadata.get("spreads", {})
        return Generation(
            round_,
            str(metadata["base"]),
            tensors,
            own[OPTIMIZER],
            own[RESIDUAL],
            spreads,
            own[OBJECTIVE],
        )

    def note_counted(self, round_: int) -> None:
        """Note the last round whose generation counts; status tells it.

        Parameters
        ----------
        round_ : that the coordinator goes on from; 0 = none has counted yet
        """
        if round_ != self._counted:
            write_atomic(
                self._folder / _COUNTED, canonical_json({"round": round_}), _OWNER_ONLY
            )
            self._counted = round_

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
        for path in self._folder.glob(_ROUNDS):
            if _round_of(path) not in rounds:
                path.unlink()

    def _record_snapshot(self, round_: int) -> None:
        """Note since which round these images are used; generations are deleted."""
        path = self._folder / _SNAPSHOTS
        record = _read_record(path)
        if not record or record[-1][1] != self._snapshot:
            record.append((round_, self._snapshot))
            write_atomic(path, canonical_json(record), _OWNER_ONLY)

    def _path(self, round_: int) -> Path:
        return self._folder / f"round-{round_:05d}.safetensors"


@dataclass(frozen=True)
class Counted:
    """The last round of a run that the coordinator is known to have counted.

    Attributes
    ----------
    run, plan : as the site's folders name them: the run's id, 12 digits of the plan
    round : of the run
    time : when the site was told; seconds since 1970
    """

    run: str
    plan: str
    round: int
    time: float


def last_counted(state: Path) -> Counted | None:
    """Tell the last round that counted, in the run that said so last.

    Parameters
    ----------
    state : the site's folder of local state; need not exist
    """
    found = [(path.stat().st_mtime, path) for path in state.glob(f"*/*/{_COUNTED}")]
    if not found:
        return None
    time, path = max(found)
    run, plan = path.parts[-3:-1]
    return Counted(run, plan, int(json.loads(path.read_bytes())["round"]), time)


@dataclass(frozen=True)
class Used:
    """Rounds of a run that trained on one snapshot.

    Attributes
    ----------
    run, plan : as the site's folders name them: the run's id, 12 digits of the plan
    first, last : rounds; an answer of `last` may not have been counted
    snapshot : hash of the images; empty where an older version did not record it
    """

    run: str
    plan: str
    first: int
    last: int
    snapshot: str


def used_rounds(state: Path) -> list[Used]:
    """List what the runs of a site trained on, from their records.

    Parameters
    ----------
    state : the site's folder of local state; need not exist
    """
    found = []
    for folder in sorted({path.parent for path in state.glob(f"*/*/{_ROUNDS}")}):
        latest = max(_round_of(path) for path in folder.glob(_ROUNDS))
        record = _read_record(folder / _SNAPSHOTS) or [(1, "")]
        ends = [first - 1 for first, _ in record[1:]] + [latest]
        found += [
            Used(folder.parent.name, folder.name, first, last, snapshot)
            for (first, snapshot), last in zip(record, ends, strict=True)
        ]
    return found


def _read_record(path: Path) -> list[tuple[int, str]]:
    if not path.is_file():
        return []
    return [(int(first), str(hash_)) for first, hash_ in json.loads(path.read_bytes())]


def _round_of(path: Path) -> int:
    return int(path.stem.removeprefix("round-"))
