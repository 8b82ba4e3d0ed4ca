"""A finished model of one site: shared part and own part together, ready to predict."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from torch import nn

from client.data.norm_domains import NormDomains
from common.atomic import write_atomic
from common.checkpoint import Tensors, read_tensors, write_tensors
from common.models import build_model
from common.norm_domains import split_norms, switch_of
from common.plan import Model, Plan, Preprocessing
from common.sharing import load_exactly

_TENSORS, _INFO, _CARD = "model.safetensors", "model.json", "MODEL_CARD.md"


@dataclass(frozen=True)
class ModelInfo:
    """What is needed to use a model, and to know where it comes from.

    Attributes
    ----------
    thresholds : operating point of each population, None without one
    role : ``selected`` or ``last``; a round that is both says ``selected``
    snapshot : hash of the images it was trained and tested on; empty where an older
        version did not record it
    norm_domains : vendor of an image to the vendor whose norms it goes through; empty
        where all images go through the same
    reestimated : its statistics were, because the site had been absent for long
    """

    plan: str
    plan_hash: str
    run: str
    site: str
    round: int
    role: str
    sharing: str
    model: dict[str, Any]
    preprocessing: dict[str, Any]
    thresholds: dict[str, float | None]
    unit: str
    synthetic: bool
    snapshot: str = ""
    norm_domains: dict[str, str] = field(default_factory=dict)
    reestimated: bool = False


def write_model_folder(
    folder: Path, tensors: Tensors, info: ModelInfo, plan: Plan
) -> str:
    """Write a site's model; returns the hash of its tensors."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    content_hash = write_tensors(
        folder / _TENSORS, tensors, {"round": info.round}, 0o600
    )
    write_atomic(folder / _INFO, json.dumps(asdict(info), indent=2).encode(), 0o600)
    write_atomic(folder / _CARD, _card(info, plan, content_hash).encode(), 0o600)
    return content_hash


def read_model_folder(folder: Path) -> tuple[nn.Module, ModelInfo]:
    """Load a model that `write_model_folder` wrote.

    Returns
    -------
    The model in evaluation mode on the CPU, and what belongs to it.

    Raises
    ------
    CheckpointError
        If the tensors are absent or damaged.
    """
    info = ModelInfo(**json.loads((folder / _INFO).read_bytes()))
    arrays, _ = read_tensors(folder / _TENSORS)
    model = build_model(TypeAdapter(Model).validate_python(info.model), seed=0)
    if vendors := _vendors(info):
        split_norms(model, set(vendors.values()))
    tensors = {key: torch.from_numpy(array) for key, array in arrays.items()}
    load_exactly(model, tensors, set(model.state_dict()))
    return model.eval(), info


def norm_domains_of(model: nn.Module, info: ModelInfo) -> NormDomains | None:
    """Return which norms of a loaded model an image goes through; None if all do."""
    vendors = _vendors(info)
    return NormDomains(vendors, switch_of(model)) if vendors else None


def preprocessing_of(info: ModelInfo) -> Preprocessing:
    """Return how images must be prepared for the model."""
    return TypeAdapter(Preprocessing).validate_python(info.preprocessing)


def _vendors(info: ModelInfo) -> dict[str, str]:
    return TypeAdapter(dict[str, str]).validate_python(info.norm_domains)


def _card(info: ModelInfo, plan: Plan, content_hash: str) -> str:
    data = (
        "SYNTHETIC images; not for use on people" if info.synthetic else "real images"
    )
    vendors = ", ".join(sorted(set(info.norm_domains.values())))
    norms = f"apart for images of {vendors}" if vendors else "the same for all images"
    stale = "re-estimated at the end: the site was absent for long"
    statistics = f"| statistics | {stale} |\n" if info.reestimated else ""
    return f"""# Model card: {info.plan}, round {info.round}, site {info.site}

**Not a medical device.** For research only. Trained on {data}.

| | |
|---|---|
| plan | `{info.plan_hash}` |
| run | `{info.run}` |
| round | {info.round} ({info.role}) |
| backbone, head | {info.model["name"]}, {info.model["head"]} |
| sharing | {info.sharing}: the parts that are local are this site's own |
| norm layers | {norms} |
| positive | {plan.target.field} >= {plan.target.at_least}, by {info.unit} |
| image | {plan.preprocessing.rows} x {plan.preprocessing.columns}, VOI \
{plan.preprocessing.voi}, crop {plan.preprocessing.crop} |
| operating point | {info.thresholds} ({plan.evaluation.at_specificity:.0%} \
specificity on validation) |
{statistics}| tensors | `{content_hash}` |

The local part carries statistics of this site's images: treat the folder as
confidential.
"""
