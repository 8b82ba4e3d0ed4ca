"""The benchmark: its estimators on given numbers, its loop, and a very small run."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from typer.testing import CliRunner

from client.data.dataset import build_dataset
from common.plan import PlanError
from common.progress import Bar, View
from simulations import benchmark, benchmark_runs
from simulations.benchmark import Settings, app, memory_growth, ray_ratio, targets
from simulations.benchmark_data import PlainLoop, hospitals, job
from simulations.benchmark_runs import (
    Run,
    Watch,
    median_interval,
    null_ratios,
    ratios,
    slope,
)
from simulations.federation import Machine, run_in_process
from tests.support.runs import model_tensors

TINY = ["--model", "resnet_tiny", "--rows", "32"]
FIELDS = {
    "accounted_overhead",
    "in_process_ratio",
    "low",
    "high",
    "null_ratio",
    "by_sites",
    "ray_ratio",
    "memory_mb_per_round",
}


def a_run(**changes: Any) -> Run:
    values: dict[str, Any] = {
        "sites": 2,
        "opening": 1.0,
        "closing": 3.0,
        "federated": {1: 11.0, 2: 13.0},
        "plain": {},
        "training": [5.0, 5.0, 5.0, 5.0],
        "memory": [],
    }
    return Run(**(values | changes))


def result(**changes: Any) -> dict[str, Any]:
    measured = {"accounted_overhead": 0.03, "low": 1.03, "memory_mb_per_round": 0.99}
    return measured | changes


def test_overhead_of_the_rounds_played_is_the_definition() -> None:
    whole, training = 1.0 + 11.0 + 13.0 + 3.0, 20.0
    assert a_run().overhead(2) == pytest.approx((whole - training) / training)


def test_a_short_run_is_carried_on_with_one_opening_and_closing() -> None:
    assert a_run().overhead(20) == pytest.approx((1 + 20 * 12 + 3 - 200) / 200)


def test_each_round_is_divided_by_its_own_neighbour() -> None:
    federated = {1: 99.0, 2: 2.2, 3: 4.4, 4: 8.8, 5: 1.1}
    plain = {2: 2.0, 3: 4.0, 4: 8.0, 5: 1.0}
    assert ratios(federated, plain) == pytest.approx([1.1] * 4)


def test_a_drifting_machine_leaves_the_null_ratio_near_one() -> None:
    plain = {number: 1.02**number for number in range(2, 42)}
    assert median_interval(null_ratios(plain))[0] == pytest.approx(1.0, abs=1e-3)


def test_plain_against_itself_is_one() -> None:
    plain = {number: 1.0 + number % 3 for number in range(2, 42)}
    assert median_interval(ratios(plain, plain)) == (1.0, 1.0, 1.0)


def test_the_interval_agrees_with_order_statistics() -> None:
    """The exact 95 % interval of a median of 40 lies at the 14th and 27th value."""
    values = np.random.default_rng(5).normal(1.02, 0.01, 40)
    ordered = np.sort(values)
    middle, low, high = median_interval(list(values))
    assert middle == pytest.approx(np.median(values))
    assert ordered[11] <= low <= ordered[15]
    assert ordered[24] <= high <= ordered[28]
    assert median_interval(list(values)) == (middle, low, high)


def test_slope_is_the_growth_per_round() -> None:
    assert slope([7.0, 7.5, 8.0, 8.5]) == pytest.approx(0.5)


def test_growth_before_round_five_does_not_count() -> None:
    memory = [0, 10**9, 2 * 10**9, 3 * 10**9, 4 * 10**9]
    memory += [5 * 10**9 + 2_000_000 * round_ for round_ in range(20)]
    assert memory_growth(memory)["memory_mb_per_round"] == pytest.approx(2.0)
    assert memory_growth([])["memory_mb_per_round"] is None
    assert memory_growth([])["memory_reason"]


def test_a_target_that_is_met_exactly_holds() -> None:
    assert targets(result()) == {
        "accounted_overhead": True,
        "in_process_ratio": True,
        "memory_mb_per_round": True,
    }


@pytest.mark.parametrize(
    ("field", "value", "target"),
    [
        ("accounted_overhead", 0.031, "accounted_overhead"),
        ("low", 1.031, "in_process_ratio"),
        ("memory_mb_per_round", 1.0, "memory_mb_per_round"),
    ],
)
def test_a_target_that_is_missed_does_not_hold(
    field: str, value: float, target: str
) -> None:
    missed = targets(result(**{field: value}))
    assert [name for name, holds in missed.items() if not holds] == [target]


def test_rounds_and_plain_loops_alternate_and_stay_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a clock that each event moves: F 1, F 10, P P, F 10, F 10, P P, F 10."""
    now, order = [0.0], []

    def spend(what: str, seconds: float) -> float:
        order.append(what)
        now[0] += seconds
        return seconds

    monkeypatch.setattr(
        benchmark_runs, "time", SimpleNamespace(perf_counter=lambda: now[0])
    )
    loop = SimpleNamespace(play=lambda number: spend(f"P{number}", 7.0))
    with View().bar("test", 5, quiet=True) as bar:
        watch = Watch(cast(Bar, bar), cast(PlainLoop, loop))
        watch.started(0, 5, ("alpha",))
        for round_ in range(1, 6):
            spend(f"F{round_}", 10.0)
            watch.round_done(round_, {}, {})
    assert order == ["F1", "F2", "P2", "P3", "F3", "F4", "P4", "P5", "F5"]
    assert watch.federated == dict.fromkeys(range(1, 6), 10.0)
    assert watch.plain == dict.fromkeys(range(2, 6), 7.0)


