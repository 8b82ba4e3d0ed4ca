"""Bars of a terminal, one below the other where threads work side by side."""

from __future__ import annotations

import io
import time

import pytest
from rich.console import Console

from common.progress import View


def view_of(*, terminal: bool) -> tuple[View, io.StringIO]:
    stream = io.StringIO()
    return View(Console(file=stream, force_terminal=terminal, width=120)), stream


def _wait_for(stream: io.StringIO, *texts: str) -> None:
    end = time.monotonic() + 30
    while not all(text in stream.getvalue() for text in texts):
        assert time.monotonic() < end, stream.getvalue()
        time.sleep(0.05)


def test_two_bars_at_a_time_are_both_shown() -> None:
    view, stream = view_of(terminal=True)
    with view.bar("first", 3) as first:
        with view.bar("second", 3) as second:
            first.move(1)
            second.move(2)
            _wait_for(stream, "1/3", "2/3")  # bars are drawn ten times a second
            view.say("a line between")
        assert "second: done in" in stream.getvalue()
        first.move(3)
        assert "first: done in" not in stream.getvalue()
    assert "a line between" in stream.getvalue()
    assert "first: done in" in stream.getvalue()


def test_bars_can_follow_each_other_after_a_failure() -> None:
    view, stream = view_of(terminal=True)
    with pytest.raises(RuntimeError), view.bar("broken", 1):
        raise RuntimeError
    with view.bar("next", 1) as bar:
        bar.move(1)
    shown = stream.getvalue()
    assert "broken: done" not in shown
    assert "next: done in 0 s" in shown


def test_without_a_terminal_there_is_one_line_for_each_part() -> None:
    view, stream = view_of(terminal=False)
    with view.bar("first", 2) as first, view.bar("second", 2):
        first.move(1)
    assert stream.getvalue() == "second: done in 0 s\nfirst: done in 0 s\n"


def test_work_that_is_done_already_says_nothing() -> None:
    view, stream = view_of(terminal=True)
    with view.bar("hidden", 1, quiet=True) as bar:
        bar.move(1)
    assert stream.getvalue() == ""
