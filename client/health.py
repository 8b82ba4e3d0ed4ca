"""Whether a site is at work: decided here, for ``status`` and for the health probe."""

from __future__ import annotations

import os
import time
from pathlib import Path

from client.approval import has_left
from client.node_status import read_status, silence
from client.supervisor import SILENT_SECONDS
from common.lock import is_held

PAUSED_FILE = "paused"
"""Of a state folder: while it is there, the site refuses work."""

WORKER_LOCK = "worker.lock"
"""Of a state folder: held by the worker for as long as it lives."""

UNHEARD_SECONDS = 60.0
"""The coordinator has missed several heartbeats by then."""


def obstacle(state: Path) -> str | None:
    """Tell what keeps a site from its work; None where nothing does.

    Parameters
    ----------
    state : the site's folder of local state; need not exist
    """
    if has_left(state):
        return "it has left the federation"
    if (state / PAUSED_FILE).exists():
        return "it is paused"
    status = read_status(state)
    if not _lives(status.get("pid")):
        return "the node does not run"
    if not silence(status) < SILENT_SECONDS:
        return "the node is silent"
    if not status.get("online"):
        return "the node is not connected to the coordinator"
    if not _since(status.get("heartbeat")) < UNHEARD_SECONDS:
        return "heartbeats do not arrive at the coordinator"
    if not is_held(state / WORKER_LOCK):
        return "the worker does not run"
    return None


def _lives(pid: object) -> bool:
    try:
        os.kill(int(str(pid)), 0)
    except (ValueError, OSError):
        return False
    return True


def _since(moment: object) -> float:
    """Count seconds; a clock that was set back makes no old word a recent one."""
    return abs(time.time() - float(str(moment or 0.0)))
