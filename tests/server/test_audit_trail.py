"""A federation with audit logs at both ends: they agree, and tell who did otherwise."""

from __future__ import annotations

import queue
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from client import node as node_module
from client.audit_trail import AuditTrail
from client.client_app import Connect
from client.fleet import Bundle, Fleet, Waiting
from client.node import Node, NodeSettings
from client.node_status import NodeStatus
from common.audit import FOLDER, LOG_FILE, AuditLog, open_log
from common.audit_check import read_log, verify
from common.audit_compare import verify_against
from common.canonical import sha256_hex
from common.keys import make_key, public_text
from common.models import build_model
from common.observer import Silent
from common.packing import pack_tensors
from common.plan import Aggregation, Plan, Work
from common.records import REQUEST_FIELDS, Reply, Request, decode
from common.sharing import contract
from common.transport import Transport
from server.audit_trail import AuditedGrid, coordinator_key, note_rounds
from server.participation import RunFailed
from server.rounds import Federation, Outcome
from simulations.federation import approve_everywhere, sessions_of
from simulations.grid import InProcessGrid
from tests.support.hospitals import SITES, MemorySnapshot, small_plan, small_stage
from tests.support.runs import MACHINE

Alter = Callable[[Message], None]


class FakeFleet:
    """Stands in for `client.fleet.Fleet`: messages come and go in this process."""

    def __init__(self, log: Path) -> None:
        self.inbox: queue.Queue[Message] = queue.Queue()
        self.outbox: queue.Queue[Message] = queue.Queue()
        self.node_id = 7
        self.ahead = 0
        self._log = log

    def join(self, last_node_id: int = 0) -> int:
        return self.node_id

    def heartbeat(self) -> None:
        pass

    def next(self) -> Waiting | None:
        try:
            self._message = self.inbox.get(timeout=0.05)
        except queue.Empty:
            return None
        return Waiting(1, self._message.metadata.message_type, "id", cast(Any, None))

    def bundle(self, run: int) -> Bundle:
        return Bundle(b"", {})

    def is_over(self, run: int) -> bool:
        return False

    def fetch(self, waiting: Waiting) -> Message:
        return self._message

    def send(self, reply: Message, seconds: float) -> int:
        """Count what leaves before it is on the disk: its head is not the last."""
        last = self._log.read_bytes().splitlines()[-1]
        self.ahead += head_of(reply) != sha256_hex(last)
        self.outbox.put(reply)
        return 0

    def leave(self) -> None:
        pass


def head_of(reply: Message) -> str:
    if reply.has_error():
        return str(reply.error.reason).rpartition(" ")[2]
    return str(reply.content.config_records["fields"]["head"])


def few_patients(plan: Plan) -> dict[str, dict[str, Any]]:
    return {site: {site: MemorySnapshot(site, 24)} for site in plan.roster.sites}


