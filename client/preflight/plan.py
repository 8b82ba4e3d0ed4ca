"""The approved plan at this site: policy, data, cache, and what training takes."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from client.approval import last_approved
from client.data.manifest import MANIFEST_FILE, ManifestError, read_manifest
from client.data.snapshot import CacheError, open_snapshot
from client.policy import PolicyError, describe_policy, read_policy
from client.preflight.finding import Finding, gigabytes
from client.preflight.rehearsed import Rehearsed
from client.site import Site
from common.plan import Plan, PlanError
from common.progress import duration
from common.records import Refusal

_NO_PLAN = "no plan is approved yet"
_REFUSED = "The node would refuse the plan for it: mend it, or tell the coordinator."


def approved(site: Site) -> tuple[Plan | None, Finding]:
    """Find the plan that was approved last, if it can be used."""
    name = "plan"
    again = f"Type: mammo-client --site {site.site} approve PLAN"
    try:
        plan = last_approved(site.state_folder)
    except (PlanError, ValueError, KeyError):
        said = "the plan that was approved last cannot be read"
        return None, Finding(name, "problem", said, again)
    if plan is None:
        remedy = f"The node refuses all work until then. {again}"
        return None, Finding(name, "warning", _NO_PLAN, remedy)
    said = f"{plan.id}, {plan.rounds} rounds, hash {plan.hash[:12]}"
    if site.site not in plan.roster.sites:
        said += f": {site.site} is not in its roster, it may receive the shared part"
        remedy = (
            "If this site should train, ask the coordinator for the name that it has "
            "in the plan."
        )
        return plan, Finding(name, "warning", said, remedy)
    if plan.version != version("mammofed"):
        said += f", for mammofed {plan.version}, and this is {version('mammofed')}"
        return plan, Finding(name, "problem", said, f"Install mammofed {plan.version}.")
    return plan, Finding(name, "ok", said)


def policy(file: Path, plan: Plan | None) -> Finding:
    """Read what this installation allows, and compare the plan with it."""
    try:
        allowed = read_policy(file)
    except PolicyError as error:
        return Finding("policy", "problem", str(error), f"Correct {file}.")
    try:
        if plan is not None:
            allowed.require(plan)
    except Refusal as refusal:
        return Finding("policy", "problem", str(refusal), _REFUSED)
    said = "; ".join(describe_policy(allowed))
    if not file.is_file():
        said = f"every plan that is approved: there is no {file.name}"
    return Finding("policy", "ok", said)


def data(site: Site) -> Finding:
    """Tell whether the archive was imported, and gave usable images."""
    verb = f"mammo-client --site {site.site} check"
    if not (site.folder / MANIFEST_FILE).is_file():
        said = "the archive was not imported yet"
        return Finding("data", "problem", said, f"Type, without --no-data: {verb}")
    try:
        manifest = read_manifest(site.folder)
    except ManifestError as error:
        remedy = "Restore the folder from your backup, or import into a new one."
        return Finding("data", "problem", str(error), remedy)
    usable = manifest[manifest["status"] == "ok"]
    patients = usable["patient_key"].nunique()
    said = f"{len(usable)} usable images of {patients} patients"
    if usable.empty:
        return Finding("data", "problem", said, f"See why, and what to do: {verb}")
    return Finding("data", "ok", said)


def cache(site: Site, plan: Plan | None) -> Finding:
    """Tell whether images are prepared as the plan wants them."""
    if plan is None:
        return Finding("cache", "unknown", _NO_PLAN)
    try:
        snapshot = open_snapshot(site.folder, plan.preprocessing)
    except (CacheError, ManifestError) as error:
        file = site.state_folder / f"plan-{plan.hash[:12]}.json"
        remedy = f"Type: mammo-client --site {site.site} prepare --plan {file}"
        return Finding("cache", "problem", str(error), remedy)
    return Finding("cache", "ok", f"{len(snapshot)} images are prepared for the plan")


def accelerator(device: str, rehearsed: Rehearsed) -> Finding:
    """Tell what computes; the step was the trial.

    Parameters
    ----------
    device : of the settings
    """
    name = "accelerator"
    if not rehearsed.device:
        said = rehearsed.failure or "nothing was computed"
        remedy = "Mend driver and PyTorch, see nvidia-smi, or set device: cpu."
        return Finding(name, "problem", said, remedy)
    said = f"{rehearsed.device} computes, device: {device}"
    unused = rehearsed.device == "CPU" and Path("/dev/nvidia0").exists()
    if unused and device == "auto":
        remedy = "Install a PyTorch that fits the driver, see nvidia-smi."
        return Finding(name, "warning", f"{said}, though there is a GPU", remedy)
    return Finding(name, "ok", said)


def training(plan: Plan | None, rehearsed: Rehearsed) -> Finding:
    """Tell how long the plan takes here, and how much it moves."""
    name = "training"
    if plan is None:
        return Finding(name, "unknown", _NO_PLAN)
    if rehearsed.failure:
        return Finding(name, "problem", rehearsed.failure.rstrip("."), _REFUSED)
    seconds = rehearsed.seconds_in_all
    lasts = "not known before images are prepared"
    if seconds is not None:
        lasts = f"{duration(seconds)} with {rehearsed.patients} patients"
        if len({stage.model for stage in plan.stages}) > 1:
            lasts += ", if all models are as slow as the first"
    said = (
        f"{rehearsed.seconds_per_image:.3g} s per image; {plan.rounds} rounds take "
        f"this site {lasts}, and move {gigabytes(rehearsed.bytes_in_all)}"
    )
    limit = plan.aggregation.round_timeout
    if seconds is not None and seconds / plan.rounds > limit:
        remedy = "Ask the coordinator for a plan with less work in a round."
        said += f"; a round is longer than the {duration(limit)} that are allowed"
        return Finding(name, "problem", said, remedy)
    return Finding(name, "ok", said)
