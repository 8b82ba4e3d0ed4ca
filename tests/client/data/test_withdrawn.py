"""A patient who has withdrawn is in nothing prepared from then on."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from client.data.cache import CacheError, prepare
from client.data.check import check_site
from client.data.dataset import build_dataset
from client.data.importers import ImporterError
from client.data.manifest import read_manifest
from client.data.pseudonyms import Pseudonymiser
from client.data.site_data import import_site, site_counts
from client.data.snapshot import NothingToPrepareError, open_snapshot
from client.data.withdrawn import (
    WITHDRAWN_FILE,
    WithdrawnError,
    read_withdrawn,
    write_withdrawn,
)
from common.plan import Preprocessing
from tests.support.hospitals import small_plan

Archive = Callable[[int], Path]
SECRET = b"0123456789abcdef"
KEYS = [Pseudonymiser(SECRET).patient(f"P{number}") for number in range(6)]


@pytest.fixture
def root(archive: Archive) -> Path:
    return archive(6)


@pytest.fixture
def site(tmp_path: Path, root: Path) -> Path:
    """Six patients with an image each, of which the third is cut short."""
    third = root / "image0002"
    third.write_bytes(third.read_bytes()[:-1000])
    return _import(tmp_path / "site", root)


def _import(folder: Path, root: Path) -> Path:
    import_site("hospital", root, folder, "s", {"dataset": "test"}, secret=SECRET)
    return folder


def _bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_next_snapshot_lacks_the_patient_and_the_old_one_stays(
    site: Path, root: Path, small: Preprocessing
) -> None:
    old = prepare(site, root, small)
    before = _bytes(old.folder)
    write_withdrawn(site, [KEYS[1]])
    new = prepare(site, root, small)
    assert KEYS[1] in set(old.rows["patient_key"]) and len(old) == 5
    assert KEYS[1] not in set(new.rows["patient_key"]) and len(new) == 4
    assert new.hash != old.hash and new.folder != old.folder
    assert _bytes(old.folder) == before
    kept = old.rows["row_id"].isin(new.rows["row_id"]).to_numpy()
    same = old.read(np.flatnonzero(kept)) == new.read(np.arange(4))
    assert same.all()
    assert open_snapshot(site, small).hash == new.hash


def test_every_site_still_names_the_same_preprocessing(
    site: Path, root: Path, small: Preprocessing
) -> None:
    old = prepare(site, root, small)
    write_withdrawn(site, [KEYS[1]])
    new = prepare(site, root, small)
    assert new.recipe == old.recipe == old.folder.name
    dataset = build_dataset({"s": new}, small_plan(), required=())
    assert dataset.recipe == old.recipe


def test_counts_add_up_whatever_the_file_was(
    site: Path, root: Path, small: Preprocessing
) -> None:
    prepare(site, root, small)
    write_withdrawn(site, [KEYS[1], KEYS[2]])  # a whole file, and a quarantined one
    wanted = {"ok": 4, "excluded": 2, "quarantined": 0, "reason:X_WITHDRAWN": 2}
    assert site_counts(site) == wanted
    snapshot = prepare(site, root, small)
    assert len(snapshot) == snapshot.facts["slots"] == 4  # not even tried again
    assert site_counts(site) == wanted
    check = check_site(site, root)
    assert check.counts == {"found": 6, "cached": 4, "excluded": 2, "quarantined": 0}
    assert [p.count for p in check.problems if p.code == "X_WITHDRAWN"] == [2]


def test_a_second_preparation_does_nothing(
    site: Path, root: Path, small: Preprocessing
) -> None:
    write_withdrawn(site, [KEYS[1]])
    first = prepare(site, root, small)
    again = prepare(site, root / "gone", small)
    assert again.hash == first.hash


def test_an_import_of_the_same_archive_keeps_it(
    site: Path, root: Path, small: Preprocessing
) -> None:
    write_withdrawn(site, [KEYS[1]])
    prepare(site, root, small)
    _import(site, root)
    assert site_counts(site)["reason:X_WITHDRAWN"] == 1
    (root / "image0005").unlink()
    with pytest.raises(ImporterError, match="withdrawn stay out"):
        _import(site, root)


def test_where_all_have_withdrawn_nothing_is_prepared(
    site: Path, root: Path, small: Preprocessing
) -> None:
    write_withdrawn(site, KEYS)
    with pytest.raises(NothingToPrepareError, match="X_WITHDRAWN"):
        prepare(site, root, small)


def test_the_list_is_private_sorted_and_never_guessed(site: Path) -> None:
    write_withdrawn(site, [KEYS[1], KEYS[0], KEYS[1]])
    assert read_withdrawn(site) == tuple(sorted(KEYS[:2]))
    path = site / WITHDRAWN_FILE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for damaged in (b"", b"{}", b"[1]", b'["P1"]'):
        path.write_bytes(damaged)
        with pytest.raises(WithdrawnError, match="Restore"):
            read_manifest(site)


def test_a_lost_list_does_not_open_the_images_of_before(
    site: Path, root: Path, small: Preprocessing
) -> None:
    prepare(site, root, small)
    write_withdrawn(site, [KEYS[1]])
    prepare(site, root, small)
    (site / WITHDRAWN_FILE).unlink()
    with pytest.raises(CacheError, match=r"Restore withdrawn\.json"):
        open_snapshot(site, small)
