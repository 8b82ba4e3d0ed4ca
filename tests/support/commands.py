"""What a test types after ``mammo-sim experiment=NAME``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def small(root: Path, sites: Sequence[str]) -> list[str]:
    """List overrides that make an experiment take seconds."""
    return [
        "plan/model@plan.every_stage.model=resnet_tiny",
        "plan.stages.adapt.rounds=3",
        "plan.every_stage.work.amount=2",
        "plan.preprocessing.rows=64",
        "plan.preprocessing.columns=32",
        "plan.split.train=0.4",
        "plan.split.validation=0.2",
        "plan.split.test=0.4",
        "plan.evaluation.replicates=100",
        "plan.evaluation.minimum_class=3",
        f"data.sites=[{','.join(sites)}]",
        "data.patients=40",
        "data.rows=128",
        "data.columns=64",
        f"data.root={root}/synthetic",
        f"data.prepared={root}/prepared",
        "threads=1",
        "parallel=1",
    ]