class Consortium:
    """Nodes in threads, and a coordinator that asks one after the other.

    Parameters
    ----------
    alter : what happens to messages for a site after the coordinator has noted them
    """

    def __init__(
        self,
        folder: Path,
        plan: Plan,
        monkeypatch: pytest.MonkeyPatch,
        alter: dict[str, Alter] | None = None,
    ) -> None:
        self.folder, self.plan = folder, plan
        self._alter = alter or {}
        self._asked = ""
        approve_everywhere(plan, folder)
        self._connect: Connect = sessions_of(
            plan, few_patients(plan), folder, MACHINE, synthetic=True
        )
        monkeypatch.setattr(node_module, "require_permitted", lambda *_: None)
        monkeypatch.setattr(node_module, "ask_worker", self._answer)

    def log(self, name: str) -> Path:
        return self.state(name) / FOLDER / LOG_FILE

    def state(self, name: str) -> Path:
        below = "hub/run" if name == "hub" else f"sites/{name}/state"
        return self.folder / below

    def key(self, name: str) -> str:
        if name == "hub":
            return public_text(coordinator_key(self.state("hub")))
        return public_text(make_key(self.folder / f"{name}.key"))

    def play(self) -> Outcome:
        """Start every node and the coordinator; what is there goes on."""
        hub = self.state("hub")
        hub.mkdir(parents=True, exist_ok=True)
        with self._nodes() as fleets:

            def app(message: Message, context: Context) -> Message:
                site = str(context.node_config["site"])
                self._alter.get(site, lambda message: None)(message)
                self._asked = site
                fleets[site].inbox.put(message)
                return fleets[site].outbox.get(timeout=20)

            grid = InProcessGrid(cast(ClientApp, app), self.plan.roster.sites)
            key = coordinator_key(hub)
            with open_log(hub / FOLDER, key, "coordinator", "coordinator") as audit:
                return Federation(
                    self.plan, hub, None, Silent(), note_rounds(audit)
                ).run(AuditedGrid(grid, audit))

    @contextmanager
    def _nodes(self) -> Iterator[dict[str, FakeFleet]]:
        stop = threading.Event()
        fleets, threads = {}, []
        with ExitStack() as stack:
            for site in self.plan.roster.sites:
                state = self.state(site)
                key = make_key(self.folder / f"{site}.key")
                audit = stack.enter_context(open_log(state / FOLDER, key, "site", site))
                fleets[site] = FakeFleet(self.log(site))
                node = Node(
                    NodeSettings(site, state, state / "paused"),
                    cast(Fleet, fleets[site]),
                    NodeStatus(state),
                    AuditTrail(audit, site, state),
                    stop,
                )
                threads.append(threading.Thread(target=node.run))
                threads[-1].start()
            try:
                yield fleets
            finally:
                stop.set()
                for thread in threads:
                    thread.join()
        assert not any(fleet.ahead for fleet in fleets.values())

    def _answer(self, request: Request, waiting: Callable[[], None]) -> Reply:
        last = read_log(self.log(self._asked)).lines[-1].event
        assert last["did"] == "asked" and last["kind"] == request.kind
        return self._connect({"site": self._asked}).answer(request)

    def events(self, name: str, did: str) -> list[Any]:
        lines = read_log(self.log(name)).lines
        return [line.event for line in lines if line.event["did"] == did]


def require_whole(consortium: Consortium) -> None:
    for name in ("hub", *SITES):
        assert verify(consortium.log(name), consortium.key(name)) == []


def more_in_round(round_: int) -> Alter:
    """Add a little to every weight of one round."""

    def alter(message: Message) -> None:
        if message.metadata.message_type != "train.round":
            return
        fields, shared = decode(message.content, REQUEST_FIELDS["train"])
        if fields["round"] == round_:
            moved = {name: array + np.float32(1e-4) for name, array in shared.items()}
            message.content["shared"] = pack_tensors(moved)

    return alter


def plan_of(rounds: int) -> Plan:
    return small_plan(small_stage(rounds=rounds, work=Work("steps", 1, 8)))


def test_logs_of_a_run_agree_and_go_on_after_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    consortium = Consortium(tmp_path, plan_of(2), monkeypatch)
    outcome = consortium.play()
    require_whole(consortium)
    hub = consortium.log("hub")
    messages = 1 + 2 + 2  # handshake, rounds, closing of the last and the selected
    for site in SITES:
        compared = verify_against(consortium.log(site), hub)
        assert compared.findings == [] and compared.compared == 2 * messages
        beside = verify_against(consortium.log(site), consortium.log("alpha"))
        assert beside.findings == [] and beside.compared == messages - 1

    again = consortium.play()  # greets and closes once more
    require_whole(consortium)
    compared = verify_against(consortium.log("beta"), hub)
    assert compared.findings == [] and compared.compared == 2 * (messages + 3)
    assert again.state.shared_hash == outcome.state.shared_hash


