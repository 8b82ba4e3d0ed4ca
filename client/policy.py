"""What this site allows to leave: counts as they are, or banded."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

BANDS = (
    0,
    10,
    20,
    50,
    100,
    200,
    500,
    1000,
    2000,
    5000,
    10_000,
    20_000,
    50_000,
    100_000,
)
"""Published steps; a banded count is the largest step not above it."""


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class SitePolicy:
    """A site's own limits; they win over the plan.

    Attributes
    ----------
    counts : ``exact``, or ``banded`` = rounded down to `BANDS`; at least 1 leaves the
        site, because a weight of zero would remove it from the average
    release_metrics : False sends nan in place of validation metrics
    """

    counts: Literal["exact", "banded"] = "exact"
    release_metrics: bool = True

    def release_count(self, count: int) -> int:
        """Return the count as it may leave the site."""
        if self.counts == "exact":
            return count
        return max(1, max(step for step in BANDS if step <= count))

    def release_metric(self, value: float) -> float:
        """Return a validation metric, or nan where the policy keeps it."""
        return value if self.release_metrics else float("nan")
