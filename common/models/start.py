"""The tensors a run starts from: random, ImageNet's, or a local checkpoint's."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from common.checkpoint import read_tensors
from common.models import MammographyModel, build_model
from common.models.imagenet import load_imagenet
from common.plan import Model, Plan, PlanError
from common.sharing import load_exactly


def initial_tensors(plan: Plan, model: Model, source: Path | None) -> dict[str, Tensor]:
    """Build the state dict that a stage's model starts from, alike at both ends.

    Parameters
    ----------
    plan : its ``start`` and ``seed``
    model : of the stage
    source : the file of ``start.kind=checkpoint`` (its tensors must have the plan's
        hash), or of ImageNet's weights (None downloads them)

    Returns
    -------
    Every tensor of the model by name, on the CPU. A head that the checkpoint does not
    have stays random.

    Raises
    ------
    PlanError
        If the checkpoint is not given, is not the plan's, or is of another backbone.
    """
    built = build_model(model, plan.seed)
    try:
        _load_start(built, plan, source)
    except ValueError as error:
        raise PlanError(f"The start does not fit {model.name}: {error}") from None
    return {key: value.detach().clone() for key, value in built.state_dict().items()}


def _load_start(built: MammographyModel, plan: Plan, source: Path | None) -> None:
    if plan.start.kind == "imagenet":
        load_imagenet(built, source)
    if plan.start.kind == "checkpoint":
        if source is None:
            raise PlanError(
                "start.kind is checkpoint, but no file was given; "
                "name it with start_file=PATH"
            )
        arrays, metadata = read_tensors(source)
        if metadata["tensors"] != plan.start.sha256:
            raise PlanError(
                f"{source.name} is not the checkpoint of the plan: its tensors' hash "
                f"is {str(metadata['tensors'])[:12]}, not {plan.start.sha256[:12]}"
            )
        ours = built.state_dict()
        known = {k: torch.from_numpy(v) for k, v in arrays.items() if k in ours}
        expected = {
            key
            for key in ours
            if key in arrays or not key.startswith(built.head_prefix)
        }
        load_exactly(built, known, expected)
