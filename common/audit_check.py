"""What was done to an audit log, as far as it shows in the log itself.

That is a line that was edited, removed, put elsewhere, or added by somebody without the
key. What the key's owner can do, cut off the end or write all of it anew, shows beside
the log of the other end, see `common.audit_compare`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from common.audit import AuditError, is_signed, parse
from common.canonical import sha256_hex
from common.keys import KeyFileError, key_fingerprint, read_public


class Line(NamedTuple):
    """A line that can be read.

    Attributes
    ----------
    at : line of the file, from 1
    head : its hash
    """

    at: int
    head: str
    entry: dict[str, Any]

    @property
    def event(self) -> Mapping[str, Any]:
        """What happened."""
        event: dict[str, Any] = self.entry["event"]
        return event


@dataclass(frozen=True)
class Log:
    """A log as it lies on the disk.

    Attributes
    ----------
    unreadable : lines of the file, from 1
    torn : its last line was not finished
    """

    path: Path
    lines: tuple[Line, ...]
    unreadable: tuple[int, ...]
    torn: bool

    @property
    def begins(self) -> Mapping[str, Any]:
        """The first line, which tells whose log it is.

        Raises
        ------
        AuditError
            If there is none.
        """
        first = self.lines[0] if self.lines else None
        if first is None or first.event.get("did") != "began":
            raise AuditError(f"{self.path} does not begin as an audit log does.")
        return first.event

    @property
    def role(self) -> str:
        """``site`` or ``coordinator``; raises as `begins`."""
        return plain(self.begins.get("role"))

    @property
    def name(self) -> str:
        """Of the site; raises as `begins`."""
        return plain(self.begins.get("name"))

    @property
    def title(self) -> str:
        """Whose log it is, as part of a sentence."""
        return "the coordinator" if self.role == "coordinator" else self.name

    @property
    def summary(self) -> str:
        """Size, key and head, for two people to compare."""
        key = key_fingerprint(str(self.begins.get("key")))
        head = self.lines[-1].head[:12]
        return f"{len(self.lines)} lines of {self.title}, key {key}, head {head}"

    @cached_property
    def by_head(self) -> dict[str, Line]:
        """Every line by its hash, which was the head when it was written."""
        return {line.head: line for line in self.lines}

    @cached_property
    def runs(self) -> set[str]:
        """The runs that the log tells of."""
        return {plain(line.event["run"]) for line in self.lines if "run" in line.event}


def read_log(path: Path) -> Log:
    """Read a log or a copy of it, trusting nothing.

    Raises
    ------
    AuditError
        If there is no such file.
    """
    if not path.is_file():
        raise AuditError(
            f"There is no audit log {path}: none was begun, or it is gone."
        )
    *whole, rest = path.read_bytes().split(b"\n")
    lines, unreadable = [], []
    for at, content in enumerate(whole, start=1):
        entry = parse(content)
        if entry is None:
            unreadable.append(at)
        else:
            lines.append(Line(at, sha256_hex(content), entry))
    return Log(path, tuple(lines), tuple(unreadable), bool(rest))


def verify(path: Path, public_key: str | None = None) -> list[str]:
    """Find what was done to a log, as far as it shows by itself.

    Parameters
    ----------
    path : a log, or a copy of it
    public_key : of its owner, as `common.keys.public_text`; None takes the key in the
        first line, which whoever has stored a head of this log is sure of

    Returns
    -------
    Sentences; empty if every line is signed, follows the one before, and is whole.

    Raises
    ------
    AuditError
        If there is no such file.
    """
    log = read_log(path)
    findings = [f"Line {at} is no entry: it was changed." for at in log.unreadable]
    try:
        named = str(log.begins.get("key"))
        key = read_public(public_key or named)
    except (AuditError, KeyFileError):
        return ["The first line is missing or was changed.", *findings]
    if public_key not in (None, named):
        findings.append("The log was begun with another key than its owner's.")
    signed = [is_signed(line.entry, key) for line in log.lines]
    if not any(signed):
        return [*findings, "No line is signed with the owner's key."]
    findings += [
        f"Line {line.at} was changed, or signed with another key."
        for line, well in zip(log.lines, signed, strict=True)
        if not well
    ]
    findings += [
        f"Line {line.at} does not follow the one before it: lines were changed, "
        "removed, added or moved there."
        for line in _out_of_place(log)
    ]
    if log.torn:
        findings.append(
            "The last line is not finished: its writer was killed, and sets it apart "
            "at the next start, or is writing just now."
        )
    return findings


def _out_of_place(log: Log) -> Iterator[Line]:
    number, head = 0, ""
    for line in log.lines:
        if line.entry["number"] != number + 1 or line.entry["previous"] != head:
            yield line
        number, head = line.entry["number"], line.head


def plain(value: object) -> str:
    """Make a value of a log that others wrote fit to be shown."""
    return "".join(sign for sign in str(value)[:100] if sign.isprintable())
