"""Pulling replies so that one site cannot hold up those of others.

Flower 1.41 names a reply to the ServerApp as soon as its upload has begun, and pulling
it then waits for the whole: for a site that died half way until the upload's session
ends, 180 s later (``OBJECT_PUSH_SESSION_TTL_SECONDS``). All replies of the same pull
wait with it. So every reply is pulled for itself, in a thread of its own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from functools import partial

from flwr.app import Message
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_utils import pull_objects
from flwr.superlink.grid import http_grid

Pull = Callable[[Iterable[str]], Iterable[Message]]
"""As Flower's ``Grid.pull_messages``: ids of questions, to replies that are there."""

_SECONDS_BETWEEN = 0.1
"""How often each question is looked after, times their number; at the least."""

_SHARE, _LONGEST = 0.03, 5.0
"""What waits for long is looked after less: after this share of the time it waited for,
but in seconds no more than the second. Each look costs the SuperLink 25 ms of a core.
"""


_AGAIN, _AGAIN_AT_MOST = 0.25, 2.0
"""Seconds until Flower looks again for what a site has not uploaded yet, doubling."""


def look_again_soon() -> None:
    """Let Flower look for the rest of a reply sooner, in this process, from now on.

    Flower 1.41 waits 1 s, then 2 s and so on, and has no setting for it. A small reply
    is there a quarter of a second after its name, so that nearly every round lost a
    second or two.
    """
    sooner = partial(pull_objects, initial_backoff=_AGAIN, backoff_cap=_AGAIN_AT_MOST)
    vars(http_grid)["pull_objects"] = sooner


class ApartPull:
    """Pulls each reply apart; a call returns at once, with those that are whole.

    Parameters
    ----------
    grid : whose pulls may be called by several threads at a time, as Flower's
    """

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._pulls: dict[str, _OnePull] = {}
        self._asked: dict[str, float] = {}
        self._errors: list[Exception] = []

    def __call__(self, message_ids: Iterable[str]) -> list[Message]:
        """Return what is whole, and begin to pull what nobody pulls.

        Raises
        ------
        Exception
            What a pull ended with, once nothing whole has to be returned first.
        """
        names = list(message_ids)
        whole: list[Message] = []
        for name in set(self._asked) - set(names):  # nobody waits for it any more
            del self._asked[name]
            self._pulls.pop(name, None)
        now = time.monotonic()
        for name in names:
            waited = now - self._asked.setdefault(name, now)
            pull = self._pulls.get(name)
            if pull is None:
                self._pulls[name] = _OnePull(self._grid, name)
            elif pull.ended.is_set():
                whole += pull.replies
                self._errors += pull.errors
                pause = max(
                    _SECONDS_BETWEEN * len(names), min(_SHARE * waited, _LONGEST)
                )
                if pull.replies or pull.errors or now - pull.began > pause:
                    del self._pulls[name]
        if self._errors and not whole:
            raise self._errors.pop()
        return whole


class _OnePull:
    """A pull of one reply, under way or ended; a thread that hangs is left behind."""

    def __init__(self, grid: Grid, name: str) -> None:
        self.began = time.monotonic()
        self.replies: list[Message] = []
        self.errors: list[Exception] = []
        self.ended = threading.Event()
        threading.Thread(target=self._run, args=(grid, name), daemon=True).start()

    def _run(self, grid: Grid, name: str) -> None:
        try:
            self.replies += grid.pull_messages([name])
        except Exception as error:  # raised again by whoever asks
            self.errors.append(error)
        self.ended.set()
