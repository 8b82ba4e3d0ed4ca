"""What both ends compare before anyone trains."""

from __future__ import annotations

from collections.abc import Sequence

from common.canonical import canonical_json, sha256_hex
from common.contract import Contract, fingerprint


def federation_fingerprint(contracts: Sequence[Contract]) -> str:
    """Hash every tensor's name, shape, type and part over all stages.

    Parameters
    ----------
    contracts : one per stage, in order

    Returns
    -------
    64 hexadecimal digits; equal exactly when both ends build the same models and draw
    the same line between shared and local.
    """
    stages = [
        [rule.fingerprint]
        + [
            fingerprint(rule.layout_of(keys), rule.stage.name, rule.stage.model.name)
            for keys in (rule.fixed, rule.local, rule.constant)
        ]
        for rule in contracts
    ]
    return sha256_hex(canonical_json(stages))
