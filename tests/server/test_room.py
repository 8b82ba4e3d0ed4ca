"""A coordinator's disk that is too full is noticed before a round is played."""

from __future__ import annotations

import json
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest

from server import room
from server.participation import RunFailed
from server.room import require_room
from tests.support.hospitals import small_plan
from tests.support.runs import assert_same_models, play

_Usage = namedtuple("_Usage", ["total", "used", "free"])


def _leave(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(room, "disk_usage", lambda folder: _Usage(0, 0, free))


@pytest.mark.parametrize(("free", "fits"), [(700, True), (699, False)])
def test_a_round_needs_four_checkpoints_and_a_message_of_every_site(
    free: int, fits: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _leave(monkeypatch, free)
    shared = {"weight": np.zeros(25, np.float32)}
    if fits:
        require_room(tmp_path, shared, sites=3)
    else:
        with pytest.raises(RunFailed, match="too full"):
            require_room(tmp_path, shared, sites=3)


def test_a_run_stops_before_the_round_and_goes_on_once_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = small_plan()
    play(plan, tmp_path / "undisturbed")
    looks = iter([10**12, 10**12])  # then the disk is full
    with monkeypatch.context() as full:
        full.setattr(room, "disk_usage", lambda folder: _Usage(0, 0, next(looks, 0)))
        with pytest.raises(RunFailed, match="Make room, then resume"):
            play(plan, tmp_path / "full")
    failure = tmp_path / "full" / "coordinator" / "failure.json"
    assert "too full" in json.loads(failure.read_bytes())["reason"]
    play(plan, tmp_path / "full")
    assert not failure.exists()
    assert_same_models(plan, tmp_path / "undisturbed", tmp_path / "full", plan.rounds)
