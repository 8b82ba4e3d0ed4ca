"""Truth is drawn as the profile says and tells nothing else about the label."""

import numpy as np
import pytest

from simulations.synthetic.patients import draw_patient
from simulations.synthetic.profiles import ALL_SITES, DENSITIES, FEDERATION, PUBLIC


@pytest.mark.parametrize("profile", ALL_SITES, ids=lambda p: p.site)
def test_prevalence_and_density_follow_the_profile(profile):
    patients = [draw_patient(profile, 11, index) for index in range(800)]
    malignant = [
        sum(b.pathology == "malignant" for b in patient.breasts) for patient in patients
    ]
    assert max(malignant) == 1
    assert np.mean(malignant) == pytest.approx(profile.prevalence, abs=0.055)
    densities = [patient.density for patient in patients]
    shares = [densities.count(density) / 800 for density in DENSITIES]
    assert shares == pytest.approx(profile.density_mix, abs=0.055)


def test_normal_means_without_findings_and_benign_with():
    for index in range(200):
        for breast in draw_patient(PUBLIC, 5, index).breasts:
            if breast.pathology == "malignant":
                assert [f.malignant for f in breast.findings][:1] in ([], [True])
            else:
                assert (breast.pathology == "normal") == (not breast.findings)
                assert not any(f.malignant for f in breast.findings)


def test_findings_are_as_many_in_malignant_as_in_other_breasts():
    counts: dict[bool, list[int]] = {True: [], False: []}
    for profile in FEDERATION:
        for index in range(500):
            for breast in draw_patient(profile, 3, index).breasts:
                malignant = breast.pathology == "malignant"
                counts[malignant].append(len(breast.findings))
    assert np.mean(counts[True]) == pytest.approx(np.mean(counts[False]), abs=0.06)


def test_seed_site_and_index_all_matter():
    base = draw_patient(FEDERATION[0], 1, 0).breasts
    assert draw_patient(FEDERATION[0], 1, 0).breasts == base
    assert draw_patient(FEDERATION[0], 2, 0).breasts != base
    assert draw_patient(FEDERATION[1], 1, 0).breasts != base
    assert draw_patient(FEDERATION[0], 1, 1).breasts != base
