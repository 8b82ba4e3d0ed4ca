"""How a run goes, line by line, for ``flwr log`` and whoever reads it."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

log = logging.getLogger(__name__)


class ProgressLog:
    """Logs each round with the time that is left; see `common.observer.Observer`."""

    def __init__(self) -> None:
        self._rounds = self._done = 0
        self._began = time.monotonic()

    def started(self, done: int, rounds: int, sites: tuple[str, ...]) -> None:
        """Log the start."""
        self._rounds, self._done, self._began = rounds, done, time.monotonic()
        verb = f"goes on after round {done}" if done else "starts"
        log.info("the run %s: %d rounds, sites %s", verb, rounds, ", ".join(sites))

    def round_done(
        self,
        round_: int,
        losses: Mapping[str, float | None],
        evaluated: Mapping[str, Mapping[str, float | None]],
    ) -> None:
        """Log a round that is saved."""
        spent = time.monotonic() - self._began
        left = spent / max(1, round_ - self._done) * (self._rounds - round_)
        shown = ", ".join(f"{s} {_number(loss)}" for s, loss in losses.items())
        log.info(
            "round %d of %d saved; loss %s; about %.0f min left",
            round_,
            self._rounds,
            shown,
            left / 60,
        )

    def finished(self, status: str) -> None:
        """Log the outcome."""
        log.info(
            "the run ended: %s, after %.0f s", status, time.monotonic() - self._began
        )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
