"""Check a reply as the untrusted data it is, then average those that pass."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from common.contract import Contract
from common.plan import Aggregation
from common.records import Value

Tensors = dict[str, np.ndarray]


class BadReply(ValueError):  # noqa: N818  the field's word
    """A reply that must not enter the average; the text goes to the ledger."""


def check_reply(
    fields: Mapping[str, Value],
    tensors: Mapping[str, np.ndarray],
    sent: Mapping[str, np.ndarray],
    rule: Contract,
    limits: Aggregation,
    fixed_hash: str,
) -> float:
    """Check one site's update against what was sent.

    Parameters
    ----------
    fields : of a train reply, already of the right types
    tensors : the site's new values
    sent : the values it started from; at least those of ``rule.sent``
    rule : contract of the stage
    limits : of the plan
    fixed_hash : of the shared tensors that stand still

    Returns
    -------
    L2 norm of the update, in float64.

    Raises
    ------
    BadReply
        Naming what is wrong: count, keys, shape, type, values, or norm.
    """
    for name in ("patients", "images"):
        count = int(fields[name])
        if not 0 < count <= limits.maximum_samples:
            raise BadReply(f"absurd count of {name}: {count}")
    if fields["fixed_hash"] != fixed_hash:
        raise BadReply("shared tensors that should stand still have moved")
    expected = {spec.key: spec for spec in rule.layout_of(rule.sent)}
    if unknown := set(tensors) - set(expected):
        raise BadReply(f"{len(unknown)} unknown tensors")
    if missing := set(expected) - set(tensors):
        raise BadReply(f"{len(missing)} tensors missing")
    total = 0.0
    for key, spec in expected.items():
        array = tensors[key]
        if array.shape != spec.shape or array.dtype.name != spec.dtype:
            raise BadReply(
                f"{key} is {array.dtype.name} {array.shape}, "
                f"expected {spec.dtype} {spec.shape}"
            )
        difference = (array - sent[key]).reshape(-1)
        total += float(np.dot(difference, difference))
        if not math.isfinite(total):
            if not np.isfinite(array).all():
                raise BadReply(f"{key} holds values that are not finite")
            raise BadReply(f"{key} moved by an absurd amount")
    norm = math.sqrt(total)
    if limits.maximum_update_norm and norm > limits.maximum_update_norm:
        raise BadReply(
            f"update norm {norm:.3g} is above the plan's bound, "
            f"{limits.maximum_update_norm:.3g}"
        )
    return norm


def weight_shares(counts: Sequence[int]) -> list[float]:
    """Turn the counts of the sites of a round into shares that sum to 1."""
    total = sum(counts)
    return [count / total for count in counts]


def average(
    updates: Sequence[Mapping[str, np.ndarray]], shares: Sequence[float]
) -> Tensors:
    """Average tensors in site order, in float64, back in their own type.

    Parameters
    ----------
    updates : one per site, in the order of the roster; equal keys and shapes
    shares : one per site, summing to 1

    Returns
    -------
    The weighted mean; with one site bit for bit its update.
    """
    result: Tensors = {}
    for key, first in updates[0].items():
        total = np.multiply(first, shares[0], dtype=np.float64)
        for update, share in zip(updates[1:], shares[1:], strict=True):
            total += np.multiply(update[key], share, dtype=np.float64)
        result[key] = total.astype(first.dtype)
    return result
