"""The published tables of CBIS-DDSM, where they are at hand: no image is needed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from client.data.importers.cbis_cases import Cases, read_cases


@pytest.fixture
def cases(real_data: Path) -> Cases:
    folder = real_data / "cbis-ddsm-csv"
    if not folder.is_dir():
        pytest.skip("the tables of CBIS-DDSM are not here")
    return read_cases(folder)


def test_newlines_inside_of_cells_make_no_rows(cases: Cases) -> None:
    assert Counter(lesion.table for lesion in cases.lesions) == {
        "calc_case_description_train_set.csv": 1546,
        "calc_case_description_test_set.csv": 326,
        "mass_case_description_train_set.csv": 1318,
        "mass_case_description_test_set.csv": 378,
    }
    assert sum(lesion.density is None for lesion in cases.lesions) == 2


def test_leaks_and_conflicts_are_those_that_are_known(cases: Cases) -> None:
    assert len(cases.leaking_patients) == 31
    assert len(cases.mixed_images) == 33
    assert len(cases.mixed_breasts) == 20


def test_lesions_add_up_to_the_known_images_and_breasts(cases: Cases) -> None:
    positive = {
        lesion.image
        for lesion in cases.lesions
        if lesion.pathology_class == "malignant"
    }
    assert (len(cases.parts), len(cases.images), len(positive)) == (1566, 3032, 1347)
    assert len({image[:2] for image in cases.images}) == 1708
    assert len({image[:2] for image in positive}) == 761
