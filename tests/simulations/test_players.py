"""Runs side by side: the same numbers, and nothing lost when a process dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from common.compose import compose_tree, plan_of
from common.lock import locked
from common.plan import PlanError
from simulations.laboratory import with_threads
from simulations.run import main
from simulations.settings import claim_folder, settings_of
from tests.support.commands import small

ARMS = ("fedavg", "fedavg_local_stats", "fedbn")
TWO_LONG_RUNS = (
    "arms=[fedavg,fedbn]",
    "compare=[fedavg,fedbn]",
    "rates=[]",
    "seeds=[0]",
    "plan.stages.adapt.rounds=24",
)
ENDLESS = "plan.stages.adapt.rounds=2000"
_PATIENCE = 240.0
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("players")


def words(root: Path, run_dir: Path, *more: str) -> list[str]:
    return [
        "experiment=demo",
        f"run_dir={run_dir}",
        f"arms=[{','.join(ARMS)}]",
        f"compare=[{','.join(ARMS)}]",
        "rates=[0.003,0.01]",
        "seeds=[0,1]",
        *small(root, ("north", "lakeside")),
        "cross_site=false",
        *more,
    ]


@pytest.fixture(scope="module")
def one_by_one(root: Path) -> Path:
    run_dir = root / "one_by_one"
    main(words(root, run_dir, "parallel=1"))
    return run_dir


def numbers(run_dir: Path) -> dict[str, Any]:
    """Take what must not depend on how the runs were played."""
    report = json.loads((run_dir / "report.json").read_bytes())
    rates = json.loads((run_dir / "chosen_rates.json").read_bytes())
    return {"arms": report["arms"], "paired": report["paired"], "rates": rates}


def children(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Find the players; a helper of Python's that makes images is none."""
    found: list[psutil.Process] = psutil.Process(process.pid).children()
    return [child for child in found if "simulations.players" in child.cmdline()]


def wait_for(what: Any) -> None:
    end = time.monotonic() + _PATIENCE
    while not what():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def _heed_ctrl_c() -> None:
    """Undo what a shell does to jobs in its background, such as a CI's."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def started(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """Run `mammo-sim` as a process of its own."""
    with subprocess.Popen(
        [sys.executable, "-m", "simulations.run", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        preexec_fn=_heed_ctrl_c,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def first_round(run_dir: Path) -> bool:
    return any(run_dir.glob("arms/*/*/coordinator/checkpoints/round-*.json"))


def test_runs_side_by_side_give_the_same_numbers(
    root: Path, one_by_one: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = root / "side_by_side"
    main(words(root, run_dir, "parallel=2"))
    said = capsys.readouterr().out
    assert "2 at a time" in said
    assert "fedbn, seed 1" in said and "fedavg_local_stats, seed 1, last" in said
    assert numbers(run_dir) == numbers(one_by_one)


def test_after_a_process_was_killed_the_same_command_goes_on(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = root / "killed_player"
    command = words(root, run_dir, "parallel=2", *TWO_LONG_RUNS)
    with started(command) as process:
        wait_for(lambda: first_round(run_dir))
        children(process)[0].kill()
        _, error = process.communicate(timeout=_PATIENCE)
    assert process.returncode == 1
    assert "its process ended by itself (status -9)" in error
    assert "Traceback" not in error
    main(command)
    assert "Going on with the run" in capsys.readouterr().out
    assert (run_dir / "report.html").is_file()


def test_players_end_with_the_command_and_its_run_goes_on(
    root: Path, one_by_one: Path
) -> None:
    run_dir = root / "killed"
    with started(words(root, run_dir, "parallel=2")) as process:
        wait_for(lambda: first_round(run_dir))
        players = children(process)
        assert len(players) == 2
        process.kill()
    psutil.wait_procs(players, timeout=_PATIENCE)
    assert not any(player.is_running() for player in players)
    main(["resume", str(run_dir)])
    assert numbers(run_dir) == numbers(one_by_one)


def test_ctrl_c_ends_the_players_and_says_how_to_go_on(root: Path) -> None:
    run_dir = root / "stopped"
    command = words(root, run_dir, "parallel=2", *TWO_LONG_RUNS, ENDLESS)
    with started(command) as process:
        wait_for(lambda: first_round(run_dir))
        players = children(process)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=_PATIENCE)
    assert process.returncode == 130
    assert "mammo-sim resume DIR" in error
    assert "Traceback" not in error
    assert not any(player.is_running() for player in players)


def test_a_run_that_another_process_plays_is_refused(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = root / "busy"
    busy = run_dir / "arms" / "fedavg" / "seed-0-rate-0.003"
    command = words(root, run_dir, "parallel=2")
    tree = compose_tree(command)
    claim_folder(settings_of(tree), plan_of(tree))
    with pytest.raises(SystemExit) as stopped, locked(busy):
        main(command)
    assert stopped.value.code == 1
    assert f"Another process works in {busy}" in capsys.readouterr().err


def test_ray_has_processes_of_its_own(root: Path) -> None:
    settings = settings_of(
        compose_tree(words(root, root / "ray", "parallel=2", "backend=ray"))
    )
    assert settings.parallel == 1


@pytest.mark.parametrize("twice", ["seeds=[0,0]", "rates=[0.01,0.01000000001]"])
def test_a_seed_or_rate_given_twice_is_refused(root: Path, twice: str) -> None:
    with pytest.raises(PlanError, match="twice"):
        settings_of(compose_tree(words(root, root / "twice", twice)))


def test_threads_are_shared_out_and_stay_those_of_the_folder(root: Path) -> None:
    asked = words(root, root / "threads", "parallel=2")
    tree = compose_tree([*asked, "threads=null"])
    settings, plan = settings_of(tree), plan_of(tree)
    before = torch.get_num_threads()
    torch.set_num_threads(5)
    try:
        first = with_threads(settings, plan)
        claim_folder(first, plan)
        again = with_threads(replace(settings, parallel=1), plan)
    finally:
        torch.set_num_threads(before)
    assert (first.threads, again.threads) == (2, 2)


def test_a_player_that_nobody_listens_to_ends_whatever_it_does() -> None:
    command = [sys.executable, "-P", "-m", "simulations.players"]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    ) as player:
        assert player.stdin is not None
        player.stdin.close()
        try:
            assert player.wait(timeout=_PATIENCE) == 0
        finally:
            player.kill()
