"""How long a round may last: what sites have needed, and time to come back in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from common.plan import Plan, Stage
from common.records import Value

SLOWER = 5.0
"""Times that a site may need what it needed before: others use its machine too."""

GRACE = 120.0
"""Seconds in which a site that was killed or cut off is back, and a slow link sends."""


def round_deadline(
    plan: Plan,
    stage: Stage,
    hellos: Mapping[str, Mapping[str, Value]],
    ledger: Sequence[Mapping[str, Any]],
) -> float:
    """Tell after how many seconds a silent site counts as absent.

    Parameters
    ----------
    hellos : handshakes, with the duration of a training step on zeros
    ledger : entries of the rounds before

    Returns
    -------
    seconds; from the last round of the stage that sites were measured in, else from the
    handshakes; never above the plan's ``round_timeout``
    """
    measured = [e for e in ledger if e["stage"] == stage.name and e["seconds"]]
    last = max((entry["round"] for entry in measured), default=0)
    expected = [float(e["seconds"]) for e in measured if e["round"] == last]
    if not expected:
        expected = list(_by_handshake(stage, hellos.values()))
    longest = max(expected, default=0.0)
    return min(plan.aggregation.round_timeout, SLOWER * longest + GRACE)


def _by_handshake(
    stage: Stage, hellos: Iterable[Mapping[str, Value]]
) -> Iterable[float]:
    for hello in hellos:
        images = float(hello["images"])
        work = stage.work
        steps = work.amount * work.batch_size
        passes = work.amount * images if work.unit == "epochs" else steps
        yield float(hello["seconds_per_image"]) * passes
