"""A consortium of real processes on loopback, set up once for a module."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from simulations.synthetic.generate import generate
from simulations.synthetic.profiles import ALL_SITES
from tests.e2e.consortium import SITES, TestConsortium


@pytest.fixture(scope="session")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the archives of three small hospitals."""
    root = tmp_path_factory.mktemp("archives")
    profiles = [profile for profile in ALL_SITES if profile.site in SITES]
    generate(
        root,
        seed=0,
        rows=128,
        columns=64,
        sites=profiles,
        workers=1,
        patients_per_site=16,
    )
    return root


@pytest.fixture(scope="module")
def consortium(
    archives: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TestConsortium]:
    """Run coordinator and hospitals; every hospital's images are prepared."""
    with TestConsortium(tmp_path_factory.mktemp("consortium"), archives) as found:
        found.open()
        yield found
