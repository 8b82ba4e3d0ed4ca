"""What this site allows, whatever a plan says: its own file has the last word.

``policy.yaml`` lies beside the settings of the sites and holds for all of them. Without
it every plan that a person approves is allowed, and counts leave as they are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from common.parts import parse_sharing
from common.plan import Plan
from common.records import Code, Refusal
from common.stages import PositiveInt

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

COUNTS = frozenset({"patients", "images", "positives"})
"""Fields of replies that leave by `SitePolicy.release_count`."""

METRICS = frozenset({"roc_auc", "average_precision", "validation_loss"})
"""Fields of replies that leave by `SitePolicy.release_metric`."""


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class SitePolicy:
    """A site's own limits; they win over the plan.

    Attributes
    ----------
    counts : ``exact``, or ``banded`` = rounded down to `BANDS`; at least 1 leaves the
        site, because a weight of zero would remove it from the average
    release_metrics : False sends nan in place of validation metrics
    targets : manifest fields that a plan may predict; None = any
    sharing : presets, or four letters, that a plan may share by; None = any
    maximum_rounds : of a whole plan; None = any number
    minimum_sites : a plan must need so many sites in each round
    """

    counts: Literal["exact", "banded"] = "exact"
    release_metrics: bool = True
    targets: tuple[str, ...] | None = None
    sharing: tuple[str, ...] | None = None
    maximum_rounds: PositiveInt | None = None
    minimum_sites: PositiveInt = 1

    def require(self, plan: Plan) -> None:
        """Refuse a plan that asks for what is not allowed here.

        Raises
        ------
        Refusal
            With ``POLICY``, naming the first thing.
        """
        if self.targets is not None and plan.target.field not in self.targets:
            raise _refusal(f"predicts {plan.target.field}", "targets", self.targets)
        allowed = self.sharing and [parse_sharing(name) for name in self.sharing]
        for stage in plan.stages:
            if allowed is not None and parse_sharing(stage.sharing) not in allowed:
                raise _refusal(f"shares by {stage.sharing}", "sharing", self.sharing)
        if self.maximum_rounds is not None and plan.rounds > self.maximum_rounds:
            what = f"has {plan.rounds} rounds"
            raise _refusal(what, "maximum_rounds", self.maximum_rounds)
        if plan.roster.minimum_sites < self.minimum_sites:
            what = f"goes on with {plan.roster.minimum_sites} sites"
            raise _refusal(what, "minimum_sites", self.minimum_sites)

    def release_count(self, count: int) -> int:
        """Return the count as it may leave the site."""
        if self.counts == "exact":
            return count
        return max(1, max(step for step in BANDS if step <= count))

    def release_metric(self, value: float) -> float:
        """Return a validation metric, or nan where the policy keeps it."""
        return value if self.release_metrics else float("nan")


class PolicyError(ValueError):
    """A policy file that cannot be used; the text names file and key."""


def read_policy(path: Path) -> SitePolicy:
    """Read the site's policy; without a file it is the default one.

    Raises
    ------
    PolicyError
        If the file is no policy: nobody should believe in a limit that is not read.
    """
    if not path.is_file():
        return SitePolicy()
    try:
        mapping = yaml.safe_load(path.read_text(encoding="utf-8"))
        return TypeAdapter(SitePolicy).validate_python(mapping or {})
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise PolicyError(f"{path} cannot be read ({type(error).__name__}).") from None
    except ValidationError as error:
        keys = [".".join(map(str, item["loc"])) for item in error.errors()]
        raise PolicyError(
            f"{path} is not valid: {', '.join(keys)}. The keys are: "
            f"{', '.join(SitePolicy.__dataclass_fields__)}."
        ) from None


def describe_policy(policy: SitePolicy) -> list[str]:
    """Describe what a site allows, one line per key."""
    targets, sharing = policy.targets, policy.sharing
    rounds, sites = policy.maximum_rounds, policy.minimum_sites
    rounded = "rounded down to published steps"
    return [
        f"counts leave {rounded if policy.counts == 'banded' else 'as they are'}",
        f"validation metrics {'leave' if policy.release_metrics else 'stay here'}",
        f"targets: {'any' if targets is None else ', '.join(targets)}",
        f"sharing: {'any' if sharing is None else ', '.join(sharing)}",
        f"rounds: {'any number' if rounds is None else f'at most {rounds}'}",
        f"sites in a round: at least {sites}",
    ]


def _refusal(what: str, key: str, allowed: object) -> Refusal:
    return Refusal(Code.POLICY, f"the plan {what}; policy.yaml allows {key}: {allowed}")
