"""From the Hydra tree to a plan: called at entry points, nowhere else.

A site never composes: it reads the finished plan. There is no ``_target_`` in the tree,
so nothing in it can name code.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from typing import Any

from hydra import compose, initialize_config_module
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from common.plan import Plan, PlanError, plan_from_mapping

CONFIG_MODULE = "configs"


def compose_tree(overrides: Sequence[str]) -> dict[str, Any]:
    """Compose the whole tree with overrides such as ``experiment=demo``.

    Returns
    -------
    Plain nested mapping with every interpolation resolved.

    Raises
    ------
    PlanError
        If an override names what does not exist; says what does.
    """
    try:
        with initialize_config_module(CONFIG_MODULE, version_base="1.3"):
            tree = compose("simulation", overrides=list(overrides))
        plain = OmegaConf.to_container(tree, resolve=True, throw_on_missing=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise PlanError(_first_lines(error)) from None
    assert isinstance(plain, dict)
    named = {str(key): value for key, value in plain.items()}
    _leave_out(named)
    return named


def plan_of(tree: dict[str, Any]) -> Plan:
    """Turn the tree's ``plan`` group into a plan.

    ``every_stage`` fills what a stage does not say; a stage's key is its name. A term
    of the objective that is null is left out.
    """
    values = dict(tree["plan"])
    common_values = values.pop("every_stage")
    values["stages"] = [
        _merge(common_values, _mapping(name, stage)) | {"name": name}
        for name, stage in values["stages"].items()
    ]
    for stage in values["stages"]:
        terms = _mapping(f"{stage['name']}.objective", stage.get("objective"))
        stage["objective"] = {
            name: settings for name, settings in terms.items() if settings is not None
        }
    values["version"] = mammofed_version()
    return plan_from_mapping(values)


def mammofed_version() -> str:
    """Return the version that every site of a plan has to run."""
    try:
        return version("mammofed")
    except PackageNotFoundError:
        return "0+not.installed"


def _leave_out(tree: dict[str, Any]) -> None:
    """Take the hospitals that a simulation leaves out off the roster."""
    data, roster = tree["data"], tree["plan"]["roster"]
    left_out = data.get("leave_out") or []
    if not left_out:
        return
    for names in (left_out, data["sites"], roster["sites"]):
        if not (isinstance(names, list) and all(isinstance(n, str) for n in names)):
            raise PlanError("data.sites and data.leave_out must be lists: [north]")
    if unknown := set(left_out) - set(data["sites"]):
        raise PlanError(
            f"data.leave_out names {', '.join(sorted(unknown))}; the hospitals are "
            f"{', '.join(data['sites'])}"
        )
    roster["sites"] = [site for site in roster["sites"] if site not in left_out]


def _mapping(name: str, stage: Any) -> dict[str, Any]:
    if stage is None or isinstance(stage, dict):
        return stage or {}
    raise PlanError(f"plan.stages.{name} must be a mapping, such as {{rounds: 40}}")


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        both = isinstance(value, dict) and isinstance(old, dict)
        merged[key] = _merge(old, value) if both else value  # type: ignore[arg-type]
    return merged


def _first_lines(error: Exception) -> str:
    """Keep Hydra's own words: what is unknown, and what there is instead."""
    words = str(error).partition("Config search path")[0]
    lines = [line.rstrip() for line in words.splitlines() if line.strip()]
    if "Could not load 'objective/" in words:  # of a list it does not tell
        folder = files(CONFIG_MODULE).joinpath("objective")
        names = sorted(f.name.removesuffix(".yaml") for f in folder.iterdir())
        lines.append(f"There is {', '.join(names)}")
    return "Cannot compose the configuration: " + "\n  ".join(lines[:12])
