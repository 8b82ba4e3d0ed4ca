"""An archive on its whole way, as a person types it: import, check, prepare."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml
from typer.testing import CliRunner

from client.data.manifest import read_linkage, read_manifest
from client.data_command import app


def goes_through(importer: str, root: Path, folder: Path, **options: Any) -> int:
    """Take an archive through, hold its counts together, return the prepared images.

    Parameters
    ----------
    folder : of the site; outside the archive
    options : of the importer
    """
    file = folder.with_suffix(".yaml")
    file.write_text(yaml.safe_dump(options))
    _type("import", importer, root, folder, "--options", file)
    _type("check", folder, "--workers", 1)
    document = json.loads((folder / "check.json").read_bytes())
    parts = [document[name] for name in ("cached", "excluded", "quarantined")]
    assert document["found"] == sum(parts) == len(read_linkage(folder)) > 0
    text = (folder / "check.html").read_text()
    assert "data:image/png" in text and str(root) not in text
    # Another size than the check's, so that it is made and not found there.
    said = _type("prepare", folder, "--workers", 1, "--rows", 96, "--columns", 48)
    prepared = int(re.findall(r"(\d+) images in", said)[0])
    status = read_manifest(folder)["status"].value_counts()
    assert sum(status) == document["found"]
    assert 0 < prepared <= status["ok"] == document["cached"]
    return prepared


def _type(*words: object) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result.output
