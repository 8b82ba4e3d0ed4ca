"""What a site keeps of a finished run: its own model and its own scores."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from client.data.dataset import VALIDATION, SiteDataset
from client.evaluation import choose_threshold, prior_odds
from client.model_folder import ModelInfo, write_model_folder
from client.objectives import class_weight
from client.resident import StageModel
from client.seen import Facts
from common.plan import Plan


def write_scores(
    folder: Path,
    scores: pd.DataFrame,
    dataset: SiteDataset,
    plan: Plan,
    stage: int,
    facts: Facts,
) -> dict[str, float | None]:
    """Write the image scores of each population; they never leave the site.

    Parameters
    ----------
    folder : gets ``<population>.parquet``
    scores : as `client.evaluation.score_images` gives them, validation and test
    facts : what the stage's objective was built with

    Returns
    -------
    Operating point of each population, chosen on validation; None without one.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    spec = plan.stages[stage]
    weight, drawn = class_weight(spec.objective, facts), None
    if spec.work.sampler == "balanced" and facts.negatives:
        drawn = facts.positives / facts.negatives
    thresholds: dict[str, float | None] = {}
    for population, rows in scores.groupby("population", sort=True):
        name = str(population)
        train_odds, site_odds = prior_odds(dataset, name, weight, plan, drawn)
        rows.assign(train_odds=train_odds, site_odds=site_odds).to_parquet(
            folder / f"{name}.parquet", index=False
        )
        chosen = choose_threshold(
            rows[rows["part"] == VALIDATION],
            plan.target.unit,
            plan.evaluation.at_specificity,
        )
        thresholds[name] = None if math.isnan(chosen) else chosen
    return thresholds


def write_model(
    folder: Path,
    current: StageModel,
    plan: Plan,
    *,
    run: str,
    site: str,
    round_: int,
    role: str,
    thresholds: dict[str, float | None],
    synthetic: bool,
    snapshot: str,
    reestimated: bool,
) -> str:
    """Write shared and own part together to ``<folder>/<plan>/<round>/``.

    Returns
    -------
    Hash of the tensors.
    """
    stage = current.contract.stage
    info = ModelInfo(
        plan=plan.id,
        plan_hash=plan.hash,
        run=run,
        site=site,
        round=round_,
        role=role,
        sharing=stage.sharing,
        model=asdict(stage.model),
        preprocessing=asdict(plan.preprocessing),
        thresholds=thresholds,
        unit=plan.target.unit,
        synthetic=synthetic,
        snapshot=snapshot,
        norm_domains=dict(current.domains.of) if current.domains else {},
        reestimated=reestimated,
    )
    tensors = current.look(current.model.state_dict())
    return write_model_folder(folder / plan.id / str(round_), tensors, info, plan)
