"""The coordinator's ``verify`` as a person types it."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from common.audit import FOLDER, LOG_FILE, open_log
from common.keys import make_key
from server.audit_command import app
from server.audit_trail import coordinator_key


def verify(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(word) for word in words])
    return result.exit_code, " ".join(result.output.split())


def test_a_coordinators_log_is_checked_alone_and_beside_a_sites(tmp_path: Path) -> None:
    run = tmp_path / "plan"
    run.mkdir()
    asked = {"did": "asked", "site": "north", "run": "r", "round": 1}
    site = tmp_path / "north"
    key = coordinator_key(run)
    with (
        open_log(run / FOLDER, key, "coordinator", "coordinator") as hub,
        open_log(site, make_key(tmp_path / "north.key"), "site", "north") as north,
    ):
        north.append(asked | {"head": hub.append(asked)})
    assert verify(run)[0] == 0
    code, said = verify(run, "--peer", site / LOG_FILE)
    assert code == 0 and "Compared: 1 messages. Nothing was changed." in said

    log = run / FOLDER / LOG_FILE
    log.write_bytes(log.read_bytes().splitlines(keepends=True)[0])
    assert verify(run)[0] == 0, "alone it cannot show"
    code, said = verify(run, "--peer", site / LOG_FILE)
    assert code == 1 and "no message in common" in said


def test_a_folder_without_a_run_is_one_sentence(tmp_path: Path) -> None:
    code, said = verify(tmp_path / "nothing")
    assert code == 2 and "No such file" in said


def test_the_coordinators_key_is_made_once_for_all_runs_beside_it(
    tmp_path: Path,
) -> None:
    one, other = coordinator_key(tmp_path / "a"), coordinator_key(tmp_path / "b")
    assert one.private_numbers() == other.private_numbers()
    file = tmp_path / "audit.key"
    assert file.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
