"""A hospital that joins after a run fetches what the others have shared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.node_status import read_status
from common.checkpoint import read_tensors
from simulations.consortium import Hospital
from tests.e2e.consortium import PATIENCE, TestConsortium, small_plan
from tests.e2e.wire import Wire

pytestmark = pytest.mark.long
NAME = "valley"


def _offers(consortium: TestConsortium) -> list[dict[str, Any]]:
    file = consortium.plan.with_suffix("") / "offers.json"
    return list(json.loads(file.read_bytes()))


def test_a_fourth_site_with_its_own_key_fetches_the_shared_part(
    consortium: TestConsortium, archives: Path
) -> None:
    plan = small_plan("before_valley", rounds=2)
    outcome = consortium.play(plan)
    assert outcome["status"] == "complete", outcome.get("reason")

    archive = {"importer": "synthetic", "archive": str(archives / "north")}
    consortium.wires[NAME] = Wire(consortium.door_port)
    consortium.register(Hospital(NAME, archive))
    consortium.start_site(NAME)
    try:
        consortium.wait_for(
            "valley is online",
            lambda: bool(read_status(consortium.state(NAME)).get("online")),
        )
        assert consortium.outcome(consortium.start_run(), PATIENCE) == outcome
        (refused,) = _offers(consortium)
        assert refused["site"] == NAME
        assert refused["reason"].startswith("PLAN_NOT_APPROVED")

        said = consortium.client(NAME, "approve", "--yes", consortium.plan)
        assert "it takes no part in training" in said
        assert consortium.outcome(consortium.start_run(), PATIENCE) == outcome
        assert _offers(consortium)[-1]["received"]
        where = f"models/{plan.id}/{outcome['selected']}/shared.safetensors"
        theirs, _ = read_tensors(consortium.state(NAME) / where)
        checkpoints = consortium.plan.with_suffix("") / "checkpoints"
        ours, _ = read_tensors(
            checkpoints / f"round-{outcome['selected']:05d}.safetensors"
        )
        assert theirs.keys() == ours.keys()
        assert all(np.array_equal(theirs[key], ours[key]) for key in ours)
        log = consortium.plan.with_suffix("") / "audit" / "log.jsonl"
        consortium.client(NAME, "audit", "verify", "--peer", log)

        other = small_plan("without_valley", rounds=1)  # it does not disturb a run
        outcome = consortium.play(other)
        assert outcome["status"] == "complete", outcome.get("reason")
    finally:
        consortium.stop(NAME)
