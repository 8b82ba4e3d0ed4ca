"""The parts of a model, and the sharing presets written over them.

Free of torch, so that the per-message process at a hospital can read a plan.
"""

from __future__ import annotations

from typing import Literal, get_args

Part = Literal["trunk", "norm_affine", "norm_stats", "head"]
PARTS: tuple[Part, ...] = get_args(Part)

PRESETS = {
    "fedavg": "ssss",
    "silobn": "ssls",
    "fedbn": "slls",
    "fedbn_head": "slll",
    "fedper": "sssl",
    "local": "llll",
}


def parse_sharing(sharing: str) -> dict[Part, bool]:
    """Read a preset name or four letters, one per part in the order of `PARTS`.

    Parameters
    ----------
    sharing : a key of `PRESETS`, or four letters ``s`` (shared) or ``l`` (local)

    Returns
    -------
    Part name to True where the server averages it.

    Raises
    ------
    ValueError
        If it is neither.
    """
    letters = PRESETS.get(sharing, sharing)
    if len(letters) != len(PARTS) or set(letters) - {"s", "l"}:
        known = ", ".join(PRESETS)
        raise ValueError(
            f"sharing {sharing!r} is unknown; use {known}, or four letters s/l "
            f"for {', '.join(PARTS)}"
        )
    return {part: letter == "s" for part, letter in zip(PARTS, letters, strict=True)}
