"""``withdraw`` as a person types it."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from client.data.pseudonyms import Pseudonymiser, stored_secret
from tests.support.mammo_client import SMALL, client, make_hospital


@pytest.fixture
def hospital(tmp_path: Path) -> Path:
    """Prepared; the patients P0 to P5 have names that are in no path."""
    folder = make_hospital(tmp_path)
    assert client(folder, "prepare", *SMALL)[0] == 0
    return folder


def _withdrawn(hospital: Path) -> list[str]:
    path = hospital / "data" / "withdrawn.json"
    if not path.is_file():
        return []
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    return list(json.loads(path.read_bytes()))


def test_a_patient_withdraws_and_is_out_of_the_next_snapshot(hospital: Path) -> None:
    code, said = client(hospital, "withdraw", "P1", "--yes")
    assert code == 0 and "The patient has withdrawn." in said
    assert "No round and no model" in said and "still hold the patient" in said
    pseudonymiser = Pseudonymiser(stored_secret(hospital / "data"))
    assert _withdrawn(hospital) == [pseudonymiser.patient("P1")]
    code, said = client(hospital, "prepare", *SMALL)
    assert code == 0 and "5 images in" in said and "1 X_WITHDRAWN" in said
    code, said = client(hospital, "withdraw", "P1")
    assert code == 0 and "Withdrawn already." in said
    assert len(_withdrawn(hospital)) == 1


def test_nobody_withdraws_without_a_yes(hospital: Path) -> None:
    code, _ = client(hospital, "withdraw", "P1", typed="n\n")
    assert code == 1 and _withdrawn(hospital) == []
    code, _ = client(hospital, "withdraw", "P1", typed="y\n")
    assert code == 0 and len(_withdrawn(hospital)) == 1


def test_the_patient_may_be_typed_unseen_and_is_never_printed(hospital: Path) -> None:
    code, said = client(hospital, "withdraw", "--yes", typed="P1\n")
    assert code == 0 and len(_withdrawn(hospital)) == 1
    code, also = client(hospital, "withdraw", "ANNA^SMITH", "--yes")
    assert code == 2 and "is of this patient" in also and "ANNA" not in also
    assert "P1" not in said.replace(str(hospital), "")


def test_caches_are_deleted_when_asked_only(hospital: Path) -> None:
    (old,) = [path for path in (hospital / "data" / "cache").iterdir() if path.is_dir()]
    client(hospital, "withdraw", "P1", "--yes")
    assert client(hospital, "prepare", *SMALL)[0] == 0
    assert old.is_dir()
    code, said = client(hospital, "withdraw", "P1", "--delete-caches")
    assert code == 0 and f"Deleted: {old}" in said and not old.exists()
    code, said = client(hospital, "withdraw", "P1", "--delete-caches")
    assert code == 0 and "nothing was left" in said
    code, said = client(hospital, "prepare", *SMALL)
    assert code == 0 and "5 images in" in said


def test_the_parser_repeats_no_part_of_a_name(tmp_path: Path) -> None:
    hospital = make_hospital(tmp_path, images=1)
    client(hospital, "prepare", *SMALL)
    for words in (("SMITH", "ANNA"), ("--anna",), ("-4711",)):
        code, said = client(hospital, "withdraw", *words)
        assert code == 2
        assert not any(word.strip("-") in said for word in words)
