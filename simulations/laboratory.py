"""What every run of an experiment shares: settings, prepared images, machine."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from client.data.cache import Snapshot
from client.data.dataset import build_dataset
from common.plan import Plan, PlanError
from common.progress import View
from simulations.federation import Machine
from simulations.settings import Settings, read_folder
from simulations.sites import prepare_sites


@dataclass(frozen=True)
class Laboratory:
    """What every run of an experiment shares.

    Attributes
    ----------
    snapshots : prepared images by hospital, in roster order
    left_out : those of hospitals that take no part
    synthetic : marks everything made from them
    """

    settings: Settings
    plan: Plan
    snapshots: Mapping[str, Snapshot]
    machine: Machine
    view: View
    synthetic: bool
    left_out: Mapping[str, Snapshot] = field(default_factory=dict)


def open_laboratory(settings: Settings, plan: Plan, view: View) -> Laboratory:
    """Prepare the hospitals' images, or open what is prepared, and choose the machine.

    Raises
    ------
    PlanError
        If a GPU was asked for and torch finds none, or a hospital that is left out
        cannot be evaluated.
    """
    start = Path(settings.start_file).resolve() if settings.start_file else None
    device = device_of(settings)
    machine = Machine(device, settings.threads, start, dump=settings.dump)
    snapshots, synthetic = prepare_sites(settings.data, plan, view)
    left_out = {
        site: snapshots.pop(site) for site in dict.fromkeys(settings.data.leave_out)
    }
    for site, snapshot in left_out.items():  # before hours of training, not after
        build_dataset({site: snapshot}, plan, required=())
    return Laboratory(settings, plan, snapshots, machine, view, synthetic, left_out)


def device_of(settings: Settings) -> torch.device:
    """Choose the device: what was asked for, or a GPU where there is one.

    Raises
    ------
    PlanError
        If a GPU was asked for and torch finds none.
    """
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise PlanError("device=cuda, but torch finds no GPU; use device=auto or cpu")
    if settings.device != "auto":
        return torch.device(settings.device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def with_threads(settings: Settings, plan: Plan) -> Settings:
    """Name torch's threads, which change the numbers, before a run folder is claimed.

    As asked; else as the run in this folder began; else what torch would take, shared
    out between the runs side by side.
    """
    threads = plan.threads or settings.threads
    if threads is None:
        with suppress(PlanError):  # no run there: it is claimed next
            threads = read_folder(settings.folder)[0].threads
    share = max(1, torch.get_num_threads() // settings.parallel)
    return replace(settings, threads=threads or share)