@pytest.mark.parametrize("transport", ["float32", "bfloat16"])
def test_entries_tell_what_was_asked_decided_sent_and_averaged(
    transport: Transport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = replace(plan_of(1), aggregation=Aggregation(transport=transport))
    consortium = Consortium(tmp_path, plan, monkeypatch)
    outcome = consortium.play()
    told = Counter(line.event["did"] for line in read_log(consortium.log("beta")).lines)
    assert told == {"began": 1, "started": 1, "asked": 4, "answered": 4, "stopped": 1}

    asked = consortium.events("beta", "asked")[1]
    answered = consortium.events("beta", "answered")[1]
    stage = plan.stages[0]
    rule = contract(build_model(stage.model, plan.seed), stage, transport)
    run, heads = outcome.state.run, {"head", "weights"}
    each = 4 if transport == "float32" else 2
    size = sum(each * int(np.prod(spec.shape)) for spec in rule.layout_of(rule.sent))
    assert {k: v for k, v in asked.items() if k not in heads} == {
        "did": "asked",
        "site": "beta",
        "kind": "train",
        "plan": plan.hash,
        "run": run,
        "round": 1,
        "fingerprint": rule.fingerprint,
        "bytes": size,
    }
    assert {k: v for k, v in answered.items() if k not in heads} == {
        "did": "answered",
        "site": "beta",
        "kind": "train",
        "plan": plan.hash,
        "run": run,
        "round": 1,
        "fingerprint": rule.fingerprint,
        "bytes": size,
        "decision": "permitted",
        "reference": None,
        "epsilon": None,
    }
    averaged = consortium.events("hub", "averaged")
    assert averaged == [
        {
            "did": "averaged",
            "run": run,
            "round": 1,
            "weights": outcome.state.shared_hash,
            "sites": dict.fromkeys(SITES, "counted"),
        }
    ]
    closing = consortium.events("beta", "asked")[2]
    assert closing["role"] == "last"
    if transport == "float32":  # else other bytes stand for the same weights
        assert closing["weights"] == averaged[0]["weights"]
    for name in ("hub", *SITES):
        assert str(tmp_path) not in consortium.log(name).read_text()


def test_a_site_that_is_sent_other_weights_sees_it_beside_another_site(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alter = {"beta": more_in_round(2)}
    consortium = Consortium(tmp_path, plan_of(2), monkeypatch, alter)
    consortium.play()
    require_whole(consortium)
    alpha, beta, gamma = (consortium.log(site) for site in SITES)
    assert verify_against(alpha, gamma).findings == []
    found = verify_against(alpha, beta).findings
    assert len(found) == 1 and ", train, round 2: alpha received" in found[0]
    assert verify_against(alpha, consortium.log("hub")).findings == []
    found = verify_against(beta, consortium.log("hub")).findings
    assert len(found) == 1 and found[0].endswith("differ in weights.")


def test_refusals_are_told_by_both_ends_and_carry_the_head(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    consortium = Consortium(tmp_path, plan_of(1), monkeypatch)
    (consortium.state("beta") / "paused").touch()
    with pytest.raises(RunFailed, match="STOPPED"):
        consortium.play()
    require_whole(consortium)
    (here,) = consortium.events("beta", "answered")
    (there,) = (e for e in consortium.events("hub", "answered") if e["site"] == "beta")
    assert here["decision"] == there["decision"] == "STOPPED"
    assert here["reference"] == there["reference"] is not None
    assert here["weights"] is None and here["bytes"] == 0
    compared = verify_against(consortium.log("beta"), consortium.log("hub"))
    assert compared.findings == [] and compared.compared == 2


def test_nothing_leaves_a_site_whose_log_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = AuditLog.append

    def append(self: AuditLog, event: Any) -> str:
        full = event["did"] == "answered" and event["kind"] == "train"
        if full and "head" not in event and event["site"] == "beta":
            raise OSError(28, "No space left on device")
        return original(self, event)

    monkeypatch.setattr(AuditLog, "append", append)
    consortium = Consortium(tmp_path, plan_of(1), monkeypatch)
    consortium.play()
    require_whole(consortium)
    answered = [e for e in consortium.events("hub", "answered") if e["site"] == "beta"]
    assert [entry["decision"] for entry in answered[:2]] == ["permitted", "DISK"]
    assert answered[1]["weights"] is None
    (averaged,) = consortium.events("hub", "averaged")
    assert averaged["sites"] == {"alpha": "counted", "beta": "DISK", "gamma": "counted"}
    assert verify_against(consortium.log("beta"), consortium.log("hub")).findings == []
