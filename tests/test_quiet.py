"""Nothing calls home: the switches are set before anybody reads them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    "module",
    ["simulations.run", "server.plan_command", "client.client_app", "simulations.ray"],
)
def test_an_entry_point_turns_telemetry_and_update_checks_off(module: str) -> None:
    code = (
        f"import {module}, os; from flwr.supercore import telemetry; "
        "assert telemetry.FLWR_TELEMETRY_ENABLED == '0'; "
        "assert os.environ['FLWR_DISABLE_UPDATE_CHECK'] == '1'; "
        "assert os.environ['RAY_USAGE_STATS_ENABLED'] == '0'"
    )
    environment = {"PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert done.returncode == 0, done.stderr
