"""What processes hold, round by round, and whether it grows."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

Sample = dict[str, float]
"""Of one process at one time: ``memory`` in MB, ``threads``, ``handles``."""

SETTLED = 0.25
"""Share of the rounds after which a process has met everything it will hold."""


@dataclass(frozen=True)
class Trend:
    """How one quantity of one process moved over the rounds.

    Attributes
    ----------
    slope : per round, least squares over the rounds after `SETTLED`
    noise : standard error of the slope, from the scatter about the line
    before, after : medians of the second and of the last quarter of the rounds
    """

    process: str
    quantity: str
    slope: float
    noise: float
    before: float
    after: float

    def __str__(self) -> str:
        """Write one row of the table."""
        return (
            f"| {self.process} | {self.quantity} | {self.before:.1f} | "
            f"{self.after:.1f} | {self.slope:+.4f} ± {self.noise:.4f} |"
        )


def sample(process: psutil.Process) -> Sample:
    """Look at one process: memory is what would be free if it ended."""
    return {
        "memory": process.memory_full_info().uss / 1e6,
        "threads": float(process.num_threads()),
        "handles": float(process.num_fds()),
    }


def files_in(folders: Iterable[Path]) -> int:
    """Count files below folders, some of which may vanish meanwhile."""
    return sum(len(names) for top in folders for _, _, names in os.walk(top))


def trends(samples: Mapping[str, list[tuple[int, Sample]]]) -> Iterator[Trend]:
    """Fit every quantity of every process.

    Parameters
    ----------
    samples : by process, pairs of round and sample
    """
    for process, rows in samples.items():
        rounds = np.array([round_ for round_, _ in rows], float)
        for quantity in rows[0][1]:
            values = np.array([row[quantity] for _, row in rows])
            settled = rounds > rounds[0] + SETTLED * (rounds[-1] - rounds[0])
            x, y = rounds[settled], values[settled]
            slope, start = np.polyfit(x, y, 1)
            spread = np.sqrt(np.sum((y - start - slope * x) ** 2) / (len(x) - 2))
            noise = spread / np.sqrt(np.sum((x - x.mean()) ** 2))
            quarter = len(values) // 4
            yield Trend(
                process,
                quantity,
                float(slope),
                float(noise),
                float(np.median(values[quarter : 2 * quarter])),
                float(np.median(values[-quarter:])),
            )
