"""What one training step told, and what follows for the whole plan; free of torch.

The step is taken by a process of its own (`client.preflight.rehearsal`): its memory can
be measured, and where that is too much the preflight goes on.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

_LONGEST = 3600.0
_VALIDATION = 1 / 3
"""An image that is only looked at, beside one that is trained on: no way back."""


@dataclass(frozen=True)
class StageSize:
    """What one stage of the plan takes at this site.

    Attributes
    ----------
    sent : bytes of the tensors that travel, one way
    kept : bytes of one local generation, with the optimiser's state and the residual
    fixed : bytes of shared tensors that the stage does not change
    whole : bytes of the model
    images : that one round trains on; None where they are not prepared
    """

    rounds: int
    sent: int
    kept: int
    fixed: int
    whole: int
    images: int | None


@dataclass(frozen=True)
class Rehearsed:
    """What the process that took the step said before it ended.

    Attributes
    ----------
    device : what computes, in words; empty where it cannot
    failure : why no more was found out; empty where all went well
    seconds_per_image : of training; 0 without a plan
    peak_bytes : the most memory the process had; of this machine, not of a GPU
    patients, validation : of the plan's training part; images of its validation part
    """

    device: str = ""
    failure: str = ""
    seconds_per_image: float = 0.0
    peak_bytes: int = 0
    patients: int = 0
    validation: int = 0
    stages: tuple[StageSize, ...] = ()

    def to_json(self) -> str:
        """Write one line."""
        return json.dumps(asdict(self))

    @property
    def bytes_per_round(self) -> int:
        """Bytes that a round sends, and as many come back; of the largest stage."""
        return max((stage.sent for stage in self.stages), default=0)

    @property
    def bytes_in_all(self) -> int:
        """Bytes that the whole plan moves: both ways each round, twice at the end."""
        rounds = sum(2 * stage.rounds * stage.sent for stage in self.stages)
        return rounds + 2 * self.stages[-1].sent if self.stages else 0

    @property
    def disk_bytes(self) -> int:
        """Bytes on disk: three generations and one that is written, and two models."""
        if not self.stages:
            return 0
        kept = max(stage.kept for stage in self.stages)
        whole = max(stage.whole for stage in self.stages)
        return 4 * kept + 2 * whole + sum(stage.fixed for stage in self.stages)

    @property
    def seconds_in_all(self) -> float | None:
        """Seconds of computing, every stage as slow as the first; None = unknown."""
        seconds = 0.0
        for stage in self.stages:
            if stage.images is None:
                return None
            images = stage.images + _VALIDATION * self.validation
            seconds += stage.rounds * images * self.seconds_per_image
        return seconds


def rehearse_apart(words: Sequence[str], plan: Path | None = None) -> Rehearsed:
    """Let a process of its own take the step.

    Parameters
    ----------
    words : of the command line that choose the site
    plan : file of the plan; None = the one that was approved last
    """
    command = [sys.executable, "-m", "client.cli", *words, "run-rehearsal"]
    command += [] if plan is None else ["--plan", str(plan)]
    try:
        done = subprocess.run(
            command, capture_output=True, stdin=subprocess.DEVNULL, timeout=_LONGEST
        )
    except subprocess.TimeoutExpired:
        return Rehearsed(failure=f"it took longer than {_LONGEST:.0f} s")
    if done.returncode == -9:
        return Rehearsed(failure="the system ended it, as it does when memory is full")
    try:
        said = json.loads(done.stdout.splitlines()[-1])
        stages = tuple(StageSize(**stage) for stage in said.pop("stages"))
        return Rehearsed(**said, stages=stages)
    except (IndexError, ValueError, TypeError, KeyError):
        return Rehearsed(failure=f"its process ended with {done.returncode}")
