"""A small hospital with settings, and ``mammo-client`` as a person types it."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from client.cli import app
from tests.support.dicom_files import write_archive

SMALL = ("--rows", 32, "--columns", 16)
SETTINGS = """\
site: north
importer: hospital
archive: ../archive
folder: ../data
workers: 1
options: {dataset: ours}
"""

TABLE = """\
options:
  dataset: ours
  join: relative_path
  table:
    file: labels.csv
    key: file
    columns: {cancer_pathology: sick}
    level: breast
    source: pathology
"""


def make_hospital(folder: Path, images: int = 6) -> Path:
    """Write archive and settings of a site ``north``; patients are P0, P1, ..."""
    write_archive(folder / "archive", images)
    write_settings(folder, SETTINGS)
    return folder


def add_labels(folder: Path, images: int) -> None:
    """Give every image of `make_hospital` a label; every third is positive."""
    rows = [f"image{number:04d},{int(number % 3 == 0)}" for number in range(images)]
    (folder / "archive" / "labels.csv").write_text("\n".join(["file,sick", *rows]))
    settings = SETTINGS.replace("options: {dataset: ours}\n", TABLE)
    write_settings(folder, settings)


def write_settings(folder: Path, text: str, name: str = "north") -> Path:
    """Write the settings of a site; return their file."""
    file = folder / "site" / f"{name}.yaml"
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    return file


def client(folder: Path, *words: object, typed: str = "") -> tuple[int, str]:
    """Run a verb for site ``north``; return the exit code and all that was said."""
    return command("--config-dir", folder, "--site", "north", *words, typed=typed)


def command(*words: object, typed: str = "") -> tuple[int, str]:
    """Run ``mammo-client`` with these words."""
    result = CliRunner().invoke(app, [str(word) for word in words], input=typed)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, " ".join(result.output.split())
