"""One site's side of a federation: model, loaders, local state, answers.

A session lives as long as the process; a site is only its tensors, loaders and seeds.
Every answer depends on the request, the site's disk and the plan alone, so a round that
was killed half way gives the same answer when it is asked for again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from client.adaptation import reestimate_statistics
from client.approval import require_approved
from client.data.dataset import (
    TEST,
    TRAIN,
    VALIDATION,
    Loader,
    SiteDataset,
    draw_batches,
    in_order,
)
from client.evaluation import choose_threshold, prior_odds, score_images, summarise
from client.local_state import Generation, LocalState
from client.model_folder import ModelInfo, write_model_folder
from client.objectives import build_objective
from client.policy import SitePolicy
from client.resident import Resident, StageModel
from client.training import (
    Trained,
    build_optimizer,
    optimizer_tensors,
    restore_optimizer,
    train,
)
from common.contract import tensor_hash
from common.handshake import federation_fingerprint
from common.models.transitions import next_local, next_shared
from common.norms import set_norm_mode
from common.plan import Plan
from common.records import Code, Refusal, Reply, Request
from common.seeds import derive_seed
from common.sharing import set_trainable


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
        self._resident = resident
        self._dataset = dataset
        self._folders = folders
        self._policy = policy
        self._synthetic = synthetic
        self._train_rows = dataset.select(TRAIN)
        self._positives = int(dataset.targets(self._train_rows).sum())
        self._patients = dataset.count_patients(TRAIN)
        self._states: dict[str, LocalState] = {}

    def answer(self, request: Request) -> Reply:
        """Do what the coordinator asks.

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
                return self._handshake()
            case "train":
                return self._train(request)
            case "close":
                return self._close(request)

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
                    [self._resident.stage(i).contract for i in range(len(self._plan.stages))]
                ),
                "patients": self._policy.release_count(self._patients),
                "images": self._policy.release_count(images),
                "positives": self._policy.release_count(self._positives),
                "seconds_per_image": self._time_one_step(),
                "counts": self._policy.counts,
            },
        )

    def _time_one_step(self) -> float:
        """Take one step on zeros, so that a plan that cannot run fails before round 1."""
        stage = self._plan.stages[0]
        model = self._resident.stage(0).model
        size = (2, stage.model.channels, self._rows, self._columns)
        began = time.perf_counter()
        model.train()
        model(torch.zeros(size, device=self._resident.device)).sum().backward()
        model.zero_grad(set_to_none=True)
        return (time.perf_counter() - began) / size[0]

    @property
    def _rows(self) -> int:
        return self._plan.preprocessing.rows

    @property
    def _columns(self) -> int:
        return self._plan.preprocessing.columns

    def _train(self, request: Request) -> Reply:
        began = time.perf_counter()
        fields = request.fields
        round_, base = int(fields["round"]), int(fields["base_round"])
        local = int(fields["local_round"])
        state = self._state(str(fields["run"]))
        before, now = self._plan.stage_at(base), self._plan.stage_at(round_)
        generation, tensors = self._assemble(state, before, local, request)

        evaluated = dict.fromkeys(_METRICS, math.nan)
        if base:
            self._resident.stage(before).put(tensors)
            evaluated = self._evaluate(before)
        if before != now or not base:
            tensors = self._enter_stage(state, before, now, tensors)
        optimizer = generation.optimizer if before == now else {}

        current = self._resident.stage(now)
        if fields["shared_hash"] != tensor_hash(tensors, current.contract.shared):
            raise Refusal(
                Code.SHARED_HASH, f"shared tensors of round {round_} are not the announced"
            )
        current.put(tensors)
        trained, moved = self._train_stage(now, round_, optimizer, tensors)
        sent = current.take(current.contract.sent)
        if not all(np.isfinite(array).all() for array in sent.values()):
            raise Refusal(Code.NOT_FINITE, f"weights of round {round_} are not finite")
        own = current.take(current.contract.local)
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
        tensors = {k: torch.from_numpy(v) for k, v in request.shared.items()}
        if local:
            generation = state.read(local)
            fixed = state.read_fixed(self._plan.stages[stage].name)
            tensors |= {k: torch.from_numpy(v) for k, v in generation.tensors.items()}
            tensors |= {k: torch.from_numpy(v) for k, v in fixed.items()}
        else:
            generation = Generation(0, "", {}, {})
            initial = self._resident.initial(stage)
            tensors |= {key: initial[key] for key in (*rule.local, *rule.fixed)}
        missing = (set(rule.shared) | set(rule.local)) - set(tensors)
        if missing:
            raise Refusal(Code.LOCAL_STATE, f"{len(missing)} local tensors are missing")
        return generation, tensors

    def _enter_stage(
        self, state: LocalState, before: int, now: int, tensors: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Carry tensors over to the next stage and keep those that it does not change."""
        new = self._resident.stage(now).contract
        if before != now:
            old = self._resident.stage(before).contract
            initial = self._resident.initial(now)
            tensors = {
                **next_shared(tensors, initial, old, new),
                **next_local(tensors, tensors, initial, old, new),
            }
        if new.fixed:
            fixed = {key: tensors[key].numpy() for key in new.fixed}
            state.write_fixed(self._plan.stages[now].name, fixed)
        return tensors

    def _train_stage(
        self,
        number: int,
        round_: int,
        optimizer_state: Mapping[str, np.ndarray],
        received: Mapping[str, Tensor],
    ) -> tuple[Trained, dict[str, np.ndarray]]:
        stage, current = self._plan.stages[number], self._resident.stage(number)
        model, loader = current.model, self._loader(number)
        seed = [self._plan.seed, self._site, stage.name, round_]
        if stage.norm_mode == "reestimate":
            rows = self._dataset.select(TRAIN, labelled=False)
            batches = loader.batches(in_order(rows, self._batch_size(number)))
            reestimate_statistics(model, (images for images, _ in batches))
            return Trained(math.nan, 0, 0.0), {}
        torch.manual_seed(derive_seed(seed[0], "dropout", *seed[1:]))
        set_trainable(model, current.contract.trainable)
        model.train()
        set_norm_mode(model, stage.norm_mode)
        optimizer = build_optimizer(
            [p for p in model.parameters() if p.requires_grad], stage.optimizer
        )
        restore_optimizer(model, optimizer, optimizer_state)
        rows_of_steps = draw_batches(
            self._train_rows, stage.work, derive_seed(seed[0], "order", *seed[1:])
        )
        first = self._plan.first_round(number)
        done = round_ - first
        trained = train(
            model,
            optimizer,
            build_objective(
                stage.objective, len(self._train_rows) - self._positives, self._positives
            ),
            loader.batches(
                rows_of_steps,
                stage.augmentation,
                derive_seed(seed[0], "augmentation", *seed[1:]),
            ),
            stage.optimizer,
            progress=(done / stage.rounds, (done + 1) / stage.rounds),
            steps=len(rows_of_steps),
            mixed=self._resident.mixed,
            received=self._anchors(current, received),
        )
        keep = stage.optimizer.state == "keep"
        return trained, optimizer_tensors(model, optimizer) if keep else {}

    def _anchors(
        self, current: StageModel, received: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        keys = set(current.contract.sent) & set(current.contract.trainable)
        if not current.contract.stage.optimizer.proximal:
            return {}
        return {key: received[key].to(self._resident.device) for key in keys}

    def _evaluate(self, stage: int) -> dict[str, float]:
        scores = self._score(stage, (VALIDATION,))
        summary = summarise(scores, self._plan.target.unit)
        return {k: self._policy.release_metric(v) for k, v in summary.items()}

    def _score(self, stage: int, parts: tuple[str, ...]) -> pd.DataFrame:
        model = self._resident.stage(stage).model
        size = 2 * self._batch_size(stage)
        return score_images(model, self._loader(stage), parts, size, self._resident.mixed)

    def _close(self, request: Request) -> Reply:
        """Write the site's own model of a round, and its scores, to its disk."""
        fields = request.fields
        round_, role = int(fields["round"]), str(fields["role"])
        stage = self._plan.stage_at(round_)
        state = self._state(str(fields["run"]))
        _, tensors = self._assemble(state, stage, int(fields["local_round"]), request)
        current = self._resident.stage(stage)
        if fields["shared_hash"] != tensor_hash(tensors, current.contract.shared):
            raise Refusal(Code.SHARED_HASH, f"round {round_} is not the announced one")
        current.put(tensors)
        scores = self._score(stage, (VALIDATION, TEST))
        thresholds = self._write_scores(scores, role, stage)
        info = ModelInfo(
            plan=self._plan.id,
            plan_hash=self._plan.hash,
            run=str(fields["run"]),
            site=self._site,
            round=round_,
            role=role,
            sharing=self._plan.stages[stage].sharing,
            model=asdict(self._plan.stages[stage].model),
            preprocessing=asdict(self._plan.preprocessing),
            thresholds=thresholds,
            unit=self._plan.target.unit,
            synthetic=self._synthetic,
        )
        folder = self._folders.output / "models" / self._plan.id / str(round_)
        everything = current.take(tuple(current.model.state_dict()))
        model_hash = write_model_folder(folder, everything, info, self._plan)
        validation = summarise(scores[scores["part"] == VALIDATION], self._plan.target.unit)
        released = {k: self._policy.release_metric(v) for k, v in validation.items()}
        return Reply(
            "close",
            {"site": self._site, "round": round_, "model_hash": model_hash, **released},
        )

    def _write_scores(
        self, scores: pd.DataFrame, role: str, stage: int
    ) -> dict[str, float | None]:
        """Write image scores of validation and test; they never leave the site."""
        objective = self._plan.stages[stage].objective
        negatives = len(self._train_rows) - self._positives
        weight = (
            negatives / max(self._positives, 1)
            if objective.pos_weight == "site"
            else float(objective.pos_weight)
        )
        folder = self._folders.output / "scores" / role
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        thresholds: dict[str, float | None] = {}
        for population, rows in scores.groupby("population", sort=True):
            name = str(population)
            train_odds, site_odds = prior_odds(self._dataset, name, weight, self._plan)
            rows.assign(train_odds=train_odds, site_odds=site_odds).to_parquet(
                folder / f"{name}.parquet", index=False
            )
            chosen = choose_threshold(
                rows[rows["part"] == VALIDATION],
                self._plan.target.unit,
                self._plan.evaluation.at_specificity,
            )
            thresholds[name] = None if math.isnan(chosen) else chosen
        return thresholds

    def _loader(self, stage: int) -> Loader:
        spec = self._plan.stages[stage].model
        return Loader(
            self._dataset, self._resident.device, spec.mean, spec.scale, spec.channels
        )

    def _batch_size(self, stage: int) -> int:
        return self._plan.stages[stage].work.batch_size

    def _state(self, run: str) -> LocalState:
        if run not in self._states:
            self._states[run] = LocalState(self._folders.state, run, self._plan.hash)
        return self._states[run]


_METRICS = ("roc_auc", "average_precision", "validation_loss")
