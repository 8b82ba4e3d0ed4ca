"""Keeps a site's two processes alive: the node and the resident worker.

A process that ended is started again; a node of which a thread is silent, the one that
asks for messages or the one that beats, is ended first. The supervisor itself holds the
site's lock: there is one of each, whatever people start.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from client.approval import has_left
from client.node_status import read_status, silence
from common.lock import locked

log = logging.getLogger(__name__)

SILENT_SECONDS = 15.0
"""How long a thread of the node may owe a sign of life."""

_GRACE = 20.0
"""A process that starts imports for some seconds before it can say anything."""
_LONGEST_PAUSE = 30.0
_SETTLED = 60.0
_ENDING = 10.0


@dataclass
class _Child:
    """One process, and when it may be started again."""

    name: str
    command: Sequence[str]
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    pause: float = 0.0
    not_before: float = 0.0
    starts: int = field(default=0)

    def keep(self) -> None:
        """Start it if it is not there; wait longer the more often it ends at once."""
        now = time.monotonic()
        if self.process is not None:
            code = self.process.poll()
            if code is None:
                return
            lived = now - self.started
            longer = min(_LONGEST_PAUSE, 2 * self.pause + 1)
            self.pause = 0.0 if lived > _SETTLED else longer
            self.not_before = now + self.pause
            self.process = None
            log.warning(
                "the %s ended with %d after %.0f s; it starts again in %.0f s",
                self.name,
                code,
                lived,
                self.pause,
            )
        if now >= self.not_before:
            self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE)
            self.started, self.starts = now, self.starts + 1
            log.info("%s started, process %d", self.name, self.process.pid)

    @property
    def age(self) -> float:
        """Seconds since it was started."""
        return time.monotonic() - self.started

    def kill(self) -> None:
        """End it at once."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def end(self) -> None:
        """Let it end in good order, or else at once."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(_ENDING)
        except subprocess.TimeoutExpired:
            self.kill()


def supervise(words: Sequence[str], state: Path, stop: threading.Event) -> None:
    """Run a site until told to stop, or until it leaves the federation.

    Parameters
    ----------
    words : of the command line that choose the site
    state : its folder of local state
    stop : set by whoever ends the command

    Raises
    ------
    FolderBusyError
        If another process runs this site.
    """
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    command = [sys.executable, "-m", "client.cli", *words]
    worker = _Child("worker", [*command, "run-worker"])
    node = _Child("node", [*command, "run-node"])
    with locked(state):
        try:
            while not stop.is_set() and not has_left(state):
                worker.keep()
                node.keep()
                if node.process is not None and node.age > _GRACE:
                    _watch(node, state)
                stop.wait(0.5)
        finally:
            node.end()  # first, so that the coordinator is told
            worker.end()


def _watch(node: _Child, state: Path) -> None:
    """End a node that lives but does nothing."""
    status = read_status(state)
    if node.process is None or status.get("pid") != node.process.pid:
        return
    silent = silence(status)
    if silent > SILENT_SECONDS:
        log.warning("a thread of the node is silent for %.0f s: it is ended", silent)
        node.kill()
