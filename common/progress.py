"""What a person sees while something runs: where it is, and the time left."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class View:
    """A terminal's progress bars; without a terminal, one line per finished part.

    Parameters
    ----------
    console : where it goes
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(soft_wrap=True)
        self._lock = threading.Lock()
        self._shown: Progress | None = None  # rich shows one group of bars at a time
        self._bars = 0

    @contextmanager
    def bar(self, title: str, total: int, *, quiet: bool = False) -> Iterator[Bar]:
        """Show one bar while the block runs; time left follows from its own speed.

        Threads may show theirs at the same time: one below the other.

        Parameters
        ----------
        quiet : show and say nothing, for work that is already done
        """
        began = time.monotonic()
        progress = self._group(disable=True) if quiet else self._enter()
        task = progress.add_task(title, total=max(total, 1), note="")
        try:
            yield Bar(progress, task)
        finally:
            progress.remove_task(task)
            if not quiet:
                self._leave()
        if not quiet:
            self.say(f"{title}: done in {duration(time.monotonic() - began)}")

    def _group(self, *, disable: bool) -> Progress:
        return Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=self.console,
            transient=True,
            disable=disable,
        )

    def _enter(self) -> Progress:
        with self._lock:
            if self._shown is None:
                self._shown = self._group(disable=not self.console.is_terminal)
                self._shown.start()
            self._bars += 1
            return self._shown

    def _leave(self) -> None:
        with self._lock:
            self._bars -= 1
            if self._bars == 0 and self._shown is not None:
                self._shown.stop()
                self._shown = None

    def say(self, text: str) -> None:
        """Print a line."""
        self.console.print(text, markup=False, highlight=False)


class Bar:
    """One bar; tells `common.observer.Observer` events too."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task
        self._round = 0

    def move(self, done: int, total: int | None = None, note: str = "") -> None:
        """Move to ``done``; ``total`` and ``note`` where they are known now."""
        self._progress.update(self._task, completed=done, note=note)
        if total is not None:
            self._progress.update(self._task, total=total)

    def site_answered(self, site: str) -> None:
        """Name the site that has just answered."""
        self._progress.update(self._task, note=f"round {self._round + 1}, {site}")

    def started(self, done: int, rounds: int, sites: tuple[str, ...]) -> None:
        """Start, or go on after ``done`` rounds."""
        self._round = done
        note = f"goes on after round {done}" if done else ""
        self.move(done, rounds, note)

    def round_done(
        self,
        round_: int,
        losses: Mapping[str, float | None],
        evaluated: Mapping[str, Mapping[str, float | None]],
    ) -> None:
        """Move by a round, with the mean validation metric of the one before."""
        self._round = round_
        values = [site["roc_auc"] for site in evaluated.values()]
        known = [value for value in values if value is not None]
        note = f"validation ROC-AUC {sum(known) / len(known):.3f}" if known else ""
        self.move(round_, note=note)

    def finished(self, status: str) -> None:
        """Show how it ended."""
        self._progress.update(self._task, note=status)


def duration(seconds: float) -> str:
    """Write seconds as a person would: ``42 s``, ``3 min 10 s``, ``1 h 5 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
