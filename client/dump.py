"""What leaves a hospital as files for a person to read, made from the message itself.

Each message that `client.egress` has built becomes ``NNNN-KIND.json`` with all there is
in it, whatever its schema says, and ``NNNN-KIND.txt``, the same as a page. Tensors are
told by name, shape, extremes and hash; their values are not repeated.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, Message

from client.policy import COUNTS, METRICS, SitePolicy
from common.atomic import write_atomic
from common.audit_events import KINDS, name_of, weights
from common.packing import unpack_tensors
from common.records import REMEDIES, Code

REFUSAL = "refusal"

MEANINGS: dict[str, str] = {
    "site": "name of the site, as in the plan's roster",
    "version": "of mammofed",
    "plan": "hash of the plan",
    "snapshot": "hash of the prepared images, which tells whether they have changed",
    "preprocessing": "hash of how images are prepared: the same at every site",
    "fingerprint": "hash of names, shapes and types of the tensors",
    "patients": "with a labelled image in the training part",
    "images": "labelled images in the training part",
    "positives": "positive images in the training part",
    "seconds_per_image": "one step on zeros took, per image",
    "counts": "whether the policy rounds counts: exact, or banded",
    "head": "hash of the last line of this site's audit log",
    "loss": "mean training loss of the round",
    "seconds": "the whole round took",
    "step_seconds": "its training steps took",
    "evaluated_round": "round that the three metrics below are of; 0 = none yet",
    "roc_auc": "on the validation part",
    "average_precision": "on the validation part",
    "validation_loss": "on the validation part",
    "fixed_hash": "hash of shared tensors that this stage leaves as they are",
    "round": "that the site's finished model is of",
    "model_hash": "hash of the finished model, which stays at the site",
    "reestimated": "whether BatchNorm statistics were, after a long absence",
    "shared_hash": "hash of the shared part that was received, of a finished plan",
}
"""What each field of a reply is, in plain words."""

_NAME, _VALUE = 19, 26
_OWNER_ONLY = 0o600


def write_message(
    folder: Path, site: str, message: Message, policy: SitePolicy
) -> dict[str, Any]:
    """Write a message down beside those before it.

    Parameters
    ----------
    folder : of one site; made when missing
    site : whose message it is
    policy : that its values went through

    Returns
    -------
    What the JSON file holds; ``file`` is the name of both without extension.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    document = document_of(site, message, policy)
    number = 1 + len(list(folder.glob("*.json")))
    document["file"] = f"{number:04d}-{document['kind']}"
    path = folder / f"{document['file']}.json"
    page = "\n".join([*_lines(document), ""])
    write_atomic(path.with_suffix(".txt"), page.encode(), _OWNER_ONLY)
    text = json.dumps(document, indent=1, allow_nan=False)
    write_atomic(path, text.encode(), _OWNER_ONLY)
    return document


def document_of(site: str, message: Message, policy: SitePolicy) -> dict[str, Any]:
    """Describe all that is in a message, as plain JSON data.

    Parameters
    ----------
    site, policy : as of `write_message`

    Returns
    -------
    ``kind``, ``envelope`` (what Flower adds), ``fields`` (record, name, value, meaning,
    policy), ``tensors`` (name, shape, dtype, bytes, min, max, sha256 of the bytes as
    they travel), ``bytes`` of all tensors, ``weights`` (hash of all as the audit log
    notes it), ``error`` (None, or code, name and reason). Numbers that are not finite
    are written as text.
    """
    kind = message.metadata.message_type
    envelope = {
        name.removeprefix("_"): value
        for name, value in vars(message.metadata).items()
        if value not in (None, "")
    }
    document: dict[str, Any] = {
        "kind": REFUSAL if message.has_error() else KINDS.get(kind, kind),
        "site": site,
        "envelope": envelope,
        "fields": [],
        "tensors": [],
        "bytes": 0,
        "weights": None,
        "error": None,
    }
    if message.has_error():
        code, reason = message.error.code, message.error.reason
        document["error"] = {"code": code, "name": name_of(code), "reason": reason}
        return document
    for name, record in message.content.items():
        if isinstance(record, ArrayRecord):
            arrays = unpack_tensors(record)
            document["tensors"] += [_tensor(key, one) for key, one in arrays.items()]
            document["weights"] = weights(arrays)["weights"]
        else:
            document["fields"] += _fields(name, record, policy)
    document["bytes"] = sum(one["bytes"] for one in document["tensors"])
    return document


