"""Check a reply as the untrusted data it is, then average those that pass."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from common.contract import Contract
from common.plan import Aggregation
from common.records import Value
from common.transport import RangeError, Transport, from_wire, to_wire
from server.participation import RunFailed

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
) -> tuple[float, Tensors]:
    """Check one site's update against what was sent.

    Parameters
    ----------
    fields : of a train reply, already of the right types
    tensors : the site's new values, or as ``rule.transport`` says their differences
    sent : the values it started from; at least those of ``rule.sent``
    rule : contract of the stage
    limits : of the plan
    fixed_hash : of the shared tensors that stand still

    Returns
    -------
    L2 norm of the update, its squares summed in blocks and the blocks in float64; and
    the tensors as float32.

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
    expected = {spec.key: spec for spec in rule.on_wire}
    if unknown := set(tensors) - set(expected):
        raise BadReply(f"{len(unknown)} unknown tensors")
    if missing := set(expected) - set(tensors):
        raise BadReply(f"{len(missing)} tensors missing")
    total = 0.0
    decoded: Tensors = {}
    for key, spec in expected.items():
        array = tensors[key]
        if array.shape != spec.shape or array.dtype.name != spec.dtype:
            raise BadReply(
                f"{key} is {array.dtype.name} {array.shape}, "
                f"expected {spec.dtype} {spec.shape}"
            )
        decoded[key] = from_wire(array, rule.transport)
        total += _squared(
            decoded[key].reshape(-1),
            sent[key].reshape(-1) if rule.transport == "float32" else None,
        )
        if not math.isfinite(total):
            if not np.isfinite(decoded[key]).all():
                raise BadReply(f"{key} holds values that are not finite")
            raise BadReply(f"{key} moved by an absurd amount")
    norm = math.sqrt(total)
    if limits.maximum_update_norm and norm > limits.maximum_update_norm:
        raise BadReply(
            f"update norm {norm:.3g} is above the plan's bound, "
            f"{limits.maximum_update_norm:.3g}"
        )
    return norm, decoded


def _squared(one: np.ndarray, other: np.ndarray | None) -> float:
    """Return the squared distance of two vectors, or the squared length of one."""
    total = 0.0
    for start in range(0, one.size, _BLOCK):
        block = one[start : start + _BLOCK]
        if other is not None:
            block = block - other[start : start + _BLOCK]
        total += float(np.dot(block, block))
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


def advance(
    shared: Mapping[str, np.ndarray],
    residual: Mapping[str, np.ndarray],
    mean: Mapping[str, np.ndarray],
    transport: Transport,
) -> tuple[Tensors, Tensors]:
    """Put a round's average into effect.

    As float32 the average is the new weights. In 16 bits it is the mean difference,
    and weights have to be rounded before they are sent. The coordinator's exact ones,
    ``shared + residual``, move by the mean and are kept; sites train, evaluate and keep
    what was rounded. So a difference smaller than the rounding is not lost, and all
    ends hold the same weights. Mixed-precision training keeps exact weights for the
    same reason (Micikevicius et al. 2018, arXiv 1710.03740).

    Parameters
    ----------
    shared : what the sites trained from, float32
    residual : exact less ``shared``; of a tensor that is missing it is 0
    mean : of all sent tensors, float32, see `average`

    Returns
    -------
    New values of the tensors in ``mean``, and their new residual; both float32, the
    residual empty where nothing is rounded.

    Raises
    ------
    RunFailed
        If a weight is too large for the format.
    """
    if transport == "float32":
        return dict(mean), {}
    exact = {
        key: shared[key] + residual[key] + step
        if key in residual
        else shared[key] + step
        for key, step in mean.items()
    }
    return round_weights(exact, transport)


def round_weights(
    exact: Mapping[str, np.ndarray], transport: Transport
) -> tuple[Tensors, Tensors]:
    """Round weights to what can be sent; see `advance` for what is returned."""
    if transport == "float32":
        return dict(exact), {}
    rounded: Tensors = {}
    for key, values in exact.items():
        try:
            rounded[key] = from_wire(to_wire(values, transport), transport)
        except RangeError as error:
            raise RunFailed(
                f"{key} cannot be sent as {transport}: {error}. Choose "
                "aggregation.transport bfloat16 or float32 in a new plan."
            ) from None
    return rounded, {key: exact[key] - rounded[key] for key in exact}


def pack_weights(
    shared: Mapping[str, np.ndarray], rule: Contract
) -> dict[str, np.ndarray]:
    """Select what is sent of weights that `advance` has rounded."""
    return {key: to_wire(shared[key], rule.transport) for key in rule.sent}
