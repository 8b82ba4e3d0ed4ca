"""A hospital that leaves amid training is gone at once, and the rest goes on."""

from __future__ import annotations

import subprocess

import psutil
import pytest

from client.commands.start import LEFT_STATUS
from common.audit import FOLDER, LOG_FILE
from common.audit_check import read_log
from tests.e2e.consortium import PATIENCE, TestConsortium, ledger_of, small_plan

pytestmark = pytest.mark.long


def test_a_site_that_leaves_amid_training_ends_within_a_step_and_for_good(
    consortium: TestConsortium,
) -> None:
    plan = small_plan("leaving", steps=600)
    consortium.adopt(plan)
    run = consortium.start_run()
    consortium.wait_until_training("lakeside", 2)
    processes = list(consortium.family("lakeside").values())
    assert len(processes) == 3
    consortium.client("lakeside", "leave", "--yes")
    ended = consortium.processes.pop("lakeside")
    assert ended.wait(PATIENCE) == LEFT_STATUS
    _, alive = psutil.wait_procs(processes, timeout=PATIENCE)
    assert not alive
    assert "lakeside has left the federation" in consortium.log_of("lakeside")

    outcome = consortium.outcome(run, PATIENCE)
    assert outcome["status"] == "complete_with_absences", outcome.get("reason")
    ledger = ledger_of(outcome)
    assert ledger[1, "lakeside"]["counted"]
    for round_ in (2, 3):
        reason = ledger[round_, "lakeside"]["reason"]
        assert reason == "LEFT: the site has left this federation"
        assert ledger[round_, "harbour"]["counted"]
    assert outcome["closed"]["selected"]["without"] == ["lakeside"]

    state = consortium.state("lakeside")  # its round 1 is there, and no more
    written = list(state.glob(f"*/{plan.hash[:12]}/round-*.safetensors"))
    assert [path.name for path in written] == ["round-00001.safetensors"]
    events = [line.event for line in read_log(state / FOLDER / LOG_FILE).lines]
    assert [e["did"] for e in events[-3:]] == ["asked", "answered", "stopped"]
    assert events[-3]["round"] == 2 and events[-2]["decision"] == "LEFT"

    again = subprocess.run(
        consortium._client_words("lakeside"), capture_output=True, text=True, timeout=60
    )
    assert again.returncode == LEFT_STATUS
    assert "approve PLAN takes part again" in again.stderr
    assert "Traceback" not in again.stderr
