"""What the answers of a round amount to: who counts, with what share, and why not."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from common.checkpoint import Tensors
from common.contract import Contract, tensor_hash
from common.plan import Plan
from common.records import Value
from server.aggregation import BadReply, cap_shares, check_reply, weight_shares
from server.conversation import Answer
from server.ledger import Entry

METRICS = ("roc_auc", "average_precision", "validation_loss")
Metrics = dict[str, float | None]


@dataclass(frozen=True)
class Judgement:
    """The verdict on the answers of one round.

    Attributes
    ----------
    answers : by site, in roster order
    norms : L2 norm of the update of each site that counts, in roster order
    reasons : why the others do not count
    shares : of each site that counts, summing to 1
    updates : what each site that counts has sent, as float32
    """

    answers: Mapping[str, Answer]
    norms: Mapping[str, float]
    reasons: Mapping[str, str]
    shares: Mapping[str, float]
    updates: Mapping[str, Tensors]

    @property
    def counted(self) -> list[str]:
        """Sites whose update enters the average, in roster order."""
        return list(self.norms)

    def losses(self) -> Metrics:
        """Return the training loss by site; None where there was no training."""
        return {
            site: number((answer.fields or {}).get("loss"))
            for site, answer in self.answers.items()
        }

    def metrics(self) -> dict[str, Metrics]:
        """Return the validation metrics of the round before, of sites that count."""
        return {
            site: metrics_of(fields)
            for site in self.norms
            if (fields := self.answers[site].fields) is not None
        }


def judge(
    answers: Mapping[str, Answer],
    sent: Tensors,
    rule: Contract,
    plan: Plan,
    hellos: Mapping[str, Mapping[str, Value]],
    base_round: int,
) -> Judgement:
    """Check every answer; a bad one is refused with a reason and the rest goes on.

    Parameters
    ----------
    answers : by site, in roster order
    sent : all shared tensors that the round started from
    rule : contract of the round's stage
    hellos : each site's handshake; counts must stay what they were
    base_round : the round whose evaluation rides on the answers
    """
    norms: dict[str, float] = {}
    updates: dict[str, Tensors] = {}
    reasons: dict[str, str] = {}
    fixed_hash = tensor_hash(sent, rule.fixed)
    for site, answer in answers.items():
        if answer.fields is None:
            reasons[site] = answer.reason or "no reply"
            continue
        try:
            _check_identity(answer.fields, site, hellos[site], base_round)
            norms[site], updates[site] = check_reply(
                answer.fields, answer.shared, sent, rule, plan.aggregation, fixed_hash
            )
        except BadReply as error:
            reasons[site] = str(error)
    weight = plan.aggregation.weight
    counts = [1 if weight == "uniform" else _count(answers[s], weight) for s in norms]
    shares = weight_shares(counts)
    if shares and plan.aggregation.maximum_share is not None:
        shares = cap_shares(shares, plan.aggregation.maximum_share)
    by_site = dict(zip(norms, shares, strict=True))
    return Judgement(answers, norms, reasons, by_site, updates)


def _check_identity(
    fields: Mapping[str, Value], site: str, hello: Mapping[str, Value], base_round: int
) -> None:
    """Check that a reply is this site's, of this round, with the counts it declared."""
    if fields["site"] != site:
        raise BadReply("the reply names another site")
    if fields["evaluated_round"] != base_round:
        raise BadReply("the reply evaluates another round")
    for name in ("patients", "images"):
        if fields[name] != hello[name]:
            raise BadReply(
                f"absurd count of {name}: {fields[name]}, declared {hello[name]}"
            )
    for name in ("roc_auc", "average_precision"):
        if not (math.isnan(float(fields[name])) or 0 <= float(fields[name]) <= 1):
            raise BadReply(f"{name} is not between 0 and 1")


def ledger_entries(
    judged: Judgement,
    plan: Plan,
    rule: Contract,
    round_: int,
    hellos: Mapping[str, Mapping[str, Value]],
) -> list[dict[str, Any]]:
    """Write down a round, one entry per expected site.

    Parameters
    ----------
    hellos : each site's handshake, which says how it releases counts
    """
    weight = plan.aggregation.weight
    unit = "patients" if weight == "uniform" else weight
    entries = []
    for site, answer in judged.answers.items():
        fields = answer.fields or {}
        samples = fields.get(unit)
        entry = Entry(
            stage=rule.stage.name,
            round=round_,
            site=site,
            expected=True,
            configured=answer.attempts > 0,
            replied=answer.replied,
            counted=site in judged.norms,
            samples=None if samples is None else int(samples),
            counts=str(hellos[site]["counts"]),
            weight_share=judged.shares.get(site),
            update_norm=judged.norms.get(site) if rule.sent else None,
            seconds=number(fields.get("seconds")),
            step_seconds=number(fields.get("step_seconds")),
            attempts=answer.attempts,
            reestimated=_flag(fields.get("reestimated")),
            reason=judged.reasons.get(site),
        )
        entries.append(entry.to_json())
    return entries


def metrics_of(fields: Mapping[str, Value]) -> Metrics:
    """Pick the validation metrics out of a reply; None where undefined or withheld."""
    return {name: number(fields[name]) for name in METRICS}


def number(value: Value | None) -> float | None:
    """Return a finite number, or None."""
    found = math.nan if value is None else float(value)
    return found if math.isfinite(found) else None


def _flag(value: Value | None) -> bool | None:
    return None if value is None else bool(value)


def _count(answer: Answer, name: str) -> int:
    assert answer.fields is not None
    return int(answer.fields[name])
