"""Tables that are published as workbooks."""

from __future__ import annotations

import re
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from client.data.importers.files import ImporterError
from client.data.importers.workbook import read_workbook

LINES: list[list[Any]] = [
    [" ID ", "n", "truth"],
    ["P1", 3, " Benign "],
    ["P2", None, "Malignant"],
    ["P3"],
]
ROWS = [
    {"ID": "P1", "n": "3", "truth": "Benign"},
    {"ID": "P2", "n": "", "truth": "Malignant"},
    {"ID": "P3", "n": "", "truth": ""},
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    for line in LINES:
        book.active.append(line)
    book.create_sheet("notes").append(["JANE DOE"])
    book.save(tmp_path / "truth.xlsx")
    return tmp_path / "truth.xlsx"


def test_first_sheet_is_read_as_stripped_texts(path: Path) -> None:
    assert read_workbook(path, ["ID", "truth"]) == ROWS


def test_a_sheet_is_read_by_its_name(path: Path) -> None:
    assert read_workbook(path, [], "notes") == []
    assert read_workbook(path, ["ID", "truth"], "Sheet") == ROWS


def test_a_missing_sheet_is_named_and_the_others_are_not(path: Path) -> None:
    with pytest.raises(ImporterError, match=r"truth.xlsx has no sheet all") as caught:
        read_workbook(path, ["ID"], "all")
    assert "notes" not in str(caught.value)


def test_a_wrong_declared_size_hides_no_row_and_no_column(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    sheet = "xl/worksheets/sheet1.xml"
    wrong = b'<dimension ref="A1:B2"'
    parts[sheet], changed = re.subn(rb'<dimension ref="[^"]*"', wrong, parts[sheet])
    assert changed == 1
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    assert read_workbook(path, ["ID", "truth"]) == ROWS


def test_a_missing_column_is_named(path: Path) -> None:
    with pytest.raises(ImporterError, match=r"truth.xlsx lacks the columns \['side'\]"):
        read_workbook(path, ["ID", "side"])


@pytest.mark.parametrize("kept", [0, 10, -200])
def test_a_broken_workbook_is_an_error_with_a_remedy(path: Path, kept: int) -> None:
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ImporterError, match=r"cannot be read .* Download it again"):
        read_workbook(path, ["ID"])


def test_a_text_with_the_name_of_a_workbook_is_not_quoted(path: Path) -> None:
    path.write_text("ID,truth\nJANE DOE,Benign\n")
    with pytest.raises(ImporterError, match=r"truth.xlsx cannot be read") as caught:
        read_workbook(path, ["ID"])
    assert "JANE" not in str(caught.value) and "Traceback" not in str(caught.value)


def test_without_the_package_the_remedy_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(ImporterError, match="Install it, or save the table"):
        read_workbook(tmp_path / "truth.xlsx", ["ID"])