def _fields(
    record: str, values: Mapping[str, Any], policy: SitePolicy
) -> Iterator[dict[str, Any]]:
    for name, value in values.items():
        yield {
            "record": record,
            "name": name,
            "value": _plain(value),
            "meaning": MEANINGS.get(name, "nobody has described this field"),
            "policy": _effect(name, value, policy),
        }


def _effect(name: str, value: Any, policy: SitePolicy) -> str:
    """Tell what the policy did to a value, by the value as it is: it may have failed.

    Empty for a value that no policy speaks of.
    """
    if name in COUNTS:
        if policy.counts == "exact":
            return "exact"
        return "rounded down" if value == policy.release_count(value) else "NOT ROUNDED"
    if name in METRICS:
        if not policy.release_metrics:
            return "withheld" if math.isnan(value) else "NOT WITHHELD"
        return "undefined here" if math.isnan(value) else "released"
    return ""


def _tensor(key: str, values: np.ndarray) -> dict[str, Any]:
    return {
        "name": key,
        "shape": list(values.shape),
        "dtype": values.dtype.name,
        "bytes": values.nbytes,
        "min": _plain(values.min().item()) if values.size else None,
        "max": _plain(values.max().item()) if values.size else None,
        "sha256": hashlib.sha256(values.tobytes()).hexdigest(),
    }


def _plain(value: Any) -> Any:
    finite = not isinstance(value, float) or math.isfinite(value)
    return value if finite else str(value)


def _lines(document: Mapping[str, Any]) -> Iterator[str]:
    """Set a document as a page of plain text."""
    title = f"{document['site']}: {document['kind']}"
    yield from (title, "=" * len(title), "")
    if document["error"] is not None:
        yield from _refusal(document["error"])
    else:
        yield "Fields"
        for one in document["fields"]:
            yield from _field(one)
        yield ""
        yield from _table(document)
    yield from ("", "Flower's envelope of the message")
    for name, value in document["envelope"].items():
        yield f"  {name:<{_NAME}} {value}"


def _field(one: Mapping[str, Any]) -> Iterator[str]:
    value, words = str(one["value"]), one["meaning"]
    if one["policy"]:
        words = f"{one['policy']}; {words}"
    if len(value) <= _VALUE:
        yield f"  {one['name']:<{_NAME}} {value:<{_VALUE}} {words}"
    else:
        yield f"  {one['name']:<{_NAME}} {value}"
        yield f"  {'':<{_NAME}} {'':<{_VALUE}} {words}"


def _refusal(error: Mapping[str, Any]) -> Iterator[str]:
    name = error["name"]
    known = f"{name}: {REMEDIES[Code[name]]}" if name else "of Flower's own"
    yield f"  {'code':<{_NAME}} {error['code']}, {known}"
    yield f"  {'reason':<{_NAME}} {error['reason']}"
    yield ""
    yield "No other text leaves. What happened is in the site's own log, beside the"
    yield "same reference; the words after the code are the coordinator's to print."


def _table(document: Mapping[str, Any]) -> Iterator[str]:
    """Set the tensors as columns that are as wide as they must be."""
    tensors = document["tensors"]
    if not tensors:
        yield "No tensors"
        return
    yield f"{len(tensors)} tensors, {document['bytes']:,} bytes"
    yield f"  {document['weights']}"
    yield "  is the hash of all of them, as the audit log notes it"
    yield ""
    rows: list[Sequence[str]] = [
        ("name", "shape", "dtype", "bytes", "min", "max", "SHA-256 as they travel")
    ]
    rows += [
        (
            one["name"],
            " x ".join(map(str, one["shape"])),
            one["dtype"],
            f"{one['bytes']:,}",
            _short(one["min"]),
            _short(one["max"]),
            one["sha256"],
        )
        for one in tensors
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = zip(row, widths, (0, 0, 0, 1, 1, 1, 0), strict=True)
        line = "  ".join(f"{c:>{w}}" if right else f"{c:<{w}}" for c, w, right in cells)
        yield f"  {line.rstrip()}"


def _short(value: float | str | None) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
