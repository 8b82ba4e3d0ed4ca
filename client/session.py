"""One site's side of a federation: model, loaders, local state, answers.

A session lives as long as the process; a site is only its tensors, loaders and seeds.
Every answer depends on the request, the site's disk and the plan alone, so a round that
was killed half way gives the same answer when it is asked for again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from torch import Tensor

from client.approval import require_approved
from client.assembly import assemble, enter_stage, require_announced
from client.closing import write_model, write_scores
from client.data.dataset import TEST, TRAIN, VALIDATION, SiteDataset
from client.evaluation import score_images, summarise
from client.local_round import (
    Kept,
    class_counts,
    facts_of,
    loader_of,
    objective_of,
    train_round,
)
from client.local_state import Generation, LocalState
from client.policy import SitePolicy
from client.readiness import require_room, time_one_step
from client.resident import Resident
from client.sanity import IMAGES, require_sane
from client.staleness import refresh_if_stale
from client.update import update_of
from common.contract import tensor_hash
from common.handshake import federation_fingerprint
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
                require_room(self._resident, self._folders.state)
                return self._handshake()
            case "train":
                require_room(self._resident, self._folders.state)
                return self._train(request)
            case "close":
                return self._close(request)
            case "offer":
                raise Refusal(Code.ROSTER, f"{self._site} is of the roster itself")

    def _handshake(self) -> Reply:
        images = len(self._train_rows)
        for number in range(len(self._plan.stages)):  # a mistake costs seconds here
            objective_of(self._resident, self._dataset, number)
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
                "seconds_per_image": time_one_step(self._resident.plain),
                "counts": self._policy.counts,
            },
        )

    def _train(self, request: Request) -> Reply:
        began = time.perf_counter()
        fields = request.fields
        round_, base = int(fields["round"]), int(fields["base_round"])
        local = int(fields["local_round"])
        state = self._state(str(fields["run"]))
        before, now = self._plan.stage_at(base), self._plan.stage_at(round_)
        generation, tensors = assemble(self._resident, state, before, local, request)
        self._resident.stage(before).put(tensors)
        spreads = self._require_sane(before, generation, tensors, request)
        state.note_counted(local)

        evaluated, refreshed = dict.fromkeys(_METRICS, math.nan), False
        if base:
            refreshed = self._refresh(before, base - local, tensors)
            evaluated = self._evaluate(before)
        kept = Kept()
        if before == now:
            kept = Kept(generation.optimizer, generation.objective)

        current = self._resident.stage(now)
        if before != now or not base:  # else the same tensors are in it
            tensors = enter_stage(self._resident, before, now, tensors)
            require_announced(request, tensors, current.contract)
            fixed = {key: tensors[key].numpy() for key in current.contract.fixed}
            state.write_fixed(self._plan.stages[now].name, fixed)
            current.put(tensors)
        trained, kept = train_round(
            self._resident, self._dataset, self._site, now, round_, kept, tensors
        )
        sent, residual = update_of(
            current.look(current.contract.sent),
            tensors,
            generation.residual,
            current.contract.transport,
        )
        own = {k: v.copy() for k, v in current.look(current.contract.local).items()}
        state.write(
            Generation(
                round_,
                str(fields["shared_hash"]),
                own,
                dict(kept.optimizer),
                residual,
                spreads,
                dict(kept.objective),
            ),
            current.parts,
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
                "reestimated": refreshed,
            },
            sent,
        )

    def _require_sane(
        self,
        stage: int,
        generation: Generation,
        tensors: Mapping[str, Tensor],
        request: Request,
    ) -> dict[str, float]:
        """Look at what was received; the stage's model holds it already."""
        loader = loader_of(self._resident, self._dataset, stage)
        alike = self._train_rows[loader.apart(self._train_rows)[0]]
        images = next(loader.batches([alike[:IMAGES]])).images
        return require_sane(
            self._resident.stage(stage),
            {key: tensors[key] for key in request.shared},
            generation.spreads,
            lambda: self._resident.initial(stage),
            images,
        )

    def _refresh(self, stage: int, missed: int, tensors: dict[str, Tensor]) -> bool:
        return refresh_if_stale(self._resident, self._dataset, stage, missed, tensors)

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
        generation, tensors = assemble(self._resident, state, stage, local, request)
        current = self._resident.stage(stage)
        require_announced(request, tensors, current.contract)
        current.put(tensors)
        self._require_sane(stage, generation, tensors, request)
        if role == "last":
            state.note_counted(local)
        refreshed = self._refresh(stage, round_ - local, tensors)
        scores = self._score(stage, (VALIDATION, TEST))
        thresholds = write_scores(
            output / "scores" / role,
            scores,
            self._dataset,
            plan,
            stage,
            facts_of(self._resident, self._dataset, stage),
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
            reestimated=refreshed,
        )
        validation = scores[scores["part"] == VALIDATION]
        return Reply(
            "close",
            {
                "site": self._site,
                "round": round_,
                "model_hash": model_hash,
                "reestimated": refreshed,
                **self._release(summarise(validation, plan.target.unit)),
            },
        )

    def _release(self, metrics: Mapping[str, float]) -> dict[str, float]:
        return {k: self._policy.release_metric(v) for k, v in metrics.items()}

    def _state(self, run: str) -> LocalState:
        if run not in self._states:
            self._states[run] = LocalState(
                self._folders.state, run, self._plan.hash, self._dataset.hash
            )
        return self._states[run]


_METRICS = ("roc_auc", "average_precision", "validation_loss")
