"""Killed with SIGKILL at every kind of moment, then resumed: the undisturbed result."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from common.checkpoint import CheckpointError
from common.plan import Plan
from tests.support.hospitals import small_plan
from tests.support.killed_run import PHASES, two_stage_plan
from tests.support.runs import assert_same_models, play

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, Path, int]:
    plan = two_stage_plan()
    folder = tmp_path_factory.mktemp("undisturbed")
    outcome = play(plan, folder)
    return plan, folder, outcome.selected


@pytest.mark.parametrize("phase", PHASES)
def test_a_killed_run_resumes_to_the_undisturbed_one(
    phase: str, undisturbed: tuple[Plan, Path, int], tmp_path: Path
) -> None:
    plan, reference, selected = undisturbed
    killed = subprocess.run(
        [sys.executable, "-m", "tests.support.killed_run", str(tmp_path), phase],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (tmp_path / "coordinator" / "outcome.json").exists()
    outcome = play(plan, tmp_path)
    assert outcome.status == "complete"
    assert outcome.selected == selected
    for round_ in {selected, plan.rounds}:
        assert_same_models(plan, reference, tmp_path, round_)


def test_a_finished_run_closes_again_to_the_same(
    undisturbed: tuple[Plan, Path, int], tmp_path: Path
) -> None:
    plan, reference, selected = undisturbed
    for _ in range(2):
        assert play(plan, tmp_path).selected == selected
    assert_same_models(plan, reference, tmp_path, plan.rounds)


def test_a_folder_of_another_plan_is_refused(tmp_path: Path) -> None:
    play(small_plan(), tmp_path)
    with pytest.raises(CheckpointError, match="another plan"):
        play(small_plan(seed=9), tmp_path)


def test_a_damaged_checkpoint_is_refused_loudly(tmp_path: Path) -> None:
    play(small_plan(), tmp_path)
    newest = max((tmp_path / "coordinator" / "checkpoints").glob("*.safetensors"))
    content = bytearray(newest.read_bytes())
    content[-1] ^= 1
    newest.write_bytes(bytes(content))
    with pytest.raises(CheckpointError, match="does not match the hash"):
        play(small_plan(), tmp_path)
