"""A finished run that is asked for again serves newcomers, and changes nothing."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, Message

from client.approval import approve
from client.client_app import Session, make_client_app
from client.newcomer import Newcomer
from common.audit import FOLDER, LOG_FILE
from common.audit_check import read_log, verify
from common.checkpoint import read_tensors
from common.keys import public_text
from common.packing import pack_tensors, unpack_tensors
from common.plan import Evaluation, Plan, plan_to_json
from common.records import Reply, Request
from server.audit_trail import coordinator_key
from server.flower_app import play, run_folder
from server.participation import RunFailed
from simulations.federation import approve_everywhere, sessions_of
from simulations.grid import InProcessGrid
from tests.support.hospitals import SITES, populations, small_plan, small_stage
from tests.support.runs import MACHINE

TRUNK = "backbone.stem.0.weight"


class Consortium:
    """Three hospitals in memory and those that come later, through the ServerApp."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        self.folder, self.plan = folder, plan
        self.file = folder / "plan.json"
        self.run = run_folder(self.file)
        approve_everywhere(plan, folder)
        self.file.write_bytes(plan_to_json(plan))
        self._connect = sessions_of(
            plan, populations(plan), folder, MACHINE, synthetic=True
        )
        self.asked: Counter[tuple[str, str]] = Counter()

    def state(self, site: str) -> Path:
        return self.folder / "sites" / site / "state"

    def play(
        self, *newcomers: str, online: tuple[str, ...] = SITES, tamper: bool = False
    ) -> None:
        """Type the command; these sites are online."""
        app = make_client_app(self._session)

        def altered(message: Message, context: Any) -> Message:
            if tamper and message.metadata.message_type == "query.shared":
                _tamper(message)
            return app(message=message, context=context)

        grid = InProcessGrid(altered, (*online, *newcomers))  # type: ignore[arg-type]
        play(grid, {"plan": str(self.file)})

    def _session(self, node_config: Mapping[str, object]) -> Session:
        site = str(node_config["site"])
        session = (
            self._connect(node_config)
            if site in self.plan.roster.sites
            else Newcomer(site, self.plan, self.state(site))
        )
        counted = _Counted(session, lambda kind: self.asked.update([(site, kind)]))
        return _Liar(counted) if site == "liar" else counted

    def offers(self) -> list[dict[str, Any]]:
        return list(json.loads((self.run / "offers.json").read_bytes()))

    def outcome(self) -> dict[str, Any]:
        return dict(json.loads((self.run / "outcome.json").read_bytes()))


class _Counted:
    """A session that was at its best after round 1."""

    def __init__(self, session: Session, note: Callable[[str], None]) -> None:
        self._session, self._note = session, note

    def answer(self, request: Request) -> Reply:
        self._note(request.kind)
        reply = self._session.answer(request)
        if "roc_auc" not in reply.fields:
            return reply
        early = reply.fields.get("evaluated_round") == 1
        return replace(reply, fields={**reply.fields, "roc_auc": 0.9 if early else 0.1})


