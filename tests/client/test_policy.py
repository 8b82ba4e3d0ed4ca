"""What leaves banded or not at all, which plans are refused, and broken files."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from client.policy import PolicyError, SitePolicy, describe_policy, read_policy
from common.records import Code, Refusal
from tests.support.hospitals import small_plan, small_stage


@pytest.mark.parametrize(
    ("count", "released"),
    [(0, 1), (7, 1), (10, 10), (49, 20), (110, 100), (10**6, 10**5)],
)
def test_a_banded_count_is_the_step_below(count: int, released: int) -> None:
    assert SitePolicy(counts="banded").release_count(count) == released


def test_exact_counts_and_metrics_pass_as_they_are() -> None:
    assert SitePolicy().release_count(37) == 37
    assert SitePolicy().release_metric(0.8) == 0.8


def test_a_withheld_metric_is_nan() -> None:
    assert math.isnan(SitePolicy(release_metrics=False).release_metric(0.8))


def test_a_policy_is_read_key_by_key(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(
        "counts: banded\nrelease_metrics: false\ntargets: [birads]\n"
        "sharing: [fedbn, slll]\nmaximum_rounds: 40\nminimum_sites: 3\n"
    )
    assert read_policy(file) == SitePolicy(
        "banded", False, ("birads",), ("fedbn", "slll"), 40, 3
    )


@pytest.mark.parametrize("text", [None, "", "# nothing is set\n"])
def test_without_a_policy_every_approved_plan_is_allowed(
    tmp_path: Path, text: str | None
) -> None:
    if text is not None:
        (tmp_path / "policy.yaml").write_text(text)
    policy = read_policy(tmp_path / "policy.yaml")
    assert policy == SitePolicy()
    policy.require(small_plan())


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("maximum_round: 3", "maximum_round"),
        ("counts: rounded", "counts"),
        ("maximum_rounds: 0", "maximum_rounds"),
        ("minimum_sites: many", "minimum_sites"),
        ("counts: banded\nnonsense: 1", "nonsense"),
        ("counts: [", "cannot be read"),
        ("\x00", "cannot be read"),
        ("just a text", "is not valid"),
        ("- counts", "is not valid"),
    ],
)
def test_a_limit_that_would_not_be_read_is_an_error(
    tmp_path: Path, text: str, told: str
) -> None:
    (tmp_path / "policy.yaml").write_text(text)
    with pytest.raises(PolicyError, match=told) as caught:
        read_policy(tmp_path / "policy.yaml")
    assert "policy.yaml" in str(caught.value)


@pytest.mark.parametrize(
    ("limits", "told"),
    [
        ({"targets": ("birads",)}, "predicts cancer_pathology.*targets"),
        ({"targets": ()}, "predicts cancer_pathology"),
        ({"sharing": ("fedbn",)}, "shares by fedbn_head.*sharing"),
        ({"maximum_rounds": 5}, "has 6 rounds.*maximum_rounds: 5"),
        ({"minimum_sites": 3}, "goes on with 2 sites.*minimum_sites: 3"),
    ],
)
def test_a_plan_beyond_a_limit_is_refused_and_the_limit_named(
    limits: dict[str, Any], told: str
) -> None:
    plan = small_plan(small_stage(), small_stage("later"))
    with pytest.raises(Refusal, match=told) as caught:
        SitePolicy(**limits).require(plan)
    assert caught.value.code == Code.POLICY


@pytest.mark.parametrize(
    "limits",
    [
        {"targets": ("birads", "cancer_pathology")},
        {"sharing": ("slll",)},  # four letters that say fedbn_head
        {"sharing": ("fedbn", "fedbn_head")},
        {"maximum_rounds": 6},
        {"minimum_sites": 2},
    ],
)
def test_a_plan_within_the_limits_is_allowed(limits: dict[str, Any]) -> None:
    SitePolicy(**limits).require(small_plan(small_stage(), small_stage("later")))


def test_every_stage_is_compared() -> None:
    plan = small_plan(small_stage(), small_stage("later", sharing="fedavg"))
    with pytest.raises(Refusal, match="shares by fedavg"):
        SitePolicy(sharing=("fedbn_head",)).require(plan)


def test_a_policy_in_words_tells_every_key() -> None:
    strict = SitePolicy("banded", False, ("birads",), ("fedbn",), 40, 3)
    open_, closed = describe_policy(SitePolicy()), describe_policy(strict)
    assert len(open_) == len(closed) == len(SitePolicy.__dataclass_fields__)
    assert all(one != other for one, other in zip(open_, closed, strict=True))
    assert closed[2:] == [
        "targets: birads",
        "sharing: fedbn",
        "rounds: at most 40",
        "sites in a round: at least 3",
    ]
