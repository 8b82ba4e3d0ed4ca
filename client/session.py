"""One site's side of a federation: model, loaders, local state, answers.

A session lives as long as the process; a site is only its tensors, loaders and seeds.
Every answer depends on the request, the site's disk and the plan alone, so a round that
was killed half way gives the same answer when it is asked for again.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from client.approval import require_approved
from client.closing import write_model, write_scores
from client.data.dataset import TEST, TRAIN, VALIDATION, SiteDataset
from client.evaluation import score_images, summarise
from client.local_round import class_counts, loader_of, train_round
from client.local_state import Generation, LocalState
from client.policy import SitePolicy
from client.resident import Resident, StageModel, as_tensor
from common.contract import tensor_hash
from common.handshake import federation_fingerprint
from common.models.transitions import next_local, next_shared
from common.plan import Plan
from common.records import Code, Refusal, Reply, Request


@dataclass(frozen=True)
class SiteFolders:
    """Where a site keeps what.

    Attributes
    ----------
    state : approval and local generations
    output : ``models/`` and ``scores/``
    """

    state: Path
    output: Path


class SiteSession:
    """Answers the coordinator for one site.

    Parameters
    ----------
    site : name in the plan's roster
    plan : the approved plan
    resident : the process's model; may be shared with other sites of a simulation
    dataset : prepared images
    folders : on the site's disk
    policy : the site's own limits
    synthetic : marks models made from synthetic images
    """

    def __init__(
        self,
        site: str,
        plan: Plan,
        resident: Resident,
        dataset: SiteDataset,
        folders: SiteFolders,
        policy: SitePolicy,
        *,
        synthetic: bool = False,
    ) -> None:
        self._site = site
        self._plan = plan
        self._resident = resident.at_site(dataset)
        self._dataset = dataset
        self._folders = folders
        self._policy = policy
        self._synthetic = synthetic
        self._train_rows = dataset.select(TRAIN)
        self._patients = dataset.count_patients(TRAIN)
        self._states: dict[str, LocalState] = {}

    def answer(self, request: Request) -> Reply:
        """Do what the coordinator asks.

        Returns
        -------
        The reply; its tensors are valid until the model moves again.

        Raises
        ------
        Refusal
            With a code, if the site will not or cannot.
        """
        if request.fields["plan"] != self._plan.hash:
            raise Refusal(Code.PLAN_NOT_APPROVED, "the message names another plan")
        require_approved(self._folders.state, self._plan.hash)
        match request.kind:
            case "handshake":
                self._require_room()
                return self._handshake()
            case "train":
                self._require_room()
                return self._train(request)
            case "close":
                return self._close(request)

    def _require_room(self) -> None:
        """Refuse before work is lost: what a round writes must fit on the disk."""
        state = self._resident.stage(0).model.state_dict().values()
        needed = _WRITTEN * sum(one.numel() * one.element_size() for one in state)
        folder = next(
            one
            for one in (self._folders.state, *self._folders.state.parents)
            if one.is_dir()
        )
        if shutil.disk_usage(folder).free < needed:
            raise Refusal(
                Code.DISK, f"fewer than {needed / 1e6:.0f} MB are free for local state"
            )

    def _handshake(self) -> Reply:
        images = len(self._train_rows)
        return Reply(
            "handshake",
            {
                "site": self._site,
                "version": self._plan.version,
                "plan": self._plan.hash,
                "snapshot": self._dataset.hash,
                "preprocessing": self._dataset.recipe,
                "fingerprint": federation_fingerprint(
                    [
                        self._resident.plain.stage(i).contract
                        for i in range(len(self._plan.stages))
                    ]
                ),
                "patients": self._policy.release_count(self._patients),
                "images": self._policy.release_count(images),
                "positives": self._policy.release_count(class_counts(self._dataset)[1]),
                "seconds_per_image": self._time_one_step(),
                "counts": self._policy.counts,
            },
        )

    def _time_one_step(self) -> float:
        """Take one step on zeros: a plan that cannot run fails before round 1."""
        stage = self._plan.stages[0]
        model = self._resident.plain.stage(0).model
        pixels = self._plan.preprocessing
        size = (2, stage.model.channels, pixels.rows, pixels.columns)
        began = time.perf_counter()
        model.train()
        model(torch.zeros(size, device=self._resident.device)).sum().backward()
        model.zero_grad(set_to_none=True)
        return (time.perf_counter() - began) / size[0]

    def _train(self, request: Request) -> Reply:
        began = time.perf_counter()
        fields = request.fields
        round_, base = int(fields["round"]), int(fields["base_round"])
        local = int(fields["local_round"])
        state = self._state(str(fields["run"]))
        before, now = self._plan.stage_at(base), self._plan.stage_at(round_)
        generation, tensors = self._assemble(state, before, local, request)
        state.note_counted(local)

        evaluated = dict.fromkeys(_METRICS, math.nan)
        if base:
            self._resident.stage(before).put(tensors)
            evaluated = self._evaluate(before)
        moments = generation.optimizer if before == now else {}

        current = self._resident.stage(now)
        if before != now or not base:  # else evaluation has just put the same tensors
            tensors = self._enter_stage(before, now, tensors)
            self._require_announced(request, tensors, current)
            fixed = {key: tensors[key].numpy() for key in current.contract.fixed}
            state.write_fixed(self._plan.stages[now].name, fixed)
            current.put(tensors)
        trained, moved = train_round(
            self._resident, self._dataset, self._site, now, round_, moments, tensors
        )
        sent = current.look(current.contract.sent)
        if not all(_is_finite(array) for array in sent.values()):
            raise Refusal(Code.NOT_FINITE, f"weights of round {round_} are not finite")
        own = {k: v.copy() for k, v in current.look(current.contract.local).items()}
        state.write(
            Generation(round_, str(fields["shared_hash"]), own, moved), current.parts
        )
        state.keep_only({local, round_, int(fields["keep_round"])})
        return Reply(
            "train",
            {
                "site": self._site,
                "patients": self._policy.release_count(self._patients),
                "images": self._policy.release_count(len(self._train_rows)),
                "loss": trained.loss,
                "seconds": time.perf_counter() - began,
                "step_seconds": trained.step_seconds,
                "evaluated_round": base,
                **evaluated,
                "fixed_hash": tensor_hash(tensors, current.contract.fixed),
            },
            sent,
        )

    def _assemble(
        self, state: LocalState, stage: int, local: int, request: Request
    ) -> tuple[Generation, dict[str, Tensor]]:
        """Put received, fixed and own tensors together to one whole state."""
        rule = self._resident.stage(stage).contract
        if request.fields["fingerprint"] != rule.fingerprint:
            raise Refusal(Code.FINGERPRINT, "the coordinator sends other tensors")
        wrong = [
            spec.key
            for spec in rule.layout_of(rule.sent)
            if spec.key not in request.shared
            or request.shared[spec.key].shape != spec.shape
            or request.shared[spec.key].dtype.name != spec.dtype
        ]
        if wrong or len(request.shared) != len(rule.sent):
            raise Refusal(Code.FINGERPRINT, f"{len(wrong)} tensors do not fit")
        tensors = {k: as_tensor(v) for k, v in request.shared.items()}
        if local:
            if self._plan.stage_at(local) != stage:
                raise Refusal(
                    Code.LOCAL_STATE,
                    f"local state of round {local} is of another stage",
                )
            generation = state.read(local)
            fixed = state.read_fixed(self._plan.stages[stage].name)
            tensors |= {k: as_tensor(v) for k, v in generation.only(rule.local)}
            tensors |= {k: as_tensor(fixed[k]) for k in rule.fixed}
        else:
            generation = Generation(0, "", {}, {})
            initial = self._resident.initial(stage)
            tensors |= {key: initial[key] for key in (*rule.local, *rule.fixed)}
        return generation, tensors

    def _enter_stage(
        self, before: int, now: int, tensors: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Carry a whole state over to the next stage's model."""
        if before == now:
            return tensors
        old = self._resident.stage(before).contract
        new = self._resident.stage(now).contract
        initial = self._resident.initial(now)
        return {
            **next_shared(tensors, initial, old, new),
            **next_local(tensors, tensors, initial, old, new),
        }

    def _evaluate(self, stage: int) -> dict[str, float]:
        scores = self._score(stage, (VALIDATION,))
        return self._release(summarise(scores, self._plan.target.unit))

    def _score(self, stage: int, parts: tuple[str, ...]) -> pd.DataFrame:
        return score_images(
            self._resident.stage(stage).model,
            loader_of(self._resident, self._dataset, stage),
            parts,
            2 * self._plan.stages[stage].work.batch_size,
        )

    def _close(self, request: Request) -> Reply:
        """Write the site's own model of a round, and its scores, to its disk."""
        fields, plan, output = request.fields, self._plan, self._folders.output
        round_, role = int(fields["round"]), str(fields["role"])
        stage = plan.stage_at(round_)
        state = self._state(str(fields["run"]))
        local = int(fields["local_round"])
        _, tensors = self._assemble(state, stage, local, request)
        current = self._resident.stage(stage)
        self._require_announced(request, tensors, current)
        if role == "last":
            state.note_counted(local)
        current.put(tensors)
        scores = self._score(stage, (VALIDATION, TEST))
        thresholds = write_scores(
            output / "scores" / role, scores, self._dataset, plan, stage
        )
        model_hash = write_model(
            output / "models",
            current,
            plan,
            run=str(fields["run"]),
            site=self._site,
            round_=round_,
            role=role,
            thresholds=thresholds,
            synthetic=self._synthetic,
            snapshot=self._dataset.hash,
        )
        validation = scores[scores["part"] == VALIDATION]
        return Reply(
            "close",
            {
                "site": self._site,
                "round": round_,
                "model_hash": model_hash,
                **self._release(summarise(validation, plan.target.unit)),
            },
        )

    def _require_announced(
        self, request: Request, tensors: Mapping[str, Tensor], current: StageModel
    ) -> None:
        """Refuse shared tensors that are not the ones the coordinator means.

        Checked where both ends have computed them, at the start of a stage, and before
        a model is kept. In between, Flower's objects carry their own content hash.
        """
        if request.fields["shared_hash"] != tensor_hash(
            tensors, current.contract.shared
        ):
            raise Refusal(
                Code.SHARED_HASH,
                f"shared tensors for round {request.fields['round']} are not the "
                "announced ones",
            )

    def _release(self, metrics: Mapping[str, float]) -> dict[str, float]:
        return {k: self._policy.release_metric(v) for k, v in metrics.items()}

    def _state(self, run: str) -> LocalState:
        if run not in self._states:
            self._states[run] = LocalState(
                self._folders.state, run, self._plan.hash, self._dataset.hash
            )
        return self._states[run]


def _is_finite(array: np.ndarray) -> bool:
    """Look at the sum of squares, which is faster; one that overflows is bad too."""
    flat = array.ravel(order="K")  # of weights in channels-last: no copy
    return math.isfinite(np.dot(flat, flat))


_WRITTEN = 8
"""Times the model's size: three generations with an optimiser's moments; a model."""

_METRICS = ("roc_auc", "average_precision", "validation_loss")
