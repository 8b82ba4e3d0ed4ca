"""Who has used a patient: rounds and models, as the site's own disk tells."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from client.data.manifest import read_manifest
from client.data.planted_exam import OPTIONS, PATIENTS, plant_exams
from client.data.pseudonyms import SECRET_FILE, SecretError
from client.data.site_data import import_site, prepare_site
from client.data.snapshot import Snapshot, open_snapshot
from client.data.split import assign_split
from client.data.withdrawn import UnknownPatientError
from client.withdrawal import (
    Use,
    caches_with,
    delete_copies,
    find_patient,
    uses_of,
    withdraw,
)
from common.lock import FolderBusyError, locked
from common.plan import Plan, Split
from simulations.federation import run_in_process
from tests.support import dicom_files
from tests.support.hospitals import small_plan, small_stage
from tests.support.runs import MACHINE

SITE = "north"
PLAN: Plan = small_plan(
    small_stage(rounds=2),
    sites=(SITE,),
    split=Split(train=0.4, validation=0.3, test=0.3),
)


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Archive and site folder of 16 labelled patients."""
    folder = tmp_path_factory.mktemp("hospital")
    root, site = folder / "archive", folder / "site"
    plant_exams(root)
    secret = b"0123456789abcdef"
    import_site("hospital", root, site, SITE, OPTIONS, secret=secret)
    prepare_site(site, root, PLAN.preprocessing)
    return folder


@pytest.fixture
def prepared(hospital: Path, tmp_path: Path) -> tuple[Path, Snapshot]:
    """A copy of the site that a test may change, and its snapshot."""
    site = Path(shutil.copytree(hospital / "site", tmp_path / "site"))
    return site, open_snapshot(site, PLAN.preprocessing)


def _run(snapshot: Snapshot, folder: Path) -> tuple[Path, Path]:
    """Run two rounds; return the site's folders of state and models."""
    run_in_process(PLAN, {SITE: {SITE: snapshot}}, folder, MACHINE, synthetic=True)
    site = folder / "sites" / SITE
    return site / "state", site / "models"


def _patient_of(part: str, snapshot: Snapshot) -> str:
    keys = snapshot.rows["patient_key"]
    return str(keys[assign_split(keys, PLAN.split) == part].iloc[0])


def test_rounds_and_models_are_listed_with_the_part(
    prepared: tuple[Path, Snapshot], tmp_path: Path
) -> None:
    site, snapshot = prepared
    state, models = _run(snapshot, tmp_path / "run")
    written = {path.parent for path in models.glob("*/*/model.json")}
    assert written
    for part in ("train", "validation", "test"):
        uses = uses_of(site, _patient_of(part, snapshot), state, models)
        rounds = [use for use in uses if use.model is None]
        run = next(path.name for path in state.iterdir() if path.is_dir())
        assert rounds == [Use(run, PLAN.id, "1 to 2", part, certain=True)]
        assert {use.model for use in uses} - {None} == written
        assert {use.part for use in uses} == {part}


def test_a_run_on_the_next_snapshot_has_not_used_the_patient(
    prepared: tuple[Path, Snapshot], hospital: Path, tmp_path: Path
) -> None:
    site, old = prepared
    key = _patient_of("test", old)
    before = _run(old, tmp_path / "before")
    assert withdraw(site, key) and not withdraw(site, key)
    new = prepare_site(site, hospital / "archive", PLAN.preprocessing)
    after = _run(new, tmp_path / "after")
    assert uses_of(site, key, *after) == []
    assert caches_with(site, key) == [old.folder]
    assert all(use.certain for use in uses_of(site, key, *before))
    assert delete_copies(site, caches_with(site, key)) == [old.folder]
    assert not old.folder.exists() and new.folder.is_dir()
    # Nobody can look any more, so the patient counts as used; the new run does not.
    assert {use.certain for use in uses_of(site, key, *before)} == {False}
    assert uses_of(site, key, *after) == []


def test_a_run_without_a_record_counts_as_having_used_the_patient(
    prepared: tuple[Path, Snapshot], tmp_path: Path
) -> None:
    site, snapshot = prepared
    state, _ = _run(snapshot, tmp_path / "run")
    next(state.rglob("snapshots.json")).unlink()
    next(state.glob("plan-*.json")).unlink()
    key = _patient_of("train", snapshot)
    (use,) = uses_of(site, key, state, tmp_path / "no models")
    assert (use.rounds, use.part, use.certain) == ("1 to 2", "unknown", False)
    assert PLAN.hash.startswith(use.plan)


def test_an_unfinished_cache_counts_as_holding_everybody(
    prepared: tuple[Path, Snapshot],
) -> None:
    site, snapshot = prepared
    (snapshot.folder / "snapshot.json").unlink()
    assert caches_with(site, _patient_of("train", snapshot)) == [snapshot.folder]


def test_the_last_check_goes_with_the_caches(prepared: tuple[Path, Snapshot]) -> None:
    site, snapshot = prepared
    (site / "check.html").write_text("images")
    deleted = delete_copies(site, [snapshot.folder])
    assert deleted == [snapshot.folder, site / "check.html"]
    assert not any(path.exists() for path in deleted)


def test_a_patient_is_found_by_the_identifier_of_the_headers(
    prepared: tuple[Path, Snapshot],
) -> None:
    site, _ = prepared
    keys = {find_patient(site, f" ZQ7XPATI{n:03d}") for n in range(PATIENTS)}
    assert len(keys) == PATIENTS
    assert keys <= set(read_manifest(site)["patient_key"].dropna())


def test_an_exam_stands_for_a_patient_where_there_is_none(
    tmp_path: Path,
) -> None:
    root, site = tmp_path / "archive", tmp_path / "site"
    root.mkdir()
    content = dicom_files.image(PatientID=None, StudyInstanceUID="1.2.3.5")
    (root / "image").write_bytes(content)
    import_site("hospital", root, site, SITE, {"dataset": "test"})
    key = find_patient(site, "1.2.3.5")
    assert list(read_manifest(site)["patient_key"]) == [key]


def test_an_unknown_patient_is_not_repeated(prepared: tuple[Path, Snapshot]) -> None:
    site, _ = prepared
    with pytest.raises(UnknownPatientError, match="exactly as") as caught:
        find_patient(site, "Anna Smith")
    assert "Anna" not in str(caught.value)


def test_a_lost_secret_is_not_replaced(prepared: tuple[Path, Snapshot]) -> None:
    site, _ = prepared
    (site / SECRET_FILE).unlink()
    with pytest.raises(SecretError, match="restore"):
        find_patient(site, "ZQ7XPATI000")
    assert not (site / SECRET_FILE).exists()


def test_a_running_preparation_is_waited_for(prepared: tuple[Path, Snapshot]) -> None:
    site, snapshot = prepared
    with locked(site / "cache"), pytest.raises(FolderBusyError):
        withdraw(site, _patient_of("train", snapshot))
