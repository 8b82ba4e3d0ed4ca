"""The same apps on Ray give the same weights, bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.participation import RunFailed
from simulations.federation import Machine, run_in_process
from tests.support.hospitals import populations, small_plan
from tests.support.runs import assert_same_models

pytest.importorskip("ray", reason="the extra `ray` is not installed")


def test_ray_and_one_process_give_the_same_models(tmp_path: Path) -> None:
    from simulations.ray import run_with_ray

    plan, machine = small_plan(sites=("alpha", "beta")), Machine(threads=1)
    one, other = tmp_path / "one", tmp_path / "ray"
    here = run_in_process(plan, populations(plan), one, machine, synthetic=True)
    there = run_with_ray(plan, populations(plan), other, machine, synthetic=True)
    assert there.state.shared_hash == here.state.shared_hash
    assert there.selected == here.selected
    assert_same_models(plan, one, other, plan.rounds)


class _Lame:
    """Stands in for Ray: it starts after so many failures."""

    def __init__(self, failures: int) -> None:
        self.failures, self.ended = failures, 0

    def init(self, **_settings: object) -> None:
        self.failures -= 1
        if self.failures >= 0:
            raise Exception("The current node timed out during startup.")

    def shutdown(self) -> None:
        self.ended += 1


def test_ray_is_started_once_more_where_it_does_not_come_up() -> None:
    from simulations.ray import start_ray

    lame = _Lame(failures=1)
    start_ray(lame, 2)
    assert (lame.failures, lame.ended) == (-1, 1)
    with pytest.raises(RunFailed, match=r"timed out.*backend=in_process"):
        start_ray(_Lame(failures=2), 2)
