"""One run of the benchmark's job, timed from outside, and what the times say."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from common.plan import Plan
from common.progress import Bar, View
from simulations.benchmark_data import PlainLoop, hospitals
from simulations.federation import Machine, run_in_process
from simulations.ray import run_with_ray

RAY_WORKERS = 2
_RESAMPLES = 5000


@dataclass(frozen=True)
class Run:
    """What the clock said about one run; times in seconds.

    Attributes
    ----------
    opening, closing : before the first round starts, and after the last is saved
    federated : whole rounds, by number
    plain : plain loops over the batches of those rounds; not part of the run
    training : inside training steps, of every site and round
    memory : resident bytes after each round; empty where the system does not tell
    """

    sites: int
    opening: float
    closing: float
    federated: Mapping[int, float]
    plain: Mapping[int, float]
    training: Sequence[float]
    memory: Sequence[int]

    def overhead(self, rounds: int) -> float:
        """Return (run time - training) / training of a run of so many rounds.

        Opening and closing happen once; a short run is carried on at its own pace, so
        that runs of different lengths compare. Exact for the rounds that were played.
        """
        played = len(self.federated)
        training = sum(self.training) / played * rounds
        whole = sum(self.federated.values()) / played * rounds
        return (self.opening + whole + self.closing - training) / training

    def facts(self) -> dict[str, Any]:
        """Return the raw numbers, for the JSON file."""
        played = len(self.federated)
        return {
            "sites": self.sites,
            "rounds": played,
            "opening_seconds": self.opening,
            "round_seconds": sum(self.federated.values()) / played,
            "closing_seconds": self.closing,
            "training_seconds_per_site_round": sum(self.training) / len(self.training),
            "accounted_overhead_of_these_rounds": self.overhead(played),
        }


class Watch:
    """Times a run's rounds; with a plain loop, plays F P P F F P P F between them.

    The first round, which has nothing to evaluate yet, stays without a pair. What a
    callback does is not part of any round.
    """

    def __init__(self, bar: Bar, plain: PlainLoop | None = None) -> None:
        self._bar = bar
        self._loop = plain
        self.federated: dict[int, float] = {}
        self.plain: dict[int, float] = {}
        self.memory: list[int] = []
        self.began = self.ended = 0.0

    def started(self, done: int, rounds: int, sites: tuple[str, ...]) -> None:
        """Start the clock of the first round."""
        self._bar.started(done, rounds, sites)
        self.began = self.ended = time.perf_counter()

    def round_done(self, round_: int, losses: Any, evaluated: Any) -> None:
        """Stop the clock; after an even round play its pair and the next one's."""
        self.federated[round_] = time.perf_counter() - self.ended
        self.memory += resident_bytes()
        if self._loop is not None and round_ % 2 == 0:
            for number in (round_, round_ + 1):
                self.plain[number] = self._loop.play(number)
        self._bar.round_done(round_, losses, evaluated)
        self.ended = time.perf_counter()

    def finished(self, status: str) -> None:
        """Show how it ended."""
        self._bar.finished(status)


def resident_bytes(process: str = "self") -> list[int]:
    """Return a process's resident memory; empty where it, or ``/proc``, is not."""
    file = Path("/proc") / process / "statm"
    if not file.is_file():
        return []
    return [int(file.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")]


def play(plan: Plan, view: View, *, paired: bool = False, ray: bool = False) -> Run:
    """Run a job and time it.

    Parameters
    ----------
    plan : of `simulations.benchmark_data.job`
    paired : play plain loops in turns with the rounds; the number of rounds is odd
    ray : on Ray; its workers share the threads that a plain loop has for itself

    Raises
    ------
    PlanError, RunFailed
        As `run_in_process` and `run_with_ray`.
    """
    populations = hospitals(plan)
    loop = PlainLoop(plan, populations) if paired else None
    if loop is not None:
        loop.play(0)  # the first one is slow
    sites, steps = len(plan.roster.sites), plan.stages[0].work.amount
    title = f"{sites} sites, {plan.rounds} rounds of {steps} steps" + " on Ray" * ray
    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as name, view.bar(title, plan.rounds) as bar:
        watch, folder = Watch(bar, loop), Path(name)
        began = time.perf_counter()
        if ray:
            outcome = run_with_ray(
                plan,
                populations,
                folder,
                Machine(threads=max(1, threads // RAY_WORKERS)),
                synthetic=True,
                observer=watch,
                workers=RAY_WORKERS,
            )
        else:
            outcome = run_in_process(
                plan,
                populations,
                folder,
                Machine(threads=threads),
                synthetic=True,
                observer=watch,
                on_reply=bar.site_answered,
            )
        closing = time.perf_counter() - watch.ended
    return Run(
        sites=sites,
        opening=watch.began - began,
        closing=closing,
        federated=watch.federated,
        plain=watch.plain,
        training=[float(entry["step_seconds"]) for entry in outcome.state.ledger],
        memory=watch.memory,
    )


def ratios(federated: Mapping[int, float], plain: Mapping[int, float]) -> list[float]:
    """Divide each federated round by the plain loop next to it."""
    return [federated[number] / plain[number] for number in sorted(plain)]


def null_ratios(plain: Mapping[int, float]) -> list[float]:
    """Divide neighbouring plain loops, the first and the second by turns on top."""
    pairs = [(plain[number], plain[number + 1]) for number in sorted(plain)[::2]]
    return [a / b if turn % 2 == 0 else b / a for turn, (a, b) in enumerate(pairs)]


def median_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the median and its 95 % percentile bootstrap interval; always the same."""
    random = np.random.default_rng(0)
    drawn = random.choice(np.asarray(values), (_RESAMPLES, len(values)))
    low, high = np.percentile(np.median(drawn, axis=1), [2.5, 97.5])
    return median(values), float(low), float(high)


def slope(values: Sequence[float]) -> float:
    """Return the least-squares growth from one value to the next."""
    return float(np.polyfit(np.arange(len(values)), np.asarray(values), 1)[0])
