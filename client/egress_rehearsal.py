"""A federation with this site alone, played in one process: what would leave, packed.

The coordinator's part is played here: everything that a site is sent it knows itself.
Session, egress and audit trail are those of a node, on a scratch folder.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flwr.app import Message

from client.approval import approve
from client.audit_trail import AuditTrail
from client.dump import write_message
from client.egress import pack_refusal, pack_reply, rehearsed_question
from client.policy import SitePolicy, describe_policy
from client.resident import Resident
from client.session import SiteSession
from client.site import Site
from client.worker import open_session
from common.atomic import write_atomic
from common.audit import FOLDER, open_log
from common.checkpoint import Tensors
from common.contract import Contract, tensor_hash
from common.keys import make_key
from common.models.transitions import next_shared
from common.plan import Plan, PlanError
from common.records import Refusal, Request, Value
from common.transport import from_wire, to_wire

READ_ME = "read-me.txt"
_RUN = "rehearsal"


def rehearse_egress(site: Site, plan: Plan, policy: SitePolicy, out: Path) -> None:
    """Write down what a site would send, from its prepared images; nothing is sent.

    Local state, audit log and counters of the site stay as they are: a folder of its
    own takes their place, beside the prepared images, and goes at the end.

    Parameters
    ----------
    plan : its first round of every stage is trained, which takes as long as in earnest
    out : empty folder, or none yet

    Raises
    ------
    PlanError
        If the folder is not empty, or the site would refuse the plan; says why.
    CacheError
        If the images are not prepared.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise PlanError(f"{out} is not an empty folder; name another. Nothing is done.")
    site.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="rehearsal-", dir=site.folder) as scratch:
        state = Path(scratch)
        made = state / "out"
        try:
            session, resident = open_session(site, plan, policy, state)
            written = [
                write_message(made, site.site, message, policy)
                for message in messages(site.site, session, resident, state)
            ]
        except Refusal as refusal:
            raise PlanError(
                f"{site.site} would refuse with {refusal.code.name}: {refusal}."
            ) from None
        page = "\n".join([*_overview(site.site, plan, policy, written), ""])
        write_atomic(made / READ_ME, page.encode(), 0o600)
        shutil.copytree(made, out, dirs_exist_ok=True)


def messages(
    site: str, session: SiteSession, resident: Resident, state: Path
) -> Iterator[Message]:
    """Ask a session what a coordinator asks; yield each answer as egress packs it.

    Handshake, the first round of every stage, closing, and a question for a plan that
    nobody approved.

    Parameters
    ----------
    resident : the session's model
    state : the session's folder; gets the approval, and an audit log whose key is made
        for it

    Raises
    ------
    Refusal
        As the session refuses anything but the last question.
    """
    plan = resident.plan
    asked: dict[str, Value] = {"plan": plan.hash, "run": _RUN}
    rule, initial = resident.stage(0).contract, resident.initial(0)
    shared = {key: initial[key].numpy() for key in rule.shared}
    shared |= _rounded(shared, rule)
    before = 0
    approve(state, plan)
    with open_log(state / FOLDER, make_key(state / "key"), "site", site) as audit:
        trail = AuditTrail(audit, site, state)

        def ask(request: Request) -> tuple[Message, Tensors]:
            question = rehearsed_question(request)
            trail.asked(question)
            try:
                reply = session.answer(request)
            except Refusal as refusal:
                if request.fields["plan"] == plan.hash:
                    raise
                return pack_refusal(refusal.code, question, trail.leaving)[0], {}
            # Copied: the tensors of a reply are the model's own memory.
            trained = {key: array.copy() for key, array in reply.shared.items()}
            return pack_reply(reply, question, trail.leaving), trained

        yield ask(Request("handshake", asked))[0]
        for number in range(len(plan.stages)):
            leaving, entered = rule, resident.stage(number).contract
            sent = _on_wire(shared, leaving)
            if number:
                start = {k: v.numpy() for k, v in resident.initial(number).items()}
                shared = next_shared(shared, start, leaving, entered)
            round_ = plan.first_round(number)
            fields: dict[str, Value] = {
                "round": round_,
                "base_round": before,
                "local_round": before,
                "keep_round": 0,
                "shared_hash": tensor_hash(shared, shared),
                "fingerprint": leaving.fingerprint,
            }
            message, trained = ask(Request("train", asked | fields, sent))
            yield message
            rule, before = entered, round_
            shared |= _moved(shared, trained, rule)
        fields = {
            "round": before,
            "local_round": before,
            "role": "last",
            "shared_hash": tensor_hash(shared, shared),
            "fingerprint": rule.fingerprint,
        }
        yield ask(Request("close", asked | fields, _on_wire(shared, rule)))[0]
        yield ask(Request("handshake", asked | {"plan": "0" * 64}))[0]


def _on_wire(shared: Tensors, rule: Contract) -> Tensors:
    """Pack what a coordinator sends, in the plan's number format."""
    return {key: to_wire(shared[key], rule.transport) for key in rule.sent}


def _rounded(shared: Tensors, rule: Contract) -> Tensors:
    """Round what is sent, as a coordinator does before it announces its hash."""
    sent = _on_wire(shared, rule)
    return {key: from_wire(one, rule.transport) for key, one in sent.items()}


def _moved(shared: Tensors, trained: Tensors, rule: Contract) -> Tensors:
    """Put the site's own answer into effect, as if it were the average of all."""
    if rule.transport == "float32":
        return trained
    steps = {key: from_wire(one, rule.transport) for key, one in trained.items()}
    return _rounded({key: shared[key] + one for key, one in steps.items()}, rule)


def _overview(
    site: str, plan: Plan, policy: SitePolicy, written: list[dict[str, Any]]
) -> Iterator[str]:
    title = f"What {site} would send to the coordinator of plan {plan.id}"
    yield from (title, "=" * len(title), "")
    yield f"Plan {plan.hash}"
    yield ""
    yield "Rehearsed with the site's own images; nothing was sent. Every file is made"
    yield "from the message that would leave: fields, tensors, Flower's envelope. The"
    yield "first round of every stage is here; those after it look the same."
    yield ""
    for one in written:
        yield (
            f"  {one['file'] + '.txt':<22} {len(one['fields']):>3} fields "
            f"{len(one['tensors']):>4} tensors {one['bytes']:>14,} bytes"
        )
    yield ""
    yield "The last one is how every error looks: a number, and a reference to the line"
    yield "of the site's own log that tells more."
    yield ""
    yield "What the site's policy says"
    yield from (f"  {line}" for line in describe_policy(policy))
    yield ""
    yield "Beside these messages the coordinator sees the site's network address, its"
    yield "public key and signatures with it, heartbeats, the questions whether there"
    yield "is work, and how many seconds each answer took."
