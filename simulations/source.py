"""Keep a finished model as the start of other runs, with where it comes from."""

from __future__ import annotations

import json
from pathlib import Path

from common.atomic import write_atomic
from common.checkpoint import read_tensors
from common.plan import PlanError
from simulations.results import Finished

_TENSORS, _PROVENANCE = "source.safetensors", "provenance.json"


def keep_source(run: Finished, folder: Path, *, synthetic: bool) -> list[str]:
    """Copy the selected model of a run to a folder, once.

    Returns
    -------
    The overrides with which another run starts from it.

    Raises
    ------
    PlanError
        If the folder keeps another model; it is not overwritten.
    """
    file = run.model_folder(run.plan.roster.sites[0]) / "model.safetensors"
    content_hash = str(read_tensors(file)[1]["tensors"])
    kept = folder / _TENSORS
    if kept.is_file() and read_tensors(kept)[1]["tensors"] != content_hash:
        raise PlanError(
            f"{folder} keeps another source model; delete it, or choose another folder "
            "with keep_source=..."
        )
    provenance = {
        "tensors": content_hash,
        "plan": run.plan.hash,
        "round": run.outcome["selected"],
        "trained_on": list(run.populations),
        "synthetic": synthetic,
        "model": run.plan.stages[-1].model.name,
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(kept, file.read_bytes())
    write_atomic(folder / _PROVENANCE, json.dumps(provenance, indent=2).encode())
    return [
        f"start_file={kept}",
        "plan.start.kind=checkpoint",
        f"plan.start.sha256={content_hash}",
        f"plan.start.source={run.plan.id}",
    ]
