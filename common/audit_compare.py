"""What was done to an audit log, as it shows beside the log of another party.

Site and coordinator write down each other's heads. So an end that was cut off shows,
and so does a log that its owner, who has the key, wrote anew. Only what came after the
last message between both can be cut unseen. Times are not looked at, nor is the order
in which heads came: a question that is asked again may arrive before the first one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.audit import AuditError
from common.audit_check import Line, Log, plain, read_log, verify
from common.audit_events import head_in
from common.records import Code


@dataclass(frozen=True)
class Comparison:
    """Two logs beside each other.

    Attributes
    ----------
    findings : sentences; empty if the logs agree
    compared : how many messages that one of them has received from the other, or
        between two sites how many rounds that both know
    unit : ``messages`` or ``rounds``
    left : runs of which only the site's log tells: another log must hold them
    """

    findings: list[str]
    compared: int
    unit: str = "messages"
    left: tuple[str, ...] = ()


def report(path: Path, public_key: str, peer: Path | None) -> tuple[list[str], bool]:
    """Check a log, and hold it to another one, for a person to read.

    Parameters
    ----------
    public_key : of the owner of ``path``
    peer : the log of the other end, or of another site

    Returns
    -------
    Lines to print, and whether all is well.
    """
    try:
        findings = verify(path, public_key)
        said = [f"{path}: {read_log(path).summary}"]
        if peer is not None:
            findings += [f"In {peer}: {finding}" for finding in verify(peer)]
            said.append(f"{peer}: {read_log(peer).summary}")
            compared = verify_against(path, peer)
            findings += compared.findings
            said.append(f"Compared: {compared.compared} {compared.unit}.")
            said += [
                f"Not in that log, so not compared: {run}" for run in compared.left
            ]
    except AuditError as error:
        return [str(error)], False
    if not findings:
        return [*said, "Nothing was changed."], True
    return [*said, "FOUND:", *(f"  {finding}" for finding in findings)], False


def verify_against(path: Path, peer: Path) -> Comparison:
    """Hold a log to the one of the other end, or of another site.

    Site and coordinator: every head that one has received must be that of a line of
    the other, which tells the same of the message. Two sites: in every round that both
    know, both must have received the same weights. Run `verify` on both logs first.

    Raises
    ------
    AuditError
        If one is no log, or both are of a coordinator.
    """
    logs = read_log(path), read_log(peer)
    roles = [log.role for log in logs]
    if roles == ["site", "site"]:
        return _same_weights(*logs)
    if sorted(roles) != ["coordinator", "site"]:
        raise AuditError("One of the two logs must be that of a site.")
    coordinator, site = sorted(logs, key=lambda log: log.role)
    asked = [
        line
        for line in site.lines
        if line.event.get("did") == "asked"
        and plain(line.event.get("run")) in coordinator.runs
    ]
    left = tuple(sorted(site.runs - coordinator.runs))
    answered = [
        line
        for line in coordinator.lines
        if line.event.get("did") == "answered" and line.event.get("site") == site.name
    ]
    if not asked and not answered:
        none = "The two logs have no message in common: compare those of one run."
        return Comparison([none], 0, left=left)
    findings = [
        *_held_to(coordinator, asked, site),
        *_held_to(site, answered, coordinator),
    ]
    return Comparison(findings, len(asked) + len(answered), left=left)


def _held_to(sender: Log, received: list[Line], receiver: Log) -> Iterator[str]:
    """Compare a log with the heads and messages that the other end has received."""
    known = [head_in(line.event) in sender.by_head for line in received]
    if without := [line for line in received if not head_in(line.event)]:
        yield (
            f"Messages ({len(without)}) of {sender.title} came to {receiver.title} "
            f"without a head, the first in line {without[0].at}: it may deny them."
        )
    missing = [
        position
        for position, line in enumerate(received)
        if head_in(line.event) and not known[position]
    ]
    last = max((at for at, found in enumerate(known) if found), default=-1)
    if before := [position for position in missing if position < last]:
        yield (
            f"Heads ({len(before)}) that {receiver.title} received of {sender.title}, "
            f"the first in line {received[before[0]].at}, are not in the log of "
            f"{sender.title}: lines were changed or removed there, or written anew."
        )
    if after := [position for position in missing if position > last]:
        how = (
            "it was cut off, written anew from there, or this is an older copy"
            if last >= 0
            else "all of it was written anew, or it is another log"
        )
        yield (
            f"The last heads ({len(after)}) that {receiver.title} received of "
            f"{sender.title}, from line {received[after[0]].at} on, are not in the log "
            f"of {sender.title}: {how}."
        )
    for line in received:
        told = sender.by_head.get(head_in(line.event))
        if told is not None and (differ := _differences(line.event, told.event)):
            yield (
                f"Line {line.at} of {receiver.title} and line {told.at} of "
                f"{sender.title} tell of one message, but differ in "
                f"{', '.join(differ)}."
            )


def _differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Name what two entries tell otherwise; what only one tells is no matter.

    A site whose disk is full refuses with the head it has: it cannot write the refusal.
    """
    if Code.DISK.name in (one.get("decision"), other.get("decision")):
        return []
    both = sorted((set(one) & set(other)) - {"head"})
    return [name for name in both if one[name] != other[name]]


def _same_weights(one: Log, other: Log) -> Comparison:
    left, right = _received_weights(one), _received_weights(other)
    common = [key for key in left if key in right]
    findings = [
        f"Run {key[0]}, {key[1]}, round {key[2]}{_role(key)}: {one.name} received the "
        f"weights {_short(left[key])}, {other.name} {_short(right[key])}."
        for key in common
        if left[key] != right[key]
    ]
    if not common:
        findings = ["The two sites have no round in common."]
    return Comparison(findings, len(common), "rounds")


_Place = tuple[str, ...]


def _received_weights(log: Log) -> dict[_Place, set[str]]:
    """Return hashes of weights by run, kind, round and role: one, if all is well."""
    found: dict[_Place, set[str]] = {}
    for line in log.lines:
        event = line.event
        if event.get("did") == "asked" and event.get("weights"):
            place = ("run", "kind", "round", "role")
            key = tuple(plain(event.get(name, "")) for name in place)
            found.setdefault(key, set()).add(plain(event["weights"]))
    return found


def _role(key: _Place) -> str:
    return f" ({key[3]})" if key[3] else ""


def _short(hashes: set[str]) -> str:
    return " and ".join(sorted(one[:12] for one in hashes))
