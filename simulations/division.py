"""Divide one prepared data set into virtual hospitals, always by patient.

By a field that machines and countries leave in the data (vendor, machine), or with a
skew of labels or density that is drawn: for each class of patients the shares of the
hospitals come from a symmetric Dirichlet distribution, as in Hsu, Qi and Brown 2019
(arXiv:1909.06335). A small ``alpha`` gives hospitals that differ much.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import pandas as pd

from client.data.snapshot import Snapshot
from common.canonical import canonical_json, sha256_hex
from common.plan import PlanError
from common.seeds import derive_seed
from simulations.settings import Division

_DRAWS = 100


class Part:
    """The images of some patients of a snapshot; stands in for a `Snapshot`.

    Parameters
    ----------
    whole : prepared images of all patients
    patients : pseudonyms of those who belong to it
    """

    def __init__(self, whole: Snapshot, patients: np.ndarray) -> None:
        chosen = whole.rows["patient_key"].isin(patients).to_numpy(dtype=bool)
        self._whole = whole
        self._positions = np.flatnonzero(chosen)
        self.rows = whole.rows[chosen].reset_index(drop=True)
        mine = whole.beside["patient_key"].isin(patients)
        self.beside = whole.beside[mine].reset_index(drop=True)
        self.recipe = whole.recipe
        members = [whole.hash, *self.rows["row_id"]]
        self.hash = sha256_hex(canonical_json(members))

    def __len__(self) -> int:
        """Count the images."""
        return len(self._positions)

    def read(self, indices: np.ndarray) -> np.ndarray:
        """Read uint16 [image, row, column]; ``indices`` are positions in `rows`."""
        return self._whole.read(self._positions[indices])


def divide_snapshot(
    whole: Snapshot, rule: Division, sites: tuple[str, ...], seed: int
) -> dict[str, Snapshot]:
    """Give every hospital its patients.

    Raises
    ------
    PlanError
        If a hospital gets fewer patients than ``rule.minimum``.
    """
    groups = divide(whole.rows, rule, sites, seed)
    return {site: cast(Snapshot, Part(whole, groups[site])) for site in sites}


def divide(
    rows: pd.DataFrame, rule: Division, sites: tuple[str, ...], seed: int
) -> dict[str, np.ndarray]:
    """Deal patients out.

    Parameters
    ----------
    rows : manifest rows of usable images
    rule : how
    sites : names of the hospitals
    seed : of what is drawn

    Returns
    -------
    pseudonyms of each hospital's patients, sorted; no patient twice. Patients of a
    value that ``rule.values`` does not name belong to none; ``unknown`` is a value
    """
    classes = _class_of_patient(rows, rule.by)
    if rule.alpha is None:
        groups = _by_value(classes, rule.values, sites)
        _require(groups, rule)
        return groups
    for draw in range(_DRAWS):
        groups = _by_dirichlet(classes, rule.alpha, sites, seed, draw)
        if min(len(group) for group in groups.values()) >= rule.minimum:
            return groups
    raise PlanError(
        f"{_DRAWS} divisions with alpha {rule.alpha:g} left a hospital with fewer than "
        f"{rule.minimum} of {len(classes)} patients. Raise data.divide.alpha, or take "
        "fewer hospitals."
    )


def _class_of_patient(rows: pd.DataFrame, field: str) -> pd.Series[Any]:
    """Return each patient's value: positive if ever, else the most frequent one."""
    if field == "cancer_pathology":
        ever = rows[field].groupby(rows["patient_key"]).max()
        return ever.astype("string").fillna("unknown")
    values = rows[field].astype("string").fillna("unknown")
    counts = values.groupby(rows["patient_key"]).value_counts(sort=False)
    ranked = counts.rename("images").reset_index()
    order = {"patient_key": True, "images": False, field: True}
    ranked = ranked.sort_values(list(order), ascending=list(order.values()))
    return ranked.groupby("patient_key")[field].first()


def _by_value(
    classes: pd.Series[Any],
    values: Mapping[str, tuple[str, ...]],
    sites: tuple[str, ...],
) -> dict[str, np.ndarray]:
    if missing := sorted(set(sites) - set(values)):
        raise PlanError(
            f"data.divide.values names no value for {', '.join(missing)}. The data "
            f"has: {', '.join(sorted(set(classes)))}"
        )
    named = [value for site in sites for value in values[site]]
    if len(set(named)) < len(named):
        raise PlanError("data.divide.values gives one value to two hospitals")
    return {
        site: np.sort(classes.index[classes.isin(values[site])].to_numpy(dtype=str))
        for site in sites
    }


def _by_dirichlet(
    classes: pd.Series[Any], alpha: float, sites: tuple[str, ...], seed: int, draw: int
) -> dict[str, np.ndarray]:
    groups: dict[str, list[str]] = {site: [] for site in sites}
    random = np.random.default_rng(derive_seed(seed, "divide", draw))
    for value in sorted(set(classes)):
        patients = np.sort(classes.index[classes == value].to_numpy(dtype=str))
        patients = random.permutation(patients)
        shares = random.dirichlet(np.full(len(sites), alpha))
        cuts = np.rint(np.cumsum(shares)[:-1] * len(patients)).astype(int)
        for site, part in zip(sites, np.split(patients, cuts), strict=True):
            groups[site] += list(part)
    return {
        site: np.sort(np.asarray(group, dtype=str)) for site, group in groups.items()
    }


def _require(groups: Mapping[str, np.ndarray], rule: Division) -> None:
    if small := [site for site, group in groups.items() if len(group) < rule.minimum]:
        raise PlanError(
            f"{', '.join(small)}: fewer than {rule.minimum} patients by {rule.by}. "
            "Change data.divide.values, or lower data.divide.minimum."
        )
