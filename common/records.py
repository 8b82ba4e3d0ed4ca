"""Everything that may cross the wire, with its schema; nothing else is ever read.

Both ends speak in plain values: a `Request` from the coordinator, a `Reply` or a
`Refusal` from a site. This module turns them into Flower's records and back, checking
names and types against `SCHEMAS`. No torch: the per-message process at a hospital
imports it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Literal

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, RecordDict

from common.packing import WireError, unpack_tensors

Value = bool | int | float | str
Kind = Literal["handshake", "train", "close", "offer"]

MESSAGE_TYPES: dict[Kind, str] = {
    "handshake": "query.handshake",
    "train": "train.round",
    "close": "evaluate.close",
    "offer": "query.shared",
}
"""Flower's name of each message kind."""

REQUEST_FIELDS: dict[Kind, dict[str, type]] = {
    "handshake": {"plan": str, "run": str, "head": str},
    "train": {
        "plan": str,
        "run": str,
        "round": int,
        "base_round": int,
        "local_round": int,
        "keep_round": int,
        "shared_hash": str,
        "fingerprint": str,
        "head": str,
    },
    "close": {
        "plan": str,
        "run": str,
        "round": int,
        "local_round": int,
        "role": str,
        "shared_hash": str,
        "fingerprint": str,
        "head": str,
    },
    "offer": {
        "plan": str,
        "run": str,
        "round": int,
        "shared_hash": str,
        "fingerprint": str,
        "head": str,
    },
}

REPLY_FIELDS: dict[Kind, dict[str, type]] = {
    "handshake": {
        "site": str,
        "version": str,
        "plan": str,
        "snapshot": str,
        "preprocessing": str,
        "fingerprint": str,
        "patients": int,
        "images": int,
        "positives": int,
        "seconds_per_image": float,
        "counts": str,
        "head": str,
    },
    "train": {
        "site": str,
        "patients": int,
        "images": int,
        "loss": float,
        "seconds": float,
        "step_seconds": float,
        "evaluated_round": int,
        "roc_auc": float,
        "average_precision": float,
        "validation_loss": float,
        "fixed_hash": str,
        "reestimated": bool,
        "head": str,
    },
    "close": {
        "site": str,
        "round": int,
        "roc_auc": float,
        "average_precision": float,
        "validation_loss": float,
        "model_hash": str,
        "reestimated": bool,
        "head": str,
    },
    "offer": {"site": str, "round": int, "shared_hash": str, "head": str},
}
"""The allow-list of egress: a value that is not named here never leaves a site."""

ARRAYS: dict[Kind, bool] = {
    "handshake": False,
    "train": True,
    "close": False,
    "offer": False,
}
"""Which replies may carry shared tensors."""


class Code(IntEnum):
    """Why a site refused. Numbers travel, texts stay; Flower's own are below 100."""

    PLAN_NOT_APPROVED = 101
    VERSION = 102
    TARGET = 103
    FINGERPRINT = 104
    SHARED_HASH = 105
    LOCAL_STATE = 106
    CACHE = 107
    REQUEST = 108
    NOT_FINITE = 109
    BUNDLE = 110
    POLICY = 111
    STOPPED = 112
    WORKER = 113
    DISK = 114
    SANITY = 115
    LEFT = 116
    ROSTER = 117
    OBJECTIVE = 118
    INTERNAL = 199


REMEDIES: dict[Code, str] = {
    Code.PLAN_NOT_APPROVED: "the site has not approved this plan",
    Code.VERSION: "the site runs another version of mammofed",
    Code.TARGET: "the site's data cannot express the plan's target",
    Code.FINGERPRINT: "the site builds another set of tensors",
    Code.SHARED_HASH: "the shared weights differ from what the coordinator announced",
    Code.LOCAL_STATE: "the site lacks the local state this round starts from",
    Code.CACHE: "the site's prepared images are absent or damaged",
    Code.REQUEST: "the site could not read the request",
    Code.NOT_FINITE: "values are not finite, or too large to send",
    Code.BUNDLE: "the run comes with more than the site permits",
    Code.POLICY: "the plan asks for what the site's policy does not allow",
    Code.STOPPED: "the site has paused, is ending, or the run was stopped",
    Code.WORKER: "the site's worker ended several times; its own log has the reference",
    Code.DISK: "the site's disk is too full for another round",
    Code.SANITY: "the site received weights that no training gives",
    Code.LEFT: "the site has left this federation",
    Code.ROSTER: "sites of the roster train; only others are given the shared part",
    Code.OBJECTIVE: "the plan's objective is misspelt, or the site's images cannot "
    "serve it; the site's own log says which",
    Code.INTERNAL: "the site failed; its own log has the reference",
}


@dataclass(frozen=True)
class Request:
    """What the coordinator asks of a site.

    Attributes
    ----------
    kind : which schema of `REQUEST_FIELDS` the fields follow
    fields : plain values
    shared : shared tensors by name, in the model's own names
    """

    kind: Kind
    fields: Mapping[str, Value]
    shared: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Reply:
    """What a site computed; egress lets only its schema out."""

    kind: Kind
    fields: Mapping[str, Value]
    shared: Mapping[str, np.ndarray] = field(default_factory=dict)


class Refusal(Exception):  # noqa: N818  a refusal is an answer, not a fault
    """A site's answer that it will not, or cannot.

    Parameters
    ----------
    code : what travels
    text : for the site's own log only
    """

    def __init__(self, code: Code, text: str) -> None:
        super().__init__(text)
        self.code = code


def encode(
    fields: Mapping[str, Value], shared: ArrayRecord, schema: Mapping[str, type]
) -> RecordDict:
    """Pack fields and packed tensors for Flower.

    Raises
    ------
    WireError
        If a field is missing, unknown or of another type than the schema says.
    """
    _check(fields, schema)
    # One record: Flower moves each by requests of its own.
    return RecordDict({"shared": shared, "fields": ConfigRecord(dict(fields))})


def decode(
    content: RecordDict, schema: Mapping[str, type]
) -> tuple[dict[str, Value], dict[str, np.ndarray]]:
    """Unpack what `encode` packed, trusting nothing.

    Returns
    -------
    Fields and tensors; tensors are read-only views of the message.

    Raises
    ------
    WireError
        If a record or field is missing, unknown or ill-typed, or a tensor unreadable.
    """
    if set(content) != {"shared", "fields"}:
        raise WireError("the message does not hold exactly the two expected records")
    record, arrays = content["fields"], content["shared"]
    if not (isinstance(record, ConfigRecord) and isinstance(arrays, ArrayRecord)):
        raise WireError("a record of the message has another type than expected")
    fields: dict[str, Value] = dict(record)  # type: ignore[arg-type]
    _check(fields, schema)
    return fields, unpack_tensors(arrays)


def _check(fields: Mapping[str, Value], schema: Mapping[str, type]) -> None:
    missing, unknown = set(schema) - set(fields), set(fields) - set(schema)
    if missing or unknown:
        raise WireError(
            f"fields missing: {sorted(missing)}; {len(unknown)} not in the schema"
        )
    wrong = [name for name, kind in schema.items() if type(fields[name]) is not kind]
    if wrong:
        raise WireError(f"fields of the wrong type: {sorted(wrong)}")
