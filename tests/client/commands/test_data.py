"""``check`` and ``prepare`` with a site's settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from client.data import site_data
from client.data.site_data import site_counts
from tests.support.mammo_client import (
    SETTINGS,
    SMALL,
    client,
    make_hospital,
    write_settings,
)


def test_prepare_imports_first_and_says_so(tmp_path: Path) -> None:
    hospital = make_hospital(tmp_path)
    code, said = client(hospital, "prepare", *SMALL)
    assert code == 0 and "Nothing is imported yet" in said and "6 images in" in said
    assert site_counts(hospital / "data")["ok"] == 6
    code, said = client(hospital, "prepare", *SMALL)
    assert code == 0 and "imported yet" not in said and "6 images in" in said


@pytest.mark.parametrize(("words", "workers"), [([], 1), (["--workers", 2], 2)])
def test_the_import_has_the_workers_of_the_preparation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[Any], workers: int
) -> None:
    given: list[int] = []

    def recorded(*values: Any) -> Any:
        given.append(made(*values).workers)
        return made(*values)

    made = site_data.Source
    monkeypatch.setattr(site_data, "Source", recorded)
    assert client(make_hospital(tmp_path), "prepare", *SMALL, *words)[0] == 0
    assert given == [workers]


def test_check_comes_first_too_and_leaves_a_page(tmp_path: Path) -> None:
    hospital = make_hospital(tmp_path, images=2)
    code, said = client(hospital, "check")
    assert code == 0 and "2 found, 2 cached" in said
    assert (hospital / "data" / "check.html").is_file()


def test_without_a_coordinator_only_the_data_is_checked(tmp_path: Path) -> None:
    hospital = make_hospital(tmp_path, images=1)
    code, said = client(hospital, "check")
    assert code == 0 and "accelerator" not in said
    code, said = client(hospital, "check", "--no-data")
    assert code == 2 and "settings of north name no coordinator" in said


def test_options_of_the_importer_come_from_the_settings(tmp_path: Path) -> None:
    hospital = make_hospital(tmp_path, images=1)
    write_settings(hospital, SETTINGS.replace("dataset", "datasett"))
    code, said = client(hospital, "prepare")
    assert code == 2 and "options of importer hospital are not valid" in said
    assert "datasett" in said


def test_a_changed_setting_is_not_overlooked(tmp_path: Path) -> None:
    hospital = make_hospital(tmp_path, images=2)
    client(hospital, "prepare", *SMALL)
    changed = SETTINGS.replace("dataset: ours", "dataset: theirs")
    write_settings(hospital, changed)
    code, said = client(hospital, "prepare", *SMALL)
    assert code == 2 and "reading again" in said and "secret.key" in said
    write_settings(hospital, changed.replace("folder: ../data", "folder: ../new"))
    assert client(hospital, "prepare", *SMALL)[0] == 0


def test_two_sizes_at_once_and_a_size_that_is_none(tmp_path: Path) -> None:
    hospital = make_hospital(tmp_path, images=2)
    code, said = client(hospital, "prepare", *SMALL, "--also", "64x32")
    assert code == 0 and said.count("2 images in") == 2
    code, said = client(hospital, "prepare", *SMALL, "--also", "64")
    assert code == 2 and "ROWSxCOLUMNS" in said
