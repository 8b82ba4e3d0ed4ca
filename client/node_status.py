"""What a node is doing, in a file that others read: status, health probe, watchdog."""

from __future__ import annotations

import json
import math
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common.atomic import write_atomic

STATUS_FILE = "node.json"
HEARTBEAT_THREAD = "heartbeat"

REQUEST_SECONDS = 60.0
"""How long a request may take: Flower waits 30 s for each step of it."""

_SECONDS = 1.0


class NodeStatus:
    """Keeps ``node.json`` of a state folder; times are seconds since 1970.

    Safe to use from two threads. It is written at most once a second, but for changes
    that matter.
    """

    def __init__(self, state: Path) -> None:
        self._path = state / STATUS_FILE
        self._lock = threading.Lock()
        self._written = 0.0
        before = read_status(state)
        self._facts: dict[str, Any] = {
            "pid": os.getpid(),
            "started": time.time(),
            "node_id": int(before.get("node_id", 0)),
            "online": False,
            "doing": "starting",
            "threads": {"node": [time.time(), 0.0]},
            "heartbeat": before.get("heartbeat"),
            "contact": before.get("contact"),
            "last_answer": before.get("last_answer"),
            "trouble": None,
            "certificate_ends": before.get("certificate_ends"),
        }
        self._change(now=True)

    @property
    def last_node_id(self) -> int:
        """Node id of this site's key, from this process or the one before; or 0."""
        return int(self._facts["node_id"])

    def joined(self, node_id: int) -> None:
        """Note that the coordinator let us in."""
        self._change(
            now=True, node_id=node_id, online=True, doing="waiting", trouble=None
        )

    def left(self) -> None:
        """Note that we went offline in good order."""
        self._change(now=True, online=False, doing="stopped")

    def beat(self) -> None:
        """Note a heartbeat that arrived."""
        now = time.time()
        self._change(heartbeat=now, contact=now, trouble=None)

    def contact(self) -> None:
        """Note that the coordinator answered."""
        self._change(contact=time.time())
        self.tick()

    def tick(self, lease: float = 0.0) -> None:
        """Note that this thread is alive: the one that beats, or the node's others.

        Parameters
        ----------
        lease : seconds for which it may now be silent: it waits, or asks and is not
            answered
        """
        beats = threading.current_thread().name == HEARTBEAT_THREAD
        alive = [time.time(), lease]
        with self._lock:
            self._facts["threads"]["heartbeat" if beats else "node"] = alive
        self._change(now=lease > _SECONDS)

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Note that a request is under way, and that it was answered."""
        self.tick(REQUEST_SECONDS)
        yield
        if threading.current_thread() is threading.main_thread():
            self.tick()  # other threads may still ask

    def trouble(self, what: str) -> None:
        """Note what does not work at the moment; holds no value of a message."""
        self._change(trouble=what)

    def certificate(self, ends: float) -> None:
        """Note until when the coordinator's certificate is valid, as it was shown."""
        self._change(certificate_ends=ends)

    def working(self, kind: str) -> None:
        """Note which message is being answered."""
        self._change(now=True, doing=kind)

    def answered(self, kind: str, well: bool) -> None:
        """Note an answer that arrived at the coordinator."""
        answer = {"kind": kind, "time": time.time(), "refused": not well}
        self._change(now=True, last_answer=answer)

    def idle(self) -> None:
        """Note that nothing is being answered."""
        self._change(now=True, doing="waiting")
        self.tick()

    def _change(self, *, now: bool = False, **facts: Any) -> None:
        with self._lock:
            self._facts |= facts
            if now or time.monotonic() - self._written > _SECONDS:
                self._written = time.monotonic()
                write_atomic(self._path, json.dumps(self._facts).encode(), 0o600)


def silence(status: Mapping[str, Any]) -> float:
    """Count the seconds that a node's most silent thread owes a sign of life.

    A clock that was set back makes no old word a recent one.

    Parameters
    ----------
    status : as `read_status`

    Returns
    -------
    inf where nothing was ever said
    """
    threads = status.get("threads") or {"node": [-math.inf, 0.0]}
    now = time.time()
    return max(abs(now - float(at)) - float(lease) for at, lease in threads.values())


def read_status(state: Path) -> dict[str, Any]:
    """Return what the node of a site last wrote; empty if there was none."""
    try:
        found = json.loads((state / STATUS_FILE).read_bytes())
    except (OSError, ValueError):
        return {}
    return dict(found) if isinstance(found, dict) else {}
