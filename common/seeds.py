"""Seeds for everything that must be repeatable, derived and never shared.

Model initialisation, batch order and augmentation derive from the plan's seed and the
place they are used at, so that a resumed round draws what the undisturbed one drew, and
no state of a random generator has to be stored. Noise for privacy must not come from
here: the coordinator knows the plan.
"""

from __future__ import annotations

import hashlib


def derive_seed(plan_seed: int, *purpose: str | int) -> int:
    """Derive a 63-bit seed from the plan's seed and a path of names.

    Parameters
    ----------
    plan_seed : the plan's ``seed``
    purpose : for example ``"order", site, stage, round``; order matters

    Returns
    -------
    int in [0, 2**63)
    """
    text = "\x1f".join([str(plan_seed), *(str(part) for part in purpose)])
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
