"""Who the synthetic patients are: density, age, pathology and findings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from common.seeds import derive_seed
from simulations.synthetic.lesions import Finding, draw_findings
from simulations.synthetic.profiles import DENSITIES, LATERALITIES, SiteProfile


@dataclass(frozen=True)
class Breast:
    """Truth of one breast: pathology ``malignant``, ``benign`` or ``normal``."""

    laterality: str
    pathology: str
    size: float
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class Patient:
    """Truth of one patient; positive if one breast is malignant."""

    patient_id: str
    density: str
    age_years: int
    breasts: tuple[Breast, Breast]


def random_generator(
    seed: int, profile: SiteProfile, index: int, *purpose: str
) -> np.random.Generator:
    """Return the generator of one purpose, independent of every other purpose."""
    key = derive_seed(seed, "synthetic", profile.site, index, *purpose)
    return np.random.default_rng(key)


def draw_patient(profile: SiteProfile, seed: int, index: int) -> Patient:
    """Draw one patient; density, age and side are independent of the pathology.

    Parameters
    ----------
    profile : the hospital
    seed : of the archive
    index : number of the patient at this hospital, from 0
    """
    rng = random_generator(seed, profile, index, "patient")
    malignant = rng.random() < profile.prevalence
    side = LATERALITIES[int(rng.integers(2))]
    density = str(rng.choice(DENSITIES, p=profile.density_mix))
    age = int(np.clip(rng.normal(58, 9), 40, 84))
    size = float(np.clip(rng.normal(0.98, 0.06), 0.85, 1.1))
    left, right = (
        _draw_breast(profile, seed, index, name, malignant and name == side, size)
        for name in LATERALITIES
    )
    return Patient(f"P{index:04d}", density, age, (left, right))


def _draw_breast(
    profile: SiteProfile,
    seed: int,
    index: int,
    laterality: str,
    malignant: bool,
    size: float,
) -> Breast:
    rng = random_generator(seed, profile, index, "breast", laterality)
    size *= 1 + 0.02 * float(np.clip(rng.normal(), -2, 2))
    findings = draw_findings(rng, malignant)
    other = "benign" if findings else "normal"
    return Breast(laterality, "malignant" if malignant else other, size, findings)
