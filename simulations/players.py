"""Several runs of an experiment at a time, each in a process of its own.

One small model keeps few cores busy, and a GPU hardly at all. A player is a fresh
Python that opens the same laboratory and plays one run after another; tasks and what
happens travel as JSON lines. It ends when whoever started it does: two players of one
run would spoil it.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from pydantic import TypeAdapter
from rich.console import Console

from common.plan import PlanError, plan_from_json, plan_to_json
from common.progress import Bar, View
from server.participation import RunFailed
from simulations.laboratory import Laboratory, open_laboratory
from simulations.mistakes import MISTAKES
from simulations.play import Run, play
from simulations.settings import settings_from_json, settings_to_json

_LOG = logging.getLogger("mammo-sim")
_RUN = TypeAdapter(Run)
_ROOT = Path(__file__).resolve().parents[1]


def play_side_by_side(laboratory: Laboratory, runs: Sequence[Run]) -> None:
    """Play runs, at least one, ``settings.parallel`` of them at a time.

    The first that fails stops the others; all of them can be gone on with.

    Raises
    ------
    PlanError, RunFailed
        As `simulations.play.play`; the latter also where a process died.
    """
    waiting: queue.SimpleQueue[Run] = queue.SimpleQueue()
    for run in runs:
        waiting.put(run)
    number = min(laboratory.settings.parallel, len(runs))
    players: list[_Player] = []
    with ThreadPoolExecutor(number) as pool:
        try:
            for _ in range(number):
                players.append(_Player(laboratory))
            parts = [pool.submit(player.play, waiting) for player in players]
            for part in as_completed(parts):
                part.result()
        finally:  # a second Ctrl-C may come at any line: the last one waits, no other
            while _next(waiting) is not None:
                pass
            for player in players:
                player.kill()


class _Player:
    """The near end of one process."""

    def __init__(self, laboratory: Laboratory) -> None:
        self._view = laboratory.view
        paths = [str(_ROOT), os.environ.get("PYTHONPATH", "")]
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "simulations.players"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
            text=True,
            start_new_session=True,  # Ctrl-C is for us, who end it
        )
        self._tell(
            {
                "settings": settings_to_json(laboratory.settings).decode(),
                "plan": plan_to_json(laboratory.plan).decode(),
            }
        )

    def play(self, waiting: queue.SimpleQueue[Run]) -> None:
        """Have one run after the other played, until none is left."""
        try:
            while (run := _next(waiting)) is not None:
                with self._view.bar(run.title, run.plan.rounds) as bar:
                    self._play(run, bar)
        finally:
            self.kill()
            self._process.wait()
            for stream in (self._process.stdin, self._process.stdout):
                if stream is not None:
                    with suppress(BrokenPipeError):
                        stream.close()

    def kill(self) -> None:
        """End it at once: whatever it does, a run can be gone on with."""
        self._process.kill()

    def _play(self, run: Run, bar: Bar) -> None:
        self._tell({"run": _RUN.dump_json(run).decode()})
        for line in self._process.stdout or ():
            name, values = json.loads(line)
            match name:
                case "ended":
                    return
                case "mistake":
                    raise PlanError(*values)
                case "failed":
                    raise RunFailed(*values)
                case "said":
                    _LOG.warning("%s: %s", run.title, *values)
                case _:
                    getattr(bar, name)(*values)
        status = self._process.wait()
        raise RunFailed(
            f"{run.title}: its process ended by itself (status {status}). Where "
            "nothing above says why, memory may have run out: go on with a smaller "
            "parallel, with the same command otherwise."
        )

    def _tell(self, message: Mapping[str, Any]) -> None:
        stream = self._process.stdin
        assert stream is not None
        with suppress(BrokenPipeError):  # it died: reading from it says so
            stream.write(json.dumps(message) + "\n")
            stream.flush()


def _next(waiting: queue.SimpleQueue[Run]) -> Run | None:
    try:
        return waiting.get_nowait()
    except queue.Empty:
        return None


class _Teller(logging.Handler):
    """The far end's voice: what happens in a run, as calls of `common.progress.Bar`."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream

    def tell(self, name: str, *values: object) -> None:
        """Send one event."""
        self._stream.write(json.dumps([name, values]) + "\n")
        self._stream.flush()

    def emit(self, record: logging.LogRecord) -> None:
        """Send a warning as a line to show."""
        try:
            self.tell("said", self.format(record))
        except (TypeError, ValueError):  # a record that does not fit its arguments
            self.handleError(record)

    def started(self, done: int, rounds: int, sites: tuple[str, ...]) -> None:
        """Pass on."""
        self.tell("started", done, rounds, sites)

    def round_done(
        self,
        round_: int,
        losses: Mapping[str, float | None],
        evaluated: Mapping[str, Mapping[str, float | None]],
    ) -> None:
        """Pass on."""
        self.tell("round_done", round_, losses, evaluated)

    def finished(self, status: str) -> None:
        """Pass on."""
        self.tell("finished", status)

    def site_answered(self, site: str) -> None:
        """Pass on."""
        self.tell("site_answered", site)


def _serve() -> None:
    """Play what standard input asks for, until it closes."""
    teller = _Teller(os.fdopen(os.dup(1), "w"))
    os.dup2(2, 1)  # what libraries print is no message
    logging.basicConfig(
        level=logging.WARNING, format="%(name)s: %(message)s", handlers=[teller]
    )
    logging.getLogger("flwr").propagate = False
    tasks = _tasks()
    try:
        setup = next(tasks)
        laboratory = open_laboratory(
            settings_from_json(setup["settings"].encode()),
            plan_from_json(setup["plan"].encode()),
            View(Console(quiet=True)),
        )
        for task in tasks:
            run = _RUN.validate_json(task["run"])
            play(laboratory, run, teller, teller.site_answered)
            teller.tell("ended")
    except PlanError as error:
        teller.tell("mistake", str(error))
    except MISTAKES as error:
        teller.tell("failed", str(error))


def _tasks() -> Iterator[dict[str, Any]]:
    """Yield tasks; when standard input closes, in the midst of a run too, end."""
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def listen() -> None:
        for line in sys.stdin:
            lines.put(line)
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    while True:
        yield json.loads(lines.get())


if __name__ == "__main__":
    try:
        _serve()
    except Exception:
        traceback.print_exc()
    # Not by the interpreter's own way: a thread still waits for standard input.
    sys.stderr.flush()
    os._exit(1)
