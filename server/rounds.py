"""Our round loop: handshake, rounds over all stages, closing; resumable at every point.

Flower's strategies start at round 1 and keep nothing; this loop reads its state from the
last checkpoint, so a killed run goes on with the same command.
"""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from flwr.serverapp import Grid

from common.atomic import write_atomic
from common.checkpoint import Tensors
from common.contract import Contract, tensor_hash
from common.handshake import federation_fingerprint
from common.models import build_model
from common.models.start import initial_tensors
from common.models.transitions import next_shared
from common.observer import Observer
from common.plan import Plan
from common.records import Request, Value
from common.sharing import contract
from server.aggregation import BadReply, average, check_reply, weight_shares
from server.checkpoints import Checkpoints, RunState
from server.ledger import Entry
from server.participation import Answer, RunFailed, ask, greet, require_quorum
from server.selection import select_round

METRICS = ("roc_auc", "average_precision", "validation_loss")


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes
    ----------
    status : ``complete`` or ``complete_with_absences``; a failed run raises
    selected, last : rounds; ``selected`` is ``last`` where no metric was released
    state : after the last round, with the metrics of that round
    """

    status: str
    selected: int
    last: int
    state: RunState


class Federation:
    """One run of a plan, from the coordinator's side.

    Parameters
    ----------
    plan : what all sites approved
    folder : of the coordinator: ``checkpoints/`` and ``outcome.json``
    start_file : local file of the plan's start, or None
    observer : is told about progress
    """

    def __init__(
        self, plan: Plan, folder: Path, start_file: Path | None, observer: Observer
    ) -> None:
        self._plan = plan
        self._folder = folder
        self._start_file = start_file
        self._observer = observer
        self._counts: dict[str, str] = {}
        self._checkpoints = Checkpoints(folder / "checkpoints", plan.hash)
        self._contracts = [
            contract(build_model(stage.model, plan.seed), stage) for stage in plan.stages
        ]

    def run(self, grid: Grid) -> Outcome:
        """Play all rounds that are left, then close.

        Raises
        ------
        RunFailed
            If the handshake fails or too few sites are left; the checkpoint of the
            last good round stays, and the same call goes on from it.
        """
        state = self._checkpoints.newest() or self._begin()
        fingerprint = federation_fingerprint(self._contracts)
        nodes, hellos = greet(grid, self._plan, state.run, fingerprint)
        self._counts = {site: str(hello["counts"]) for site, hello in hellos.items()}
        write_atomic(
            self._folder / "handshake.json", json.dumps(hellos, indent=2).encode()
        )
        self._observer.started(state.round, self._plan.rounds, self._plan.roster.sites)
        while state.round < self._plan.rounds:
            state = self._play_round(grid, nodes, state)
            best = self._select(state)
            self._checkpoints.save(state, () if best is None else (best,))
            self._observer.round_done(
                state.round,
                state.losses[state.round],
                state.history.get(state.round - 1, {}),
            )
        return self._finish(grid, nodes, state)

    def _begin(self) -> RunState:
        initial = initial_tensors(self._plan, self._plan.stages[0].model, self._start_file)
        shared = {key: initial[key].numpy() for key in self._contracts[0].shared}
        state = RunState(
            run=f"{self._plan.id}-{secrets.token_hex(4)}",
            round=0,
            shared=shared,
            shared_hash=tensor_hash(shared, shared),
            local_rounds={0: dict.fromkeys(self._plan.roster.sites, 0)},
        )
        self._checkpoints.save(state, ())
        return state

    def _play_round(self, grid: Grid, nodes: dict[str, int], state: RunState) -> RunState:
        round_ = state.round + 1
        number = self._plan.stage_at(round_)
        rule = self._contracts[number]
        shared = self._enter_stage(state, number)
        shared_hash = tensor_hash(shared, shared)
        requests = {
            nodes[site]: self._train_request(state, site, shared_hash) for site in nodes
        }
        limit = self._plan.aggregation.round_timeout
        answers = ask(grid, requests, str(round_), limit)
        by_site = {site: answers[node] for site, node in nodes.items()}

        norms, reasons = self._judge(by_site, shared, rule)
        counted = [site for site in self._plan.roster.sites if site in norms]
        shares = self._shares(counted, by_site)
        ledger = [
            *state.ledger,
            *self._entries(round_, number, by_site, norms, shares, reasons),
        ]
        require_quorum(self._plan.roster, counted, ledger, round_)
        updates = [by_site[site].shared for site in counted]
        averaged = average(updates, [shares[site] for site in counted])
        merged = {**shared, **averaged}
        local = {
            site: round_ if site in norms else state.local_rounds[state.round][site]
            for site in nodes
        }
        return RunState(
            run=state.run,
            round=round_,
            shared=merged,
            shared_hash=tensor_hash(merged, merged),
            history=self._with_metrics(state, by_site),
            losses={**state.losses, round_: _losses(by_site)},
            local_rounds={**state.local_rounds, round_: local},
            ledger=ledger,
        )

    def _enter_stage(self, state: RunState, number: int) -> Tensors:
        before = self._plan.stage_at(state.round)
        if before == number:
            return state.shared
        model = self._plan.stages[number].model
        moved = next_shared(
            {key: torch.from_numpy(array) for key, array in state.shared.items()},
            initial_tensors(self._plan, model, self._start_file),
            self._contracts[before],
            self._contracts[number],
        )
        return {key: tensor.numpy() for key, tensor in moved.items()}

    def _train_request(self, state: RunState, site: str, shared_hash: str) -> Request:
        """Ask for the next round; evaluation of the round before rides on it."""
        rule = self._contracts[self._plan.stage_at(state.round)]
        best = self._select(state)
        fields: dict[str, Value] = {
            "plan": self._plan.hash,
            "run": state.run,
            "round": state.round + 1,
            "base_round": state.round,
            "local_round": state.local_rounds[state.round][site],
            "keep_round": 0 if best is None else state.local_rounds[best][site],
            "shared_hash": shared_hash,
            "fingerprint": rule.fingerprint,
        }
        return Request("train", fields, {key: state.shared[key] for key in rule.sent})

    def _judge(
        self, answers: Mapping[str, Answer], sent: Tensors, rule: Contract
    ) -> tuple[dict[str, float], dict[str, str]]:
        norms: dict[str, float] = {}
        reasons: dict[str, str] = {}
        fixed_hash = tensor_hash(sent, rule.fixed)
        for site, answer in answers.items():
            if answer.fields is None:
                reasons[site] = answer.reason or "no reply"
                continue
            try:
                if answer.fields["site"] != site:
                    raise BadReply("the reply names another site")
                norms[site] = check_reply(
                    answer.fields,
                    answer.shared,
                    sent,
                    rule,
                    self._plan.aggregation,
                    fixed_hash,
                )
            except BadReply as error:
                reasons[site] = str(error)
        return norms, reasons

    def _shares(self, counted: list[str], answers: Mapping[str, Answer]) -> dict[str, float]:
        if not counted:
            return {}
        weight = self._plan.aggregation.weight
        counts = [
            1 if weight == "uniform" else int(_fields(answers[site])[weight])
            for site in counted
        ]
        return dict(zip(counted, weight_shares(counts), strict=True))

    def _entries(
        self,
        round_: int,
        number: int,
        answers: Mapping[str, Answer],
        norms: Mapping[str, float],
        shares: Mapping[str, float],
        reasons: Mapping[str, str],
    ) -> list[dict[str, object]]:
        stage, unit = self._plan.stages[number], self._plan.aggregation.weight
        entries = []
        for site in self._plan.roster.sites:
            fields = answers[site].fields or {}
            entry = Entry(
                stage=stage.name,
                round=round_,
                site=site,
                expected=True,
                configured=True,
                replied=answers[site].replied,
                counted=site in norms,
                counts=self._counts[site],
                samples=_int(fields.get("patients" if unit == "uniform" else unit)),
                weight_share=shares.get(site),
                update_norm=norms.get(site) if self._contracts[number].sent else None,
                seconds=_float(fields.get("seconds")),
                step_seconds=_float(fields.get("step_seconds")),
                reason=reasons.get(site),
            )
            entries.append(entry.to_json())
        return entries

    def _with_metrics(
        self, state: RunState, answers: Mapping[str, Answer]
    ) -> dict[int, dict[str, dict[str, float | None]]]:
        if not state.round:
            return state.history
        return {
            **state.history,
            state.round: {
                site: {name: _float(answer.fields[name]) for name in METRICS}
                for site, answer in answers.items()
                if answer.fields is not None
            },
        }

    def _select(self, state: RunState) -> int | None:
        first = self._plan.first_round(len(self._plan.stages) - 1)
        candidates = range(first, self._plan.rounds + 1)
        return select_round(state.history, self._plan.evaluation, candidates)

    def _finish(self, grid: Grid, nodes: dict[str, int], state: RunState) -> Outcome:
        """Give every site its model of the last and of the selected round."""
        last = state.round
        metrics = self._close(grid, nodes, state, state, "last")
        state = replace(state, history={**state.history, last: metrics})
        selected = self._select(state) or last
        chosen = state if selected == last else self._checkpoints.read(selected)
        self._close(grid, nodes, state, chosen, "selected")
        missed = any(not entry["counted"] for entry in state.ledger)
        status = "complete_with_absences" if missed else "complete"
        outcome = {
            "status": status,
            "selected": selected,
            "last": last,
            "plan": self._plan.hash,
            "run": state.run,
            "history": state.history,
            "losses": state.losses,
            "ledger": state.ledger,
        }
        write_atomic(self._folder / "outcome.json", json.dumps(outcome).encode())
        self._observer.finished(status)
        return Outcome(status, selected, last, state)

    def _close(
        self,
        grid: Grid,
        nodes: dict[str, int],
        state: RunState,
        chosen: RunState,
        role: str,
    ) -> dict[str, dict[str, float | None]]:
        rule = self._contracts[self._plan.stage_at(chosen.round)]
        shared = {key: chosen.shared[key] for key in rule.sent}
        requests = {}
        for site, node in nodes.items():
            fields: dict[str, Value] = {
                "plan": self._plan.hash,
                "run": state.run,
                "round": chosen.round,
                "local_round": state.local_rounds[chosen.round][site],
                "role": role,
                "shared_hash": chosen.shared_hash,
                "fingerprint": rule.fingerprint,
            }
            requests[node] = Request("close", fields, shared)
        limit = self._plan.aggregation.round_timeout
        answers = ask(grid, requests, role, limit)
        lost = [
            f"{site}: {answers[node].reason}"
            for site, node in nodes.items()
            if answers[node].fields is None
        ]
        if lost:
            raise RunFailed(
                f"closing ({role} round {chosen.round}) failed at "
                + "; ".join(lost)
                + ". Mend the sites, then resume."
            )
        return {
            site: {name: _float(_fields(answers[node])[name]) for name in METRICS}
            for site, node in nodes.items()
        }


def _fields(answer: Answer) -> Mapping[str, Value]:
    assert answer.fields is not None
    return answer.fields


def _losses(answers: Mapping[str, Answer]) -> dict[str, float | None]:
    return {site: _float((a.fields or {}).get("loss")) for site, a in answers.items()}


def _float(value: Value | None) -> float | None:
    number = math.nan if value is None else float(value)
    return number if math.isfinite(number) else None


def _int(value: Value | None) -> int | None:
    return None if value is None else int(value)
