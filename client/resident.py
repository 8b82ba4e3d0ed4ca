"""The one model in a process: sites take turns in it, swapped by copy on the device."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from client.data.dataset import TRAIN, SiteDataset
from client.data.norm_domains import NormDomains, assign_domains
from common.allocator import keep_freed_memory
from common.contract import Contract
from common.models import MammographyModel, build_model
from common.models.start import initial_tensors
from common.norm_domains import split_norms, switch_of
from common.plan import Model, Plan
from common.sharing import assign_parts, contract, load_exactly


def as_tensor(array: np.ndarray) -> Tensor:
    """Look at an array as a tensor; for reading, also where the array is read-only."""
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message=".*not writable", category=UserWarning
        )
        return torch.from_numpy(array)


@dataclass(frozen=True)
class StageModel:
    """A stage's model on the device, with the rule for its tensors.

    Attributes
    ----------
    model : shared by every site of the process; whatever it holds is somebody's last
    parts : every tensor's part, the compartment it is stored in
    domains : which norms an image goes through; None where all share one
    """

    model: MammographyModel
    contract: Contract
    parts: Mapping[str, str]
    domains: NormDomains | None = None

    def put(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy a site's whole state into the model; constants stay as built."""
        expected = set(self.contract.shared) | set(self.contract.local)
        load_exactly(self.model, {key: tensors[key] for key in expected}, expected)

    def look(self, keys: Iterable[str]) -> dict[str, np.ndarray]:
        """Read tensors on the CPU; valid until the next `put` or training step.

        Where the model is on the CPU this is its own memory: copy what is to be kept.
        """
        state = self.model.state_dict()
        return {key: state[key].detach().cpu().numpy() for key in keys}


class Resident:
    """Holds the models of a plan's stages; one process needs one.

    Parameters
    ----------
    plan : its stages, seed and precision
    device : of the model
    start_file : local file of the plan's start, or None
    stopped : asked before each training step; True ends the round
    """

    def __init__(
        self,
        plan: Plan,
        device: torch.device,
        start_file: Path | None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        keep_freed_memory()
        self.plan = plan
        self.device = device
        self.stopped = stopped
        self._start_file = start_file
        self._models: dict[tuple[Model, frozenset[str]], MammographyModel] = {}
        self._stages: dict[int, StageModel] = {}
        self._initial: dict[Model, dict[str, Tensor]] = {}
        self._plain: Resident | None = None
        self._vendors: dict[str, str] = {}
        self.mixed = (
            plan.precision == "auto"
            and device.type == "cuda"
            and torch.cuda.is_bf16_supported()
        )

    def at_site(self, dataset: SiteDataset) -> Resident:
        """See the models as a site has them: with norms for each of its vendors.

        That is this resident itself where the plan has no stage with such norms. Sites
        with the same vendors share a model, as all do without.
        """
        if all(stage.norm_domain == "site" for stage in self.plan.stages):
            return self
        own = copy.copy(self)  # shares models and initial tensors
        own._stages, own._plain = {}, self.plain
        own._vendors = assign_domains(dataset.vendors, dataset.select(TRAIN))
        return own

    @property
    def plain(self) -> Resident:
        """The models as the coordinator has them, without norms for each vendor."""
        return self._plain or self

    def stage(self, number: int) -> StageModel:
        """Return a stage's model, built on first use."""
        if number not in self._stages:
            spec = self.plan.stages[number]
            vendors = self._vendors if spec.norm_domain == "vendor" else {}
            key = spec.model, frozenset(vendors.values())
            if key not in self._models:
                built = build_model(spec.model, self.plan.seed)
                if vendors:
                    split_norms(built, set(vendors.values()))
                built.to(self.device)
                self._models[key] = built.to(memory_format=torch.channels_last)
            model = self._models[key]
            rule = contract(model, spec, self.plan.aggregation.transport)
            domains = NormDomains(vendors, switch_of(model)) if vendors else None
            self._stages[number] = StageModel(model, rule, assign_parts(model), domains)
        return self._stages[number]

    def initial(self, number: int) -> dict[str, Tensor]:
        """Return the tensors that a stage would start from without a past."""
        model = self.plan.stages[number].model
        if model not in self._initial:  # the same for every site that takes its turn
            self._initial.clear()
            self._initial[model] = initial_tensors(self.plan, model, self._start_file)
        initial, copies = self._initial[model], self.stage(number).contract.copies
        return initial | {key: initial[source] for key, source in copies.items()}
