"""Long runs of many processes: nothing grows, and twenty hospitals are not too many.

``make soak`` runs them and prints the table that README shows.
"""

from __future__ import annotations

import os
import tempfile
from collections import defaultdict
from pathlib import Path

import psutil
import pytest

from common.plan import Model, Roster
from common.stages import Optimizer, Stage, Work
from tests.e2e.consortium import PATIENCE, TestConsortium, small_plan
from tests.e2e.soak import Sample, files_in, sample, trends

pytestmark = [pytest.mark.soak, pytest.mark.timeout(5400)]

ROUNDS = int(os.environ.get("SOAK_ROUNDS", "200"))
SITES = int(os.environ.get("SOAK_SITES", "20"))

GROWTH = 0.02
"""What no process may grow by in a round, beyond two standard errors of the slope: MB,
threads, handles or files. It is 4 of them over 200 rounds. A pool opens one connection
more now and then, several handles at once, so that there may be more at the end than at
the start without a leak; a leak has a slope.
"""


def _stage(rounds: int) -> Stage:
    return Stage(
        name="adapt",
        rounds=rounds,
        model=Model("resnet_tiny"),
        work=Work("steps", 3, 8),
        optimizer=Optimizer("adamw", learning_rate=0.001, state="keep"),
    )


def test_nothing_grows_over_many_rounds(
    archives: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    names = [f"site_{number}" for number in range(5)]
    with TestConsortium(tmp_path / "consortium", archives, names) as consortium:
        consortium.open()
        plan = small_plan(
            "soak", stages=(_stage(ROUNDS),), roster=Roster(tuple(names), (), 5)
        )
        consortium.adopt(plan)
        run = consortium.start_run()
        samples: dict[str, list[tuple[int, Sample]]] = defaultdict(list)
        done = 0
        while done < ROUNDS:
            consortium.wait_for(
                f"round {done + 1}",
                lambda last=done: consortium.round_saved() > last,  # type: ignore[misc]
            )
            done = consortium.round_saved()
            for name, process in _processes(consortium).items():
                samples[name].append((done, sample(process)))
            files = {"files": float(files_in([temporary]))}
            samples["temporary folder"].append((done, files))
        outcome = consortium.outcome(run, PATIENCE)
    assert outcome["status"] == "complete"
    assert all(entry["attempts"] == 1 for entry in outcome["ledger"])
    found = list(trends(samples))
    print(f"\n{ROUNDS} rounds, {len(names)} sites, resnet_tiny\n")
    print("| process | quantity | second quarter | last quarter | slope a round |")
    print("|---|---|---|---|---|", *found, sep="\n")
    for trend in found:
        assert trend.slope - 2 * trend.noise < GROWTH, trend


def test_twenty_sites_complete_a_run(archives: Path, tmp_path: Path) -> None:
    names = [f"site_{number:02d}" for number in range(SITES)]
    with TestConsortium(tmp_path, archives, names) as consortium:
        consortium.open()
        plan = small_plan(
            "many", stages=(_stage(3),), roster=Roster(tuple(names), (), SITES)
        )
        outcome = consortium.play(plan)
    assert outcome["status"] == "complete"
    assert len(outcome["ledger"]) == 3 * SITES
    seconds = outcome["seconds"].values()
    print(f"\n{SITES} sites, 3 rounds: {', '.join(f'{s:.1f}' for s in seconds)} s")


def _processes(consortium: TestConsortium) -> dict[str, psutil.Process]:
    """Find every process of a consortium that lasts for the whole run."""
    superlink = psutil.Process(consortium.processes["superlink"].pid)
    found = {"superlink": superlink}
    found["door"] = psutil.Process(consortium.processes["door"].pid)
    for child in superlink.children(recursive=True):
        words = " ".join(child.cmdline())
        for name in ("flower-superexec", "flwr-serverapp"):
            if name in words:
                found[name] = child
    for hospital in consortium.hospitals:
        for role, process in consortium.family(hospital.name).items():
            found[f"{hospital.name} {role}"] = process
    return found
