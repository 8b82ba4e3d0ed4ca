"""The coordinator's state after each round, on disk before the next one starts."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.atomic import write_atomic
from common.checkpoint import CheckpointError, Tensors, read_tensors, write_tensors


@dataclass(frozen=True)
class RunState:
    """Everything the coordinator knows after a round.

    Attributes
    ----------
    run : our own id of the run
    round : 0 = before training
    shared : all shared tensors of that round's stage, as the sites get them
    shared_hash : of ``shared``
    history : validation metrics by evaluated round and site
    losses : training loss by round and site
    seconds : that each round took
    local_rounds : by round and site, the generation that belongs to the shared tensors
    ledger : entries as `server.ledger.Entry` writes them
    residual : what rounding took from the sent ones, see `server.aggregation.advance`
    """

    run: str
    round: int
    shared: Tensors
    shared_hash: str
    history: dict[int, dict[str, dict[str, float | None]]] = field(default_factory=dict)
    losses: dict[int, dict[str, float | None]] = field(default_factory=dict)
    seconds: dict[int, float] = field(default_factory=dict)
    local_rounds: dict[int, dict[str, int]] = field(default_factory=dict)
    ledger: list[dict[str, Any]] = field(default_factory=list)
    residual: Tensors = field(default_factory=dict)


class Checkpoints:
    """The checkpoints of one run.

    A round counts as saved once its JSON exists: it is written after the tensors and
    names their hash, so a kill between the two leaves the round before.

    Parameters
    ----------
    folder : made when missing
    plan_hash : checkpoints of another plan are refused
    """

    def __init__(self, folder: Path, plan_hash: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._plan_hash = plan_hash

    def save(self, state: RunState, keep: Collection[int]) -> None:
        """Write a round, then delete the tensors of rounds that cannot be needed."""
        metadata = {"plan": self._plan_hash, "round": state.round}
        content_hash = write_tensors(
            self._tensors(state.round),
            state.shared,
            metadata,
            content_hash=state.shared_hash,
        )
        kept = ""
        if state.residual:
            path = self._residual(state.round)
            kept = write_tensors(path, state.residual, metadata)
        document = vars(state) | {
            "shared": {},
            "residual": {},
            "plan": self._plan_hash,
            "tensors": content_hash,
            "residual_hash": kept,
        }
        write_atomic(self._json(state.round), json.dumps(document).encode())
        for round_ in set(self._rounds()) - {*keep, state.round}:
            self._json(round_).unlink()
            self._tensors(round_).unlink(missing_ok=True)
            self._residual(round_).unlink(missing_ok=True)

    def newest(self) -> RunState | None:
        """Return the state after the last saved round; None if there is none.

        Raises
        ------
        CheckpointError
            If it belongs to another plan or is damaged.
        """
        rounds = self._rounds()
        return self.read(max(rounds)) if rounds else None

    def read(self, round_: int) -> RunState:
        """Return the state after a round that was kept."""
        if not self._json(round_).is_file():
            raise CheckpointError(f"no checkpoint of round {round_} was kept")
        document = json.loads(self._json(round_).read_bytes())
        shared, _ = read_tensors(self._tensors(round_))
        kept = document.pop("residual_hash", "")
        residual, found = read_tensors(self._residual(round_)) if kept else ({}, {})
        plan_hash, content_hash = document.pop("plan"), document.pop("tensors")
        if plan_hash != self._plan_hash:
            raise CheckpointError(
                "the folder holds a run of another plan; choose another folder"
            )
        for name in ("history", "losses", "seconds", "local_rounds"):
            document[name] = {int(key): value for key, value in document[name].items()}
        state = RunState(**(document | {"shared": shared, "residual": residual}))
        if content_hash != state.shared_hash or found.get("tensors", "") != kept:
            raise CheckpointError(f"tensors and record of round {round_} do not match")
        return state

    def _rounds(self) -> list[int]:
        names = self._folder.glob("round-*.json")
        return [int(path.stem.removeprefix("round-")) for path in names]

    def _json(self, round_: int) -> Path:
        return self._folder / f"round-{round_:05d}.json"

    def _tensors(self, round_: int) -> Path:
        return self._folder / f"round-{round_:05d}.safetensors"

    def _residual(self, round_: int) -> Path:
        return self._folder / f"residual-{round_:05d}.safetensors"
