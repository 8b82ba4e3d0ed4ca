"""What a node is doing, in a file that others read: status, health probe, watchdog."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

from common.atomic import write_atomic

STATUS_FILE = "node.json"
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
            "alive": time.time(),
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
        now = time.time()
        self._change(contact=now, alive=now)

    def tick(self) -> None:
        """Note that the node's main thread is alive."""
        self._change(alive=time.time())

    def trouble(self, what: str) -> None:
        """Note what does not work at the moment; holds no value of a message."""
        self._change(trouble=what)

    def certificate(self, ends: float) -> None:
        """Note until when the coordinator's certificate is valid, as it was shown."""
        self._change(certificate_ends=ends)

    def working(self, kind: str) -> None:
        """Note which message is being answered."""
        self._change(now=True, doing=kind, alive=time.time())

    def answered(self, kind: str, well: bool) -> None:
        """Note an answer that arrived at the coordinator."""
        answer = {"kind": kind, "time": time.time(), "refused": not well}
        self._change(now=True, last_answer=answer)

    def idle(self) -> None:
        """Note that nothing is being answered."""
        self._change(now=True, doing="waiting", alive=time.time())

    def _change(self, *, now: bool = False, **facts: Any) -> None:
        with self._lock:
            self._facts |= facts
            if now or time.monotonic() - self._written > _SECONDS:
                self._written = time.monotonic()
                write_atomic(self._path, json.dumps(self._facts).encode(), 0o600)


def read_status(state: Path) -> dict[str, Any]:
    """Return what the node of a site last wrote; empty if there was none."""
    try:
        found = json.loads((state / STATUS_FILE).read_bytes())
    except (OSError, ValueError):
        return {}
    return dict(found) if isinstance(found, dict) else {}
