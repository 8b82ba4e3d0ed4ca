"""What a person may want to see while a run goes on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class Observer(Protocol):
    """Told about each step of a run; must not change it."""

    def started(self, done: int, rounds: int, sites: tuple[str, ...]) -> None:
        """A run starts, or goes on after ``done`` of its rounds."""

    def round_done(
        self,
        round_: int,
        losses: Mapping[str, float | None],
        evaluated: Mapping[str, Mapping[str, float | None]],
    ) -> None:
        """A round is saved; ``evaluated`` are the metrics of the round before it."""

    def finished(self, status: str) -> None:
        """The run has an outcome."""


class Silent:
    """Watches and says nothing."""

    def started(self, done: int, rounds: int, sites: tuple[str, ...]) -> None:
        """Ignore the start."""

    def round_done(
        self,
        round_: int,
        losses: Mapping[str, float | None],
        evaluated: Mapping[str, Mapping[str, float | None]],
    ) -> None:
        """Ignore the round."""

    def finished(self, status: str) -> None:
        """Ignore the end."""
