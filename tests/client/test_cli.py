"""``mammo-client``: the site is chosen once, verbs are its sub-commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.mammo_client import (
    SETTINGS,
    SMALL,
    client,
    command,
    make_hospital,
    write_settings,
)


def test_a_node_without_a_coordinator_says_what_is_missing(tmp_path: Path) -> None:
    code, said = client(make_hospital(tmp_path))
    assert code == 2 and "settings of north name no coordinator" in said


def test_a_node_with_a_spoilt_key_says_so_and_starts_nothing(tmp_path: Path) -> None:
    hospital = make_hospital(tmp_path)
    keys = "{address: 'here:1', certificates: ../ca.crt, key: ../key}"
    write_settings(hospital, SETTINGS + f"coordinator: {keys}\n")
    (hospital / "ca.crt").touch()
    code, said = client(hospital)
    assert code == 2 and "which should hold the site's private key" in said
    (hospital / "key").write_text("no key")
    code, said = client(hospital)
    assert code == 2 and "holds no key without passphrase" in said


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--site", "nort", "prepare"], "No site 'nort' in"),
        (["--site", "nort", "audit", "phi"], "There are: north."),
        (["check"], "Which site? Type mammo-client --site NAME"),
        (["withdraw", "P1", "--yes"], "There are: north."),
        (["--site", "north", "withdraw", "P1"], "Import the archive first"),
        (["--site", "north", "prepare", "--plan", "no.json"], "No plan at no.json"),
    ],
)
def test_a_mistake_is_answered_by_a_sentence(
    tmp_path: Path, words: list[str], told: str
) -> None:
    code, said = command("--config-dir", make_hospital(tmp_path), *words)
    assert code == 2 and told in said and "Traceback" not in said


def test_help_of_a_verb_needs_no_site() -> None:
    code, said = command("prepare", "--help")
    assert code == 0 and "--plan" in said


def test_settings_are_found_in_the_users_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mammofed").mkdir()
    make_hospital(tmp_path / "mammofed")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    code, said = command("--site", "north", "prepare", *SMALL)
    assert code == 0 and "6 images in" in said
