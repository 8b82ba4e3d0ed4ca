"""Check a reply as the untrusted data it is, then average those that pass."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from common.contract import Contract
from common.plan import Aggregation
from common.records import Value

Tensors = dict[str, np.ndarray]


_BLOCK = 1 << 16
"""Elements summed at a time, so that the float64 sums stay in the processor's cache."""


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
    L2 norm of the update; squares are summed in blocks, the blocks in float64.

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
        total += _squared_distance(array.reshape(-1), sent[key].reshape(-1))
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


def _squared_distance(one: np.ndarray, other: np.ndarray) -> float:
    total = 0.0
    for start in range(0, one.size, _BLOCK):
        difference = one[start : start + _BLOCK] - other[start : start + _BLOCK]
        total += float(np.dot(difference, difference))
    return total


def weight_shares(counts: Sequence[int]) -> list[float]:
    """Turn the counts of the sites of a round into shares that sum to 1."""
    total = sum(counts)
    return [count / total for count in counts]


def cap_shares(shares: Sequence[float], maximum: float) -> list[float]:
    """Bound what one site may weigh; the others get what is above the bound.

    The excess is spread in proportion to the shares of the others; whoever is then
    above the bound is bounded too, until nobody is. So a share is the smaller of
    ``maximum`` and its old value times a factor that is the same for all, and the order
    of the sites is kept.

    Parameters
    ----------
    shares : positive, summing to 1
    maximum : in (0, 1]; at ``1 / len(shares)`` or below all shares become equal,
        because they could not sum to 1

    Returns
    -------
    Shares that sum to 1.
    """
    if maximum * len(shares) < 1.0 + 1e-9:  # rounding would leave nobody unbounded
        return [1.0 / len(shares) for _ in shares]
    bounded: set[int] = set()
    result = list(shares)
    while above := {n for n, one in enumerate(result) if one > maximum}:
        bounded |= above
        free = sum(one for n, one in enumerate(shares) if n not in bounded)
        factor = (1.0 - maximum * len(bounded)) / free
        result = [
            maximum if n in bounded else one * factor for n, one in enumerate(shares)
        ]
    return result


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
    total, part = np.empty(_BLOCK), np.empty(_BLOCK)
    result: Tensors = {}
    for key, first in updates[0].items():
        mean = np.empty(first.shape, first.dtype)
        flat = [update[key].reshape(-1) for update in updates]
        for start in range(0, first.size, _BLOCK):
            block = slice(start, min(start + _BLOCK, first.size))
            summed, next_ = total[: block.stop - start], part[: block.stop - start]
            summed[:] = flat[0][block]
            summed *= shares[0]
            for values, share in zip(flat[1:], shares[1:], strict=True):
                next_[:] = values[block]
                next_ *= share
                summed += next_
            mean.reshape(-1)[block] = summed
        result[key] = mean
    return result
