"""A reply that never becomes whole holds up nobody else's."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterable
from typing import Any, cast

import numpy as np
import pytest
from flwr.app import Message
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_utils import ObjectUnavailableError
from flwr.superlink.grid import http_grid

from server import pulling
from server.pulling import ApartPull


class Slow:
    """A grid whose replies are there, still coming, or broken."""

    def __init__(self, **replies: object) -> None:
        self.replies, self.asked = replies, Counter[str]()
        self.coming = threading.Event()

    def pull_messages(self, names: Iterable[str]) -> list[Message]:
        (name,) = names
        self.asked[name] += 1
        reply = self.replies.get(name)
        if isinstance(reply, Exception):
            raise reply
        if reply == "coming":
            self.coming.wait(60)
        return [] if reply is None else [cast(Message, f"{reply} {name}")]


def pull_of(grid: Slow) -> ApartPull:
    return ApartPull(cast(Grid, grid))


def pulled(pull: ApartPull, names: list[str], seconds: float = 5.0) -> list[Any]:
    """Ask again and again until there is something."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := pull(names):
            return found
        time.sleep(0.01)
    return []


def test_who_died_amid_an_upload_holds_up_nobody() -> None:
    grid = Slow(north="whole", harbour="coming")
    pull = pull_of(grid)
    assert pulled(pull, ["north", "harbour"]) == ["whole north"]
    assert pulled(pull, ["harbour"], 0.5) == []
    assert grid.asked["harbour"] == 1  # the one that waits is waited for
    grid.coming.set()
    assert pulled(pull, ["harbour"]) == ["coming harbour"]


def test_a_question_without_a_reply_is_looked_after_again() -> None:
    grid = Slow()
    pull = pull_of(grid)
    assert pulled(pull, ["north", "harbour"], 0.7) == []
    assert 2 <= grid.asked["north"] <= 5, "every 0.2 s"
    grid.replies["north"] = "whole"
    assert pulled(pull, ["north", "harbour"]) == ["whole north"]


def test_what_is_waited_for_long_is_looked_after_less(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pulling, "_SHARE", 1.0)
    grid = Slow()
    pull = pull_of(grid)
    assert pulled(pull, ["north"], 2.0) == []
    assert grid.asked["north"] <= 8, "at 0, 0.1, 0.2, 0.4, 0.8 and 1.6 s, or later"
    grid.replies["north"] = "whole"
    assert pulled(pull, ["north"]) == ["whole north"]


def test_what_is_not_uploaded_yet_is_looked_for_again_soon(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http_grid, "pull_objects", http_grid.pull_objects)  # put back
    pulling.look_again_soon()
    tries: list[float] = []

    def pull_object(name: str) -> bytes:
        tries.append(time.monotonic())
        if len(tries) < 3:
            raise ObjectUnavailableError(name)
        return b"whole"

    assert http_grid.pull_objects(["one"], pull_object) == {"one": b"whole"}
    first, second = np.diff(tries)
    assert 0.15 < first < second, "0.25 s and 0.5 s, a fifth more or less"
    assert tries[-1] - tries[0] < 1.8, "Flower alone waits 1 s and 2 s"


def test_an_error_is_raised_and_loses_no_reply() -> None:
    pull = pull_of(Slow(north="whole", harbour=OSError("cut")))
    found: list[Any] = []
    with pytest.raises(OSError, match="cut"):
        for _ in range(500):
            found += pull(["north", "harbour"])
            time.sleep(0.01)
            if found:
                found += pull(["harbour"])
    assert found == ["whole north"]


def test_a_reply_that_nobody_waits_for_any_more_is_dropped() -> None:
    grid = Slow(harbour="coming")
    pull = pull_of(grid)
    pull(["harbour"])
    assert pull([]) == []
    grid.coming.set()
    assert pulled(pull, ["other"], 0.3) == []
