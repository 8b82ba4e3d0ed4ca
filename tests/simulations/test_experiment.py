"""Which runs an experiment consists of; nothing is trained here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from common.compose import compose_tree, plan_of
from common.progress import View
from simulations import experiment
from simulations.experiment import Runs, run_arms
from simulations.federation import Machine
from simulations.laboratory import Laboratory
from simulations.results import Finished
from simulations.settings import settings_of


@pytest.fixture
def laboratory(tmp_path: Path) -> Laboratory:
    tree = compose_tree(
        [
            "experiment=demo",
            f"run_dir={tmp_path}",
            "arms=[fedbn,fedavg]",
            "compare=[fedbn,fedavg]",
            "rates=[0.001,0.01,0.003]",
            "seeds=[7,8,9]",
        ]
    )
    settings, plan = settings_of(tree), plan_of(tree)
    return Laboratory(settings, plan, {}, Machine(), View(), synthetic=True)


def test_every_seed_gets_the_rate_that_was_best_for_its_arm(
    laboratory: Laboratory, monkeypatch: pytest.MonkeyPatch
) -> None:
    best = {"fedbn": 0.01, "fedavg": 0.003}
    played: list[tuple[str, int, float]] = []

    def play_all(_: Laboratory, runs: Runs) -> Mapping[str, list[Finished]]:
        played.extend((r.arm, r.seed, r.rate) for of in runs.values() for r in of)
        return {
            arm: [Finished(r.arm, r.seed, r.rate, r.plan, {}, {}, ()) for r in of]
            for arm, of in runs.items()
        }

    monkeypatch.setattr(experiment, "_play_all", play_all)
    monkeypatch.setattr(
        experiment, "selection_value", lambda run: float(run.rate == best[run.arm])
    )
    done = run_arms(laboratory)
    assert list(done) == ["fedbn", "fedavg"]
    for arm, runs in done.items():
        assert [(run.seed, run.rate) for run in runs] == [
            (seed, best[arm]) for seed in (7, 8, 9)
        ]
        rates = {run.plan.stages[-1].optimizer.learning_rate for run in runs}
        assert rates == {best[arm]} and [r.plan.seed for r in runs] == [7, 8, 9]
    searched = [(arm, 7, rate) for arm in best for rate in (0.001, 0.01, 0.003)]
    assert played[:6] == searched and len(played) == 10
