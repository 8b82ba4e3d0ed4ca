"""``mammo-data`` as a person types it: import, prepare, show, and mistakes."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from client.data import site_data
from client.data.importers import image_folder
from client.data.importers.tables import read_options
from client.data.manifest import read_manifest
from client.data_command import app
from tests.support.dicom_files import write_archive


def _run(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, " ".join(result.output.split())


@pytest.fixture
def imported(tmp_path: Path) -> tuple[Path, Path, str]:
    """An archive of six images and a broken file, its site folder, what was said."""
    root, out = write_archive(tmp_path / "SMITH^ANNA", 6), tmp_path / "site"
    (root / "broken").write_bytes(b"not DICOM")
    (tmp_path / "options.yaml").write_text("dataset: ours")
    code, said = _run(
        "import", "hospital", root, out, "--options", tmp_path / "options.yaml"
    )
    assert code == 0, said
    return root, out, said


def test_import_accounts_for_every_file(imported: tuple[Path, Path, str]) -> None:
    _, out, said = imported
    assert "7 files" in said and "6 ok" in said and "1 quarantined" in said
    assert "1 Q_NOT_DICOM no DICOM preamble" in said
    assert f"mammo-data check {out}" in said


@pytest.mark.parametrize(
    ("words", "dataset"), [([], "hospital"), (["--site", "north"], "north")]
)
def test_a_hospital_needs_no_options(
    words: list[str], dataset: str, tmp_path: Path
) -> None:
    root, out = write_archive(tmp_path / "archive", 2), tmp_path / "site"
    code, said = _run("import", "hospital", root, out, *words)
    assert code == 0 and "2 ok" in said
    assert set(read_manifest(out)["dataset"]) == {dataset}


@pytest.mark.parametrize(
    ("words", "workers"), [([], os.cpu_count()), (["--workers", 3], 3)]
)
def test_import_has_a_worker_for_each_core_unless_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[object], workers: int
) -> None:
    given: list[int] = []

    def recorded(*values: Any) -> Any:
        given.append(made(*values).workers)
        return made(*values)

    made = site_data.Source
    monkeypatch.setattr(site_data, "Source", recorded)
    root = write_archive(tmp_path / "archive", 2)
    assert _run("import", "hospital", root, tmp_path / "site", *words)[0] == 0
    assert given == [workers]


def test_prepare_finds_the_archive_by_itself(imported: tuple[Path, Path, str]) -> None:
    _, out, _ = imported
    code, said = _run("prepare", out, "--rows", 32, "--columns", 16, "--workers", 1)
    assert code == 0 and "6 images in" in said
    code, again = _run("prepare", out, "--rows", 32, "--columns", 16, "--workers", 1)
    assert code == 0 and "6 images in" in again


def test_prepare_tells_by_its_status_that_too_many_images_failed(
    tmp_path: Path,
) -> None:
    root, out = write_archive(tmp_path / "archive", 6), tmp_path / "site"
    for cut in sorted(path for path in root.rglob("*") if path.is_file())[:2]:
        cut.write_bytes(cut.read_bytes()[:-900])
    assert _run("import", "hospital", root, out)[0] == 0
    small = ("--rows", 32, "--columns", 16, "--workers", 1)
    code, said = _run("prepare", out, *small)
    assert code == 3 and "4 images in" in said
    assert "2 of 6 images could not be prepared, more than 10%" in said
    assert _run("prepare", out, *small, "--max-failures", 0.34)[0] == 0
    assert _run("prepare", out, *small, "--max-failures", 0.33)[0] == 3


def test_prepare_is_told_where_a_moved_archive_is(
    imported: tuple[Path, Path, str],
) -> None:
    root, out, _ = imported
    moved = root.rename(root.with_name("moved"))
    small = ("--rows", 32, "--columns", 16, "--workers", 1)
    assert _run("prepare", out, *small, "--archive", moved)[0] == 0


def test_show_tells_vendors_views_and_labels(imported: tuple[Path, Path, str]) -> None:
    code, said = _run("show", imported[1])
    assert code == 0 and "6 usable images of 6 patients" in said
    assert "hologic 6" in said and "CC 6" in said and "unknown 6" in said


def test_where_the_archive_was_is_part_of_the_linkage(
    imported: tuple[Path, Path, str],
) -> None:
    root, out, said = imported
    naming = [path for path in out.iterdir() if root.name.encode() in path.read_bytes()]
    assert [path.name for path in naming] == ["linkage.json"]
    assert stat.S_IMODE(naming[0].stat().st_mode) == 0o600
    assert root.name not in said


def test_the_same_import_again_changes_nothing(
    imported: tuple[Path, Path, str], tmp_path: Path
) -> None:
    root, out, _ = imported
    options = tmp_path / "options.yaml"
    code, said = _run("import", "hospital", root, out, "--options", options)
    assert code == 0 and "It held exactly this already" in said
    (root / "image0000").unlink()
    code, said = _run("import", "hospital", root, out, "--options", options)
    assert code == 2 and "already holds another import" in said


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["import", "hospitl", "{tmp}", "{tmp}/out"], "No importer hospitl. There are"),
        (["import", "rsna", "{tmp}/nowhere", "{tmp}/out"], "No archive folder"),
        (["prepare", "{tmp}/nothing"], "holds no import. Run mammo-data import"),
        (["show", "{tmp}/nothing"], "Import the archive first"),
        (["prepare", "{tmp}/nothing", "--plan", "{tmp}/plan.json"], "plan.json"),
    ],
)
def test_a_mistake_is_answered_by_a_sentence(
    words: list[str], told: str, tmp_path: Path
) -> None:
    code, said = _run(*(word.format(tmp=tmp_path) for word in words))
    assert code == 2 and told in said and "Traceback" not in said


@pytest.mark.parametrize("inside", ["", "deep/er", "../archive/site"])
def test_an_archive_is_not_written_into(tmp_path: Path, inside: str) -> None:
    root = write_archive(tmp_path / "archive", 1)
    linked = tmp_path / "linked"
    linked.symlink_to(root)
    for out in (root / inside, linked / inside):
        code, said = _run("import", "hospital", root, out)
        assert code == 2 and "Choose a folder outside the archive" in said
    assert [path.name for path in root.iterdir()] == ["image0000"]


@pytest.mark.parametrize("below", ["", "site"])
def test_a_file_in_the_place_of_the_data_folder_is_named(
    tmp_path: Path, below: str
) -> None:
    root = write_archive(tmp_path / "archive", 1)
    (tmp_path / "notes").write_text("words")
    code, said = _run("import", "hospital", root, tmp_path / "notes" / below)
    assert code == 2 and f"{tmp_path / 'notes'} is no folder" in said
    assert "Choose another folder" in said


@pytest.mark.parametrize("prepared", [False, True])
def test_a_folder_that_may_not_be_written_is_named(
    imported: tuple[Path, Path, str], monkeypatch: pytest.MonkeyPatch, prepared: bool
) -> None:
    root, out, _ = imported
    if prepared:
        (out / "cache").mkdir()
    # Permissions do not hold back a test that root runs.
    monkeypatch.setattr(
        "client.data.site_folder.os.access", lambda path, mode: path != out
    )
    for words in (["import", "hospital", root, out], ["prepare", out], ["check", out]):
        code, said = _run(*words)
        assert code == 2 and f"You may not write into {out}." in said
        assert "Change its permissions" in said


@pytest.mark.parametrize("verb", ["show", "prepare", "check"])
def test_a_damaged_manifest_is_named_with_a_remedy(
    imported: tuple[Path, Path, str], verb: str
) -> None:
    out = imported[1]
    (out / "manifest.parquet").write_bytes(b"PAR1 and no more")
    code, said = _run(verb, out)
    assert code == 2 and f"{out / 'manifest.parquet'} is damaged" in said
    assert "backup" in said and "bug" not in said


def test_a_manifest_that_may_not_be_read_is_named(
    imported: tuple[Path, Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    out = imported[1]
    monkeypatch.setattr("client.data.manifest.pd.read_parquet", denied)
    code, said = _run("show", out)
    assert code == 2 and f"You may not read {out / 'manifest.parquet'}." in said
    assert "Work as the user who imported" in said


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (b"dataset: ours\ntable: {file: a\n", "no YAML in UTF-8: line 3, column 1."),
        (b"dataset: ours\nfilm: yes: no\n", "no YAML in UTF-8: line 2, column 10."),
        (b"dataset: \xff\n", "no YAML in UTF-8. Look for"),
    ],
)
def test_the_line_where_options_are_no_yaml_is_told(
    tmp_path: Path, text: bytes, place: str
) -> None:
    root, options = write_archive(tmp_path / "archive", 1), tmp_path / "options.yaml"
    options.write_bytes(text)
    code, said = _run("import", "hospital", root, tmp_path, "--options", options)
    assert code == 2 and f"{options} are {place}" in said


def test_options_that_are_absent_are_told_by_name(tmp_path: Path) -> None:
    root, options = write_archive(tmp_path / "archive", 1), tmp_path / "options.yaml"
    code, said = _run("import", "hospital", root, tmp_path, "--options", options)
    assert code == 2 and f"{options}: No such file or directory. Correct" in said


def test_an_importer_that_needs_options_shows_where_and_an_example(
    tmp_path: Path,
) -> None:
    (tmp_path / "archive").mkdir()
    code, said = _run("import", "image_folder", tmp_path / "archive", tmp_path / "out")
    assert code == 2 and "dataset: Field required" in said
    assert "--options FILE" in said and "client/data/importers/image_folder.py" in said
    assert "For example: dataset: ours table: file: labels.csv" in said
    example = yaml.safe_load(image_folder._EXAMPLE)
    read_options(image_folder.ImageFolderOptions, example, "image_folder")


def test_a_bug_is_told_without_any_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise KeyError("CANARY")

    monkeypatch.setattr("client.commands.shared.import_site", broken)
    code, said = _run("import", "hospital", tmp_path, tmp_path / "out")
    assert code == 1 and "KeyError at" in said and "CANARY" not in said


def test_progress_counts_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from client.data.site_data import import_site

    seen: list[tuple[int, int]] = []
    progress: Callable[[int, int], None] = lambda *at: seen.append(at)  # noqa: E731
    root = write_archive(tmp_path / "archive", 3)
    import_site(
        "hospital", root, tmp_path / "out", "ours", {"dataset": "x"}, progress=progress
    )
    assert seen[0] == (0, 3) and seen[-1] == (3, 3)