def test_a_round_of_one_site_and_the_plain_loop_end_at_the_same_weights(
    tmp_path: Path,
) -> None:
    plan = job(1, 1, 3, "resnet_tiny", 32)
    populations = hospitals(plan)
    run_in_process(plan, populations, tmp_path, Machine(threads=1), synthetic=True)
    federated = model_tensors(tmp_path, plan, plan.roster.sites[0], 1)
    loop = PlainLoop(plan, populations)
    start = {key: value.clone() for key, value in loop.model.state_dict().items()}
    loop.play(1)
    plain = loop.model.state_dict()
    assert federated.keys() == plain.keys()
    assert all(np.array_equal(federated[key], plain[key].numpy()) for key in plain)
    assert not all(np.array_equal(start[key].numpy(), federated[key]) for key in plain)


def test_evaluation_is_one_patient_per_part() -> None:
    plan = job(1, 1, 1, "resnet_tiny", 32)
    (site,) = plan.roster.sites
    rows = build_dataset(hospitals(plan)[site], plan).rows
    patients = rows.groupby("part")["patient_key"].nunique().to_dict()
    assert patients == {"train": 64, "validation": 1, "test": 1}
    assert set(rows.loc[rows["part"] == "validation", "target"]) == {0, 1}


def test_a_very_small_run_gives_every_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "MEMORY_ROUNDS", 8)
    file = tmp_path / "overhead.json"
    words = ["overhead", "--json", str(file), "--no-ray", *TINY]
    words += ["--seconds", "0.02", "--pairs", "2", "--sites", "1,3"]
    ended = CliRunner().invoke(app, words)
    assert ended.exit_code == 0, ended.output
    assert "in all" in ended.output and "holds" in ended.output
    measured = json.loads(file.read_text())
    assert measured.keys() >= FIELDS
    assert measured["ray_ratio"] is None and measured["ray_reason"]
    assert measured["by_sites"].keys() == {"1", "3"}
    assert measured["accounted_overhead"] > 0
    assert measured["low"] <= measured["in_process_ratio"] <= measured["high"]
    assert set(measured["machine"]) >= {"torch", "threads", "cpus", "steps_per_round"}
    trained = measured["runs"]["pairs"]["training_seconds_per_site_round"]
    assert trained > 0.01


def test_sites_that_are_no_numbers_are_refused() -> None:
    ended = CliRunner().invoke(app, ["overhead", "--sites", "three"])
    assert ended.exit_code == 2
    assert "3,10,30" in ended.output


def test_a_missing_folder_is_refused_before_anything_is_measured(
    tmp_path: Path,
) -> None:
    words = ["overhead", "--json", str(tmp_path / "no" / "file.json")]
    assert CliRunner().invoke(app, words).exit_code == 2


def test_without_the_extra_the_ray_ratio_is_null_with_its_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def absent(*_: object, **__: object) -> Run:
        raise PlanError("needs the extra")

    monkeypatch.setattr(benchmark, "play", absent)
    settings = Settings(0.02, 2, (1,), ray=True, model="resnet_tiny", rows=32)
    answer = ray_ratio(settings, View(), 1)
    assert answer == {"ray_ratio": None, "ray_reason": "needs the extra"}
