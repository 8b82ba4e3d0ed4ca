"""What local training minimises: the weighted sum of the terms that a plan names.

A term is one file here, and its name is the file's. The file has ``Parameters``, a
strict dataclass of what the plan may say of it, and ``build``, which makes of them and
of a site's `client.seen.Facts` a module that maps `client.seen.Seen` to a scalar. Its
own weights, such as a projector's, train along, stay at the site in the compartment
``objective`` of local state, and are no part of the model. Nothing else registers it.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from client.seen import Facts, Seen
from common.plan import PlanError
from common.stages import Objective


class ObjectiveError(PlanError):
    """An objective that cannot be built; the text names the term and the remedy."""


class WeightedSum(nn.Module):
    """The loss of a stage.

    Parameters
    ----------
    terms : by name
    weights : of each
    """

    def __init__(
        self, terms: Mapping[str, nn.Module], weights: Mapping[str, float]
    ) -> None:
        super().__init__()
        self.terms = nn.ModuleDict(dict(terms))
        self.weights = dict(weights)

    def forward(self, seen: Seen) -> Tensor:
        """Compute the scalar loss of a batch."""
        parts = [self.weights[name] * term(seen) for name, term in self.terms.items()]
        return torch.stack(parts).sum() if len(parts) > 1 else parts[0]


def known_terms() -> list[str]:
    """List the names that a plan's objective may have."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def check_objective(objective: Objective) -> None:
    """Check names and parameters; no site's facts are needed for that.

    Raises
    ------
    ObjectiveError
        Naming the term, what is wrong with it and what it takes.
    """
    for name, settings in objective.items():
        _parameters(name, settings)


def build_objective(objective: Objective, facts: Facts, seed: int = 0) -> WeightedSum:
    """Build the loss of a stage.

    Parameters
    ----------
    seed : the first weights of a term's own layers derive from it

    Raises
    ------
    ObjectiveError
        As `check_objective`, and where the site's images cannot serve a term.
    """
    terms, weights = {}, {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for name, settings in sorted(objective.items()):
            module, parameters, weights[name] = _parameters(name, settings)
            try:
                terms[name] = module.build(parameters, facts)
            except ValueError as error:
                raise ObjectiveError(f"objective.{name}: {error}") from None
    return WeightedSum(terms, weights)


def class_weight(objective: Objective, facts: Facts) -> float:
    """Return what the odds that a model learns are multiplied by: of ``ce``, or 1."""
    if "ce" not in objective:
        return 1.0
    module, parameters, _ = _parameters("ce", objective["ce"])
    return float(module.positive_weight(parameters, facts.negatives, facts.positives))


def _parameters(name: str, settings: Mapping[str, Any]) -> tuple[Any, Any, float]:
    """Return a term's module, its parameters and its weight in the sum."""
    if name not in known_terms():
        raise ObjectiveError(
            f"objective.{name} is unknown; there is {', '.join(known_terms())}"
        )
    module = import_module(f"{__name__}.{name}")
    own = {key: value for key, value in settings.items() if key != "weight"}
    try:
        parameters = TypeAdapter(module.Parameters).validate_python(own)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, ("objective", name, *first["loc"])))
        takes = ", ".join(["weight", *module.Parameters.__dataclass_fields__])
        raise ObjectiveError(
            f"{where}: {first['msg'].removeprefix('Value error, ')}. {name} takes "
            f"{takes}"
        ) from None
    return module, parameters, float(settings.get("weight", 1.0))
