"""Plan, policy, data and cache of a site, before it takes part."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from client.approval import approve
from client.data.manifest import read_linkage, read_manifest, write_manifest
from client.data.site_data import import_site, prepare_site
from client.preflight import plan as look
from client.preflight.rehearsed import Rehearsed, StageSize
from client.site import Site, read_site
from common.plan import Aggregation, Model, Plan
from tests.support.hospitals import small_plan, small_stage
from tests.support.mammo_client import make_hospital

PLAN = small_plan(sites=("north", "south"))


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return read_site(make_hospital(tmp_path, images=2), "north")


def imported(site: Site) -> Site:
    import_site("hospital", site.archive, site.folder, "north", site.options)
    return site


def test_the_plan_approved_last_is_named(site: Site) -> None:
    approve(site.state_folder, PLAN)
    plan, found = look.approved(site)
    assert plan == PLAN
    assert (found.state, found.said) == (
        "ok",
        f"small, 3 rounds, hash {PLAN.hash[:12]}",
    )


def test_before_any_approval_there_is_something_to_do_but_no_problem(
    site: Site,
) -> None:
    plan, found = look.approved(site)
    assert plan is None and found.state == "warning"
    assert "mammo-client --site north approve PLAN" in found.remedy
    assert look.cache(site, None).state == "unknown"
    assert look.training(None, Rehearsed("CPU")).state == "unknown"


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        (replace(PLAN, version="9.9.9"), "for mammofed 9.9.9, and this is 0."),
    ],
)
def test_a_plan_that_this_site_cannot_follow_is_a_problem(
    site: Site, plan: Plan, said: str
) -> None:
    approve(site.state_folder, plan)
    found = look.approved(site)[1]
    assert found.state == "problem" and said in found.said and found.remedy


def test_an_approved_plan_that_was_changed_since_is_a_problem(site: Site) -> None:
    approve(site.state_folder, PLAN)
    file = site.state_folder / f"plan-{PLAN.hash[:12]}.json"
    file.write_text(file.read_text().replace('"rounds":3', '"rounds":"x"'))
    plan, found = look.approved(site)
    assert plan is None and found.state == "problem"


@pytest.mark.parametrize(
    ("text", "state", "said"),
    [
        (None, "ok", "there is no policy.yaml"),
        ("maximum_rounds: 5", "ok", "rounds: at most 5"),
        ("maximum_rounds: 2", "problem", "has 3 rounds"),
        ("maximum_round: 5", "problem", "maximum_round"),
    ],
)
def test_the_policy_is_read_and_the_plan_compared(
    tmp_path: Path, text: str | None, state: str, said: str
) -> None:
    file = tmp_path / "policy.yaml"
    if text:
        file.write_text(text)
    found = look.policy(file, PLAN)
    assert found.state == state and said in found.said
    assert bool(found.remedy) == (state == "problem")


def test_data_is_imported_and_usable(site: Site) -> None:
    found = look.data(site)
    assert found.state == "problem" and "not imported" in found.said
    found = look.data(imported(site))
    assert (found.state, found.said) == ("ok", "2 usable images of 2 patients")


def test_an_archive_without_a_usable_image_is_a_problem(tmp_path: Path) -> None:
    site = imported(read_site(make_hospital(tmp_path, images=1), "north"))
    manifest = read_manifest(site.folder)
    manifest["status"], manifest["reason"] = "quarantined", "Q_CRASH"
    write_manifest(site.folder, manifest, read_linkage(site.folder))
    found = look.data(site)
    assert found.state == "problem" and found.said.startswith("0 usable images")


def test_images_are_prepared_for_this_very_plan(site: Site) -> None:
    prepare_site(imported(site).folder, site.archive, PLAN.preprocessing)
    found = look.cache(site, PLAN)
    assert (found.state, found.said) == ("ok", "2 images are prepared for the plan")
    other = replace(PLAN, preprocessing=replace(PLAN.preprocessing, rows=64))
    found = look.cache(site, other)
    assert found.state == "problem" and "64 x 16" in found.said
    assert f"prepare --plan {site.state_folder}/plan-{other.hash[:12]}" in found.remedy


def test_what_computes_is_named(site: Site) -> None:
    found = look.accelerator("cuda", Rehearsed("NVIDIA H100"))
    assert (found.state, found.said) == ("ok", "NVIDIA H100 computes, device: cuda")
    failed = Rehearsed(failure="device: cuda, but torch finds no GPU")
    found = look.accelerator("cuda", failed)
    assert found.state == "problem" and "torch finds no GPU" in found.said


SIZE = StageSize(rounds=3, sent=10**6, kept=100, fixed=0, whole=10**6, images=30)
STEP = Rehearsed("CPU", "", 0.5, 10**9, patients=8, validation=30, stages=(SIZE,))


def test_training_is_projected() -> None:
    """3 rounds of 30 images, and 30 that take a third, at half a second each."""
    found = look.training(PLAN, STEP)
    assert found.state == "ok" and "0.5 s per image" in found.said
    assert "1 min 0 s with 8 patients, and move 8.0 MB" in found.said


def test_a_projection_says_what_it_does_not_know() -> None:
    unprepared = replace(STEP, stages=(replace(SIZE, images=None),))
    assert "before images are prepared" in look.training(PLAN, unprepared).said
    stages = small_stage(), small_stage("later", model=Model("resnet_small"))
    said = look.training(small_plan(*stages), replace(STEP, stages=(SIZE, SIZE))).said
    assert "if all models are as slow as the first" in said


def test_rounds_longer_than_the_plan_allows_are_a_problem() -> None:
    plan = replace(PLAN, aggregation=Aggregation(round_timeout=19.0))
    assert look.training(plan, STEP).state == "problem"
    plan = replace(PLAN, aggregation=Aggregation(round_timeout=21.0))
    assert look.training(plan, STEP).state == "ok"


def test_a_step_that_failed_is_a_problem() -> None:
    found = look.training(PLAN, replace(STEP, failure="no image has a label"))
    assert (found.state, found.said) == ("problem", "no image has a label")