class _Liar:
    """A newcomer that keeps what it is offered, and confirms something else."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def answer(self, request: Request) -> Reply:
        reply = self._session.answer(request)
        return replace(reply, fields={**reply.fields, "shared_hash": "f" * 64})


def _tamper(message: Message) -> None:
    packed = message.content["shared"]
    assert isinstance(packed, ArrayRecord)
    shared = {key: array.copy() for key, array in unpack_tensors(packed).items()}
    shared[TRUNK].view(np.uint32).flat[0] ^= 1
    message.content["shared"] = pack_tensors(shared)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Consortium]:
    plan = small_plan(evaluation=Evaluation(replicates=50, trailing=1))
    consortium = Consortium(tmp_path_factory.mktemp("consortium"), plan)
    consortium.play()
    yield consortium


def test_who_confirms_another_hash_has_not_received_it(finished: Consortium) -> None:
    approve(finished.state("liar"), finished.plan)
    finished.play("liar", online=())
    entry = finished.offers()[-1]
    assert entry["site"] == "liar" and not entry["received"]
    assert entry["reason"] == "it confirms another hash"


def test_a_newcomer_receives_the_selected_shared_part(finished: Consortium) -> None:
    before = (finished.run / "outcome.json").read_bytes()
    finished.asked.clear()
    approve(finished.state("delta"), finished.plan)
    finished.play("delta", "stranger")
    selected, last = (finished.outcome()[name] for name in ("selected", "last"))
    assert (selected, last) == (1, 3)
    theirs, _ = read_tensors(
        finished.state("delta") / f"models/small/{selected}/shared.safetensors"
    )
    ours, metadata = read_tensors(
        finished.run / "checkpoints" / f"round-{selected:05d}.safetensors"
    )
    assert theirs.keys() == ours.keys()
    assert all(np.array_equal(theirs[key], ours[key]) for key in ours)
    told = {entry["site"]: entry for entry in finished.offers()[-2:]}
    assert told["delta"]["received"] and told["delta"]["reason"] is None
    assert told["delta"]["shared_hash"] == metadata["tensors"]
    assert not told["stranger"]["received"]
    assert told["stranger"]["reason"].startswith("PLAN_NOT_APPROVED")
    assert not (finished.state("stranger") / "models").exists()
    assert (finished.run / "outcome.json").read_bytes() == before
    assert not (finished.run / "failure.json").exists()
    closing = {(site, "close"): 2 for site in SITES}  # last and selected, as ever
    offered = {("delta", "offer"): 1, ("stranger", "offer"): 1}
    assert finished.asked == closing | offered
    log = (finished.run / "run.log").read_text()
    assert "delta has it" in log
    assert "stranger did not receive it: PLAN_NOT_APPROVED" in log


def test_the_audit_log_tells_who_was_offered_what(finished: Consortium) -> None:
    approve(finished.state("echo"), finished.plan)
    finished.play("echo")
    path = finished.run / FOLDER / LOG_FILE
    assert verify(path, public_text(coordinator_key(finished.run))) == []
    events = [line.event for line in read_log(path).lines]
    asked, answered = (e for e in events if e.get("site") == "echo")
    assert (asked["did"], answered["did"]) == ("asked", "answered")
    assert asked["kind"] == answered["kind"] == "offer"
    assert asked["weights"] == finished.offers()[-1]["shared_hash"]
    assert answered["decision"] == "permitted" and answered["bytes"] == 0


def test_a_tampered_tensor_is_refused(finished: Consortium) -> None:
    approve(finished.state("foxtrot"), finished.plan)
    finished.play("foxtrot", tamper=True)
    assert finished.offers()[-1]["reason"].startswith("SHARED_HASH")
    assert not (finished.state("foxtrot") / "models").exists()


def test_nobody_of_the_roster_is_needed_for_it(finished: Consortium) -> None:
    approve(finished.state("golf"), finished.plan)
    finished.asked.clear()
    finished.play("golf", online=("beta",))
    assert finished.offers()[-1]["received"]
    assert finished.asked == {("golf", "offer"): 1, ("beta", "close"): 2}
    count = len(finished.offers())
    finished.play(online=())
    assert len(finished.offers()) == count


def test_a_newcomer_that_is_online_is_none_of_a_runs_business(tmp_path: Path) -> None:
    consortium = Consortium(tmp_path, small_plan(small_stage(rounds=1)))
    consortium.play("delta")
    assert consortium.outcome()["status"] == "complete"
    assert {site for site, _ in consortium.asked} == set(SITES)
    assert not (consortium.run / "offers.json").exists()


def test_a_site_that_is_registered_under_another_name_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.greeting.GATHER_SECONDS", 0.0)
    consortium = Consortium(tmp_path, small_plan(small_stage(rounds=1)))
    with pytest.raises(RunFailed) as caught:
        consortium.play("gama", online=("alpha", "beta"))
    assert "gamma: not connected" in str(caught.value)
    assert "not in the plan's roster: gama" in str(caught.value)


def test_a_plan_that_shares_nothing_offers_nothing(tmp_path: Path) -> None:
    stage = small_stage(rounds=1, sharing="local")
    consortium = Consortium(tmp_path, small_plan(stage))
    consortium.play()
    approve(consortium.state("delta"), consortium.plan)
    consortium.play("delta")
    assert consortium.offers() == []
    assert "nothing is shared" in (consortium.run / "run.log").read_text()
