"""Check a reply as the untrusted data it is, then average those that pass."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from common.contract import Contract
from common.plan import Aggregation
from common.records import Value

Tensors = dict[str, np.ndarray]


_BLOCK = 1 << 17
"""Elements summed at a time, so that the float64 sums stay in the processor's cache."""

_POOL = ThreadPoolExecutor(max_workers=4, thread_name_prefix="average")


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
    keys = list(updates[0])
    each = ([update[key] for update in updates] for key in keys)
    means = _POOL.map(lambda arrays: _weighted_mean(arrays, shares), each)
    return dict(zip(keys, means, strict=True))


def _weighted_mean(arrays: Sequence[np.ndarray], shares: Sequence[float]) -> np.ndarray:
    mean = np.empty(arrays[0].shape, arrays[0].dtype)
    flat = [array.reshape(-1) for array in arrays]
    for start in range(0, max(mean.size, 1), _BLOCK):
        block = slice(start, start + _BLOCK)
        total = np.multiply(flat[0][block], shares[0], dtype=np.float64)
        for values, share in zip(flat[1:], shares[1:], strict=True):
            total += np.multiply(values[block], share, dtype=np.float64)
        mean.reshape(-1)[block] = total
    return mean
