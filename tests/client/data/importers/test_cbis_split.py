"""CBIS-DDSM: that its official split leaks, and was repaired, is told everywhere."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest
from typer.testing import CliRunner

from client.data.importers.cbis_cases import TABLES
from client.data_command import app

HEAD = (
    "patient_id,breast density,left or right breast,image view,abnormality id,"
    "assessment,pathology"
)
TOLD = "patients were in both official parts"
WHY = "they are kept in train, so that none is in two"


def _type(*words: object) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


@pytest.mark.parametrize("leaks", [True, False])
def test_a_repaired_split_is_told_by_import_show_and_check(
    tmp_path: Path, dicom: ModuleType, leaks: bool
) -> None:
    root, site = tmp_path / "archive", tmp_path / "site"
    image = root / "Calc-Training_P_00001_LEFT_CC" / "1-1.dcm"
    image.parent.mkdir(parents=True)
    image.write_bytes(dicom.image(dicom.phantom()))
    row = "P_00001,3,LEFT,CC,1,4,BENIGN"
    for table, part in TABLES.items():
        here = leaks or part == "train"
        (root / table).write_text(f"{HEAD}\n{row}" if here else HEAD)
    said = _type("import", "cbis_ddsm", root, site), _type("show", site)
    assert [f"1 {TOLD} {WHY}" in one for one in said] == [leaks, leaks]
    _type("check", site, "--workers", 1)
    told = [
        (problem["what"], problem["count"], problem["severity"])
        for problem in json.loads((site / "check.json").read_bytes())["problems"]
        if problem["code"] == "patients_moved_to_train"
    ]
    assert told == ([(f"{TOLD}; {WHY}", 1, "note")] if leaks else [])
    assert (f"{TOLD}; {WHY}" in (site / "check.html").read_text()) == leaks
