"""Which patients train, validate and test: a function of the patient's key alone."""

from __future__ import annotations

import hashlib

import pandas as pd

from common.plan import Split

PARTS = ("train", "validation", "test")


def assign_split(
    patient_keys: pd.Series, split: Split, official: pd.Series | None = None
) -> pd.Series:
    """Assign every row to a part, all rows of a patient to the same one.

    Each patient's part depends on its key and `split` only, so adding a patient moves
    no other. The shares are met in expectation, not exactly.

    Parameters
    ----------
    patient_keys : one key per row; none missing
    split : shares and seed
    official : ``train``, ``test`` or missing per row, used if ``split.official``: the
        patient's official test rows test, and what is officially train is divided into
        train and validation. A patient named in both trains.

    Returns
    -------
    string Series with the same index: ``train``, ``validation`` or ``test``

    Raises
    ------
    ValueError
        If a key is missing, or the official split is wanted and not given.
    """
    if patient_keys.isna().any():
        raise ValueError(
            f"{int(patient_keys.isna().sum())} rows have no patient key, so they "
            "cannot be split by patient. Exclude them, or import with smoke_test: true."
        )
    part_of = {key: _part(str(key), split) for key in patient_keys.unique()}
    if split.official:
        part_of |= _official_parts(patient_keys, split, official)
    return patient_keys.map(part_of).astype("string")


def _draw(key: str, seed: int) -> float:
    digest = hashlib.sha256(f"split\x1f{seed}\x1f{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _part(key: str, split: Split) -> str:
    draw = _draw(key, split.seed)
    if draw < split.train:
        return "train"
    return "validation" if draw < split.train + split.validation else "test"


def _official_parts(
    patient_keys: pd.Series, split: Split, official: pd.Series | None
) -> dict[str, str]:
    if official is None:
        raise ValueError("split.official is true, but no split_official was given.")
    seen = pd.Series(patient_keys.to_numpy(), index=official.to_numpy()).dropna()
    train = set(seen.loc[seen.index == "train"])
    parts = {key: "test" for key in seen.loc[seen.index == "test"]}
    share = split.train / max(split.train + split.validation, 1e-12)
    for key in train:
        parts[key] = "train" if _draw(str(key), split.seed) < share else "validation"
    return parts
