"""Real processes with TLS end where a simulation ends, also when some are killed."""

from __future__ import annotations

from tests.e2e.consortium import (
    PATIENCE,
    SITES,
    TestConsortium,
    kill,
    ledger_of,
    require_equal_to_simulation,
    small_plan,
)


def test_a_deployed_run_ends_with_the_weights_of_a_simulation(
    consortium: TestConsortium,
) -> None:
    plan = small_plan("undisturbed")
    outcome = consortium.play(plan)
    assert outcome["status"] == "complete"
    assert all(entry["attempts"] == 1 for entry in outcome["ledger"])
    require_equal_to_simulation(consortium, plan)
    for site in SITES:
        models = consortium.state(site) / "models" / plan.id / str(plan.rounds)
        assert (models / "model.safetensors").is_file()
    log = consortium.plan.with_suffix("") / "audit" / "log.jsonl"
    for site in SITES:
        consortium.client(site, "audit", "verify", "--peer", log)


def test_a_worker_that_is_killed_amid_training_costs_nothing(
    consortium: TestConsortium,
) -> None:
    plan = small_plan("worker_killed", steps=300)
    consortium.adopt(plan)
    run = consortium.start_run()
    consortium.wait_until_training("harbour", 2)
    kill(consortium.family("harbour")["worker"])
    outcome = consortium.outcome(run, PATIENCE)
    assert outcome["status"] == "complete", outcome.get("reason")
    require_equal_to_simulation(consortium, plan)


def test_a_site_that_is_killed_and_started_again_is_asked_again(
    consortium: TestConsortium,
) -> None:
    plan = small_plan("site_killed", steps=300)
    consortium.adopt(plan)
    run = consortium.start_run()
    consortium.wait_until_training("lakeside", 2)
    kill(*consortium.family("lakeside").values())
    consortium.start_site("lakeside")
    outcome = consortium.outcome(run, PATIENCE)
    assert outcome["status"] == "complete", outcome.get("reason")
    assert ledger_of(outcome)[2, "lakeside"]["attempts"] == 2
    require_equal_to_simulation(consortium, plan)


def test_a_superlink_that_is_killed_is_resumed_by_the_same_command(
    consortium: TestConsortium,
) -> None:
    plan = small_plan("superlink_killed", steps=300)
    consortium.adopt(plan)
    consortium.start_run()
    consortium.wait_until_training("north", 2)
    consortium.kill_coordinator()
    consortium.start_superlink()
    outcome = consortium.outcome(consortium.start_run(), PATIENCE)
    assert outcome["status"] == "complete", outcome.get("reason")
    require_equal_to_simulation(consortium, plan)
