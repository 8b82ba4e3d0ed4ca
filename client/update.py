"""What a site sends of a round: its new weights, or their rounded difference."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from torch import Tensor

from common.checkpoint import Tensors
from common.records import Code, Refusal
from common.transport import RangeError, Transport, from_wire, to_wire


def update_of(
    trained: Mapping[str, np.ndarray],
    received: Mapping[str, Tensor],
    residual: Mapping[str, np.ndarray],
    transport: Transport,
) -> tuple[Tensors, Tensors]:
    """Turn trained weights into what is sent, and what is kept back.

    As float32 the weights themselves travel. In 16 bits the difference to what was
    received does, for it is small where a weight is large, and what rounding takes from
    it is added to the next difference (error feedback: Seide et al. 2014; Karimireddy
    et al. 2019, arXiv 1901.09847)::

        wanted = (trained - received) + residual;  sent = round(wanted)
        next residual = wanted - sent, which float32 holds exactly

    so all that was ever sent differs from all that was ever learned by one rounding
    error, however many rounds there were. The residual belongs to the generation: if
    the round does not count, both are rolled back, and the difference is not sent
    twice.

    Parameters
    ----------
    trained : of all sent tensors, float32; may be the model's own memory
    received : that training started from, at least those of ``trained``
    residual : of the generation that the round started from; of a tensor that is
        missing, as in the first round, it is 0

    Returns
    -------
    What is sent, see `common.transport`; and the next residual, float32, empty where
    nothing is rounded.

    Raises
    ------
    Refusal
        With ``NOT_FINITE`` if a value is not finite, or too large for the format.
    """
    if transport == "float32":
        if not all(map(is_finite, trained.values())):
            raise Refusal(Code.NOT_FINITE, "the trained weights are not finite")
        return dict(trained), {}
    sent: Tensors = {}
    kept: Tensors = {}
    for key, array in trained.items():
        wanted = array - received[key].numpy()
        if key in residual:
            wanted += residual[key]
        try:
            sent[key] = to_wire(wanted, transport)
        except RangeError as error:
            raise Refusal(Code.NOT_FINITE, f"update of {key}: {error}") from None
        kept[key] = wanted - from_wire(sent[key], transport)
    return sent, kept


def is_finite(array: np.ndarray) -> bool:
    """Look at the sum of squares, which is faster; one that overflows is bad too."""
    flat = array.ravel(order="K")  # of weights in channels-last: no copy
    return math.isfinite(np.dot(flat, flat))
