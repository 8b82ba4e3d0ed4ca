"""Our round loop: handshake, rounds over all stages, closing; resumable anywhere.

Flower's strategies start at round 1 and keep nothing; this loop reads its state from
the last checkpoint, so a killed run goes on with the same command.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from flwr.serverapp import Grid

from common.atomic import write_atomic
from common.checkpoint import Tensors
from common.contract import tensor_hash
from common.handshake import federation_fingerprint
from common.models import build_model
from common.models.start import initial_tensors
from common.models.transitions import next_shared
from common.observer import Observer
from common.plan import Plan
from common.records import Request, Value
from common.sharing import contract
from server.aggregation import advance, average, pack_weights, round_weights
from server.checkpoints import Checkpoints, RunState
from server.closing import Closed, able, close
from server.conversation import LEFT, OFFLINE, Answer, ask
from server.deadlines import round_deadline
from server.greeting import HANDSHAKE_FILE, Hello, greet
from server.ledger import away
from server.participation import RunFailed, require_quorum
from server.replies import judge, ledger_entries
from server.room import require_room
from server.selection import select_round


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
    note : is told each average before it is saved
    own_machines : every site computes on a machine of its own, so that one which is
        silent for long is absent, not waiting for its turn
    """

    def __init__(
        self,
        plan: Plan,
        folder: Path,
        start_file: Path | None,
        observer: Observer,
        note: Callable[[RunState], None] = lambda state: None,
        *,
        own_machines: bool = False,
    ) -> None:
        self._plan = plan
        self._folder = folder
        self._start_file = start_file
        self._observer = observer
        self._note = note
        self._own_machines = own_machines
        self._hellos: Mapping[str, Hello] = {}
        self._away: Collection[str] = ()
        self._ledger: list[dict[str, Any]] = []
        self._checkpoints = Checkpoints(folder / "checkpoints", plan.hash)
        self._contracts = [
            contract(
                build_model(stage.model, plan.seed), stage, plan.aggregation.transport
            )
            for stage in plan.stages
        ]

    def run(self, grid: Grid) -> Outcome:
        """Play all rounds that are left, then close.

        Raises
        ------
        RunFailed
            If the handshake fails or too few sites are left; ``failure.json`` says why
            and holds the ledger, the checkpoint of the last good round stays, and the
            same call goes on from it.
        """
        failure = self._folder / "failure.json"
        try:
            outcome = self._play(grid)
        except RunFailed as error:
            document = {
                "status": "failed",
                "reason": str(error),
                "ledger": self._ledger,
            }
            write_atomic(failure, json.dumps(document, indent=2).encode())
            self._observer.finished("failed")
            raise
        failure.unlink(missing_ok=True)
        return outcome

    def _play(self, grid: Grid) -> Outcome:
        state = self._checkpoints.newest() or self._begin()
        fingerprint = federation_fingerprint(self._contracts)
        self._ledger = state.ledger
        file = self._folder / HANDSHAKE_FILE
        begun = state.round > 0
        left = [site for site, why in away(state.ledger).items() if why == LEFT]
        greeting = greet(
            grid, self._plan, state.run, fingerprint, file, left, begun=begun
        )
        nodes, self._hellos = greeting.nodes, greeting.hellos
        self._away = greeting.absent
        self._observer.started(state.round, self._plan.rounds, self._plan.roster.sites)
        while state.round < self._plan.rounds:
            require_room(self._folder, state.shared, len(nodes))
            state = self._play_round(grid, nodes, state)
            self._note(state)
            best = self._select(state)
            self._checkpoints.save(state, () if best is None else (best,))
            self._observer.round_done(
                state.round,
                state.losses[state.round],
                state.history.get(state.round - 1, {}),
            )
        return self._finish(grid, nodes, state)

    def _begin(self) -> RunState:
        initial = initial_tensors(
            self._plan, self._plan.stages[0].model, self._start_file
        )
        rule = self._contracts[0]
        shared = {key: initial[key].numpy() for key in rule.shared}
        exact = {key: shared[key] for key in rule.sent}
        sent, residual = round_weights(exact, rule.transport)
        shared |= sent
        state = RunState(
            run=f"{self._plan.id}-{secrets.token_hex(4)}",
            round=0,
            shared=shared,
            shared_hash=tensor_hash(shared, shared),
            residual=residual,
            local_rounds={0: dict.fromkeys(self._plan.roster.sites, 0)},
        )
        self._checkpoints.save(state, ())
        return state

    def _play_round(
        self, grid: Grid, nodes: dict[str, int], state: RunState
    ) -> RunState:
        began = time.monotonic()
        round_ = state.round + 1
        number = self._plan.stage_at(round_)
        rule = self._contracts[number]
        shared = self._enter_stage(state, number)
        same = shared is state.shared
        shared_hash = state.shared_hash if same else tensor_hash(shared, shared)
        leaving = self._contracts[self._plan.stage_at(state.round)]
        sent = pack_weights(state.shared, leaving)
        asked = able(self._plan, nodes, state)
        requests = {
            node: Request("train", self._asks(state, site, shared_hash), sent)
            for site, node in asked.items()
        }
        limit = self._limit(number, state.ledger)
        gone = {
            asked[site]: why
            for site, why in self._missing(state).items()
            if site in asked
        }
        answers = ask(grid, requests, str(round_), limit, gone)
        by_site = {
            site: answers[asked[site]] if site in asked else _GONE for site in nodes
        }

        judged = judge(by_site, shared, rule, self._plan, self._hellos, state.round)
        ledger = [
            *state.ledger,
            *ledger_entries(judged, self._plan, rule, round_, self._hellos),
        ]
        self._ledger, self._away = ledger, ()
        opens = number > 0 and round_ == self._plan.first_round(number)
        require_quorum(
            self._plan.roster, judged.counted, ledger, round_, everyone=opens
        )
        mean = average(list(judged.updates.values()), list(judged.shares.values()))
        kept = {key: one for key, one in state.residual.items() if key in rule.sent}
        averaged, residual = advance(shared, kept, mean, rule.transport)
        merged = {**shared, **averaged}
        before = state.local_rounds[state.round]
        evaluated = {state.round: judged.metrics()} if state.round else {}
        return RunState(
            run=state.run,
            round=round_,
            shared=merged,
            shared_hash=tensor_hash(merged, merged),
            history={**state.history, **evaluated},
            losses={**state.losses, round_: judged.losses()},
            seconds={**state.seconds, round_: time.monotonic() - began},
            local_rounds={
                **state.local_rounds,
                round_: {
                    s: round_ if s in judged.norms else before[s] for s in by_site
                },
            },
            ledger=ledger,
            residual=residual,
        )

    def _limit(self, stage: int, ledger: list[dict[str, Any]]) -> float:
        if not self._own_machines:
            return self._plan.aggregation.round_timeout
        spec = self._plan.stages[stage]
        return round_deadline(self._plan, spec, self._hellos, ledger)

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

    def _asks(self, state: RunState, site: str, shared_hash: str) -> dict[str, Value]:
        """Ask for the next round; evaluation of the round before rides on it."""
        rule = self._contracts[self._plan.stage_at(state.round)]
        best = self._select(state)
        return {
            "plan": self._plan.hash,
            "run": state.run,
            "round": state.round + 1,
            "base_round": state.round,
            "local_round": state.local_rounds[state.round][site],
            "keep_round": 0 if best is None else state.local_rounds[best][site],
            "shared_hash": shared_hash,
            "fingerprint": rule.fingerprint,
        }

    def _select(self, state: RunState) -> int | None:
        return select_round(state.history, self._plan)

    def _finish(self, grid: Grid, nodes: dict[str, int], state: RunState) -> Outcome:
        """Give every site its model of the last and of the selected round."""
        last = state.round
        closed = {"last": self._close(grid, nodes, state, state, "last")}
        metrics = closed["last"].metrics
        state = replace(state, history={**state.history, last: metrics})
        selected = self._select(state) or last
        chosen = state if selected == last else self._checkpoints.read(selected)
        closed["selected"] = self._close(grid, nodes, state, chosen, "selected")
        missed = any(not entry["counted"] for entry in state.ledger)
        missed |= any(one.without for one in closed.values())
        status = "complete_with_absences" if missed else "complete"
        outcome = {
            "status": status,
            "selected": selected,
            "last": last,
            "plan": self._plan.hash,
            "run": state.run,
            "history": state.history,
            "losses": state.losses,
            "seconds": state.seconds,
            "ledger": state.ledger,
            "closed": {
                role: {"reestimated": one.reestimated, "without": one.without}
                for role, one in closed.items()
            },
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
    ) -> Closed:
        number = self._plan.stage_at(chosen.round)
        rule, limit = self._contracts[number], self._limit(number, state.ledger)
        gone = self._missing(state)
        return close(grid, self._plan, rule, nodes, state, chosen, role, limit, gone)

    def _missing(self, state: RunState) -> dict[str, str]:
        """Name the sites that nobody waits for, and why: they were away before."""
        return {**dict.fromkeys(self._away, OFFLINE), **away(state.ledger)}


_GONE = Answer(None, {}, False, LEFT, attempts=0)
