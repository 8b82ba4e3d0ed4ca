"""TensorBoard curves of every site of a run, written while it goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from common.observer import Observer


class Curves:
    """Writes losses and validation metrics, one TensorBoard run per site.

    A resumed run purges what it wrote after the round it goes on from.

    Parameters
    ----------
    folder : gets one folder per site
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writers: dict[str, SummaryWriter] = {}

    def started(self, done: int, rounds: int, sites: tuple[str, ...]) -> None:
        """Open a writer per site."""
        self._writers = {
            site: SummaryWriter(str(self._folder / site), purge_step=done or None)
            for site in sites
        }

    def round_done(
        self,
        round_: int,
        losses: Mapping[str, float | None],
        evaluated: Mapping[str, Mapping[str, float | None]],
    ) -> None:
        """Write the round's loss and the metrics of the round before."""
        for site, writer in self._writers.items():
            loss = losses.get(site)
            if loss is not None:
                writer.add_scalar("training/loss", loss, round_)
            for name, value in evaluated.get(site, {}).items():
                if value is not None:
                    writer.add_scalar(f"validation/{name}", value, round_ - 1)

    def finished(self, status: str) -> None:
        """Close the files."""
        for writer in self._writers.values():
            writer.close()


class Together:
    """Tells several observers."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = observers

    def started(self, done: int, rounds: int, sites: tuple[str, ...]) -> None:
        """Pass on."""
        for observer in self._observers:
            observer.started(done, rounds, sites)

    def round_done(
        self,
        round_: int,
        losses: Mapping[str, float | None],
        evaluated: Mapping[str, Mapping[str, float | None]],
    ) -> None:
        """Pass on."""
        for observer in self._observers:
            observer.round_done(round_, losses, evaluated)

    def finished(self, status: str) -> None:
        """Pass on."""
        for observer in self._observers:
            observer.finished(status)
