"""A site's settings: one file, every key checked, no traceback."""

from __future__ import annotations

from pathlib import Path

import pytest

from client.site import SiteError, read_site
from tests.support.mammo_client import SETTINGS, write_settings

EXAMPLE = Path(__file__).parents[2] / "configs" / "examples" / "hctp.yaml"


def _write(folder: Path, text: str = SETTINGS, name: str = "north") -> Path:
    write_settings(folder, text, name)
    return folder


def test_relative_paths_start_at_the_folder_of_the_file(tmp_path: Path) -> None:
    site = read_site(_write(tmp_path), "north")
    assert site.archive.resolve() == tmp_path / "archive"
    assert site.folder.resolve() == tmp_path / "data"
    assert site.state_folder == site.folder / "federation"
    assert site.options == {"dataset": "ours"} and site.workers == 1
    elsewhere = read_site(_write(tmp_path, SETTINGS + "state: /elsewhere\n"), "north")
    assert elsewhere.state_folder == Path("/elsewhere")


def test_the_example_is_complete(tmp_path: Path) -> None:
    write_settings(tmp_path, EXAMPLE.read_text(), "hctp")
    site = read_site(tmp_path, "hctp")
    assert site.importer == "hospital" and site.options["dataset"] == "hctp"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("archiv: x", r"archiv: no such key\n.*keys are: site, importer, archive"),
        ("workers: none", "workers: "),
        ("workers: 0", "workers: "),
        ("health_port: 0", "health_port: "),
        ("health_port: 65536", "health_port: "),
        ("importer: hospitl", "importer: no importer of this name. There are: cbis"),
        ("site: south", "site is south, but the file is north.yaml"),
        ("folder: ../archive/data", "lies in the archive"),
        ("options: []", "options: "),
        ("site: [", r"no YAML that can be read \(\w+ at line \d\)"),
    ],
)
def test_a_wrong_value_is_named_with_its_key(
    tmp_path: Path, change: str, told: str
) -> None:
    kept = [
        line
        for line in SETTINGS.splitlines()
        if line.split(":")[0] != change.split(":")[0] or "[" in change
    ]
    _write(tmp_path, "\n".join([*kept, change]))
    with pytest.raises(SiteError, match=told):
        read_site(tmp_path, "north")


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    _write(tmp_path, "site: north\n")
    with pytest.raises(SiteError, match=r"importer: Field required\n.*archive: Field"):
        read_site(tmp_path, "north")


@pytest.mark.parametrize("name", ["sth", "../north", "NORTH", ""])
def test_an_unknown_site_is_answered_by_those_there_are(
    tmp_path: Path, name: str
) -> None:
    _write(tmp_path)
    with pytest.raises(SiteError, match="There are: north"):
        read_site(tmp_path, name)


def test_without_any_site_one_is_told_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(
        SiteError, match="There is none yet: mammo-client --site NAME init"
    ):
        read_site(tmp_path, "north")


@pytest.mark.parametrize(
    "line", ["state: ../archive/here", "folder: ../archive/../archive/x"]
)
def test_nothing_of_ours_lies_in_the_archive(tmp_path: Path, line: str) -> None:
    key = line.split(":")[0]
    kept = [one for one in SETTINGS.splitlines() if not one.startswith(f"{key}:")]
    _write(tmp_path, "\n".join([*kept, line]))
    with pytest.raises(SiteError, match=f"{key} lies in the archive"):
        read_site(tmp_path, "north")


def test_a_home_of_nobody_is_a_mistake_and_no_bug(tmp_path: Path) -> None:
    _write(tmp_path, SETTINGS.replace("archive: ../archive", "archive: ~nobody-here/x"))
    with pytest.raises(SiteError, match="no user"):
        read_site(tmp_path, "north")
