"""Deadlines follow what sites have needed, the first one the handshake."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from common.plan import Plan, Work
from server.deadlines import GRACE, SLOWER, round_deadline
from tests.support.hospitals import small_plan, small_stage

HELLOS = {
    "alpha": {"images": 100, "seconds_per_image": 0.5},
    "beta": {"images": 400, "seconds_per_image": 0.2},
}


def _entry(round_: int, seconds: float | None, stage: str = "adapt") -> dict[str, Any]:
    return {"stage": stage, "round": round_, "seconds": seconds}


def _plan(work: Work) -> Plan:
    return small_plan(replace(small_stage(), name="adapt", work=work))


@pytest.mark.parametrize(
    ("work", "seconds"),
    [(Work("epochs", 3, 8), 3 * 400 * 0.2), (Work("steps", 10, 8), 10 * 8 * 0.5)],
)
def test_the_first_follows_the_slowest_handshake(work: Work, seconds: float) -> None:
    plan = _plan(work)
    found = round_deadline(plan, plan.stages[0], HELLOS, [])
    assert found == pytest.approx(SLOWER * seconds + GRACE)


def test_later_ones_follow_the_slowest_site_of_the_last_measured_round() -> None:
    plan = _plan(Work("epochs", 1, 8))
    ledger = [_entry(1, 90.0), _entry(2, 7.0), _entry(2, 9.0), _entry(3, None)]
    found = round_deadline(plan, plan.stages[0], HELLOS, ledger)
    assert found == pytest.approx(SLOWER * 9.0 + GRACE)


def test_another_stage_says_nothing_about_this_one() -> None:
    plan = _plan(Work("epochs", 1, 8))
    ledger = [_entry(1, 90.0, "warm_up")]
    found = round_deadline(plan, plan.stages[0], HELLOS, ledger)
    assert found == pytest.approx(SLOWER * 80.0 + GRACE)


def test_the_plan_has_the_last_word() -> None:
    plan = _plan(Work("epochs", 100, 8))
    plan = replace(plan, aggregation=replace(plan.aggregation, round_timeout=33.0))
    assert round_deadline(plan, plan.stages[0], HELLOS, []) == 33.0
