"""Published tables: found wherever they lie, and never half understood."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from client.data.importers import ImporterError, embed_tables
from client.data.importers.published import find_tables, translate
from client.data.importers.tables import LabelTable, read_rows, read_table
from client.data.importers.workbook import read_workbook


def test_equal_copies_of_a_table_are_all_found(tmp_path: Path) -> None:
    for folder in ("b", "a"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "t.csv").write_text("same")
    (tmp_path / "other.csv").write_text("other")
    (tmp_path / "u.csv").symlink_to(tmp_path / "absent")
    found = find_tables(tmp_path, ["t.csv", "u.csv"])
    assert found == {"t.csv": [tmp_path / "a/t.csv", tmp_path / "b/t.csv"]}


def test_tables_of_one_name_that_differ_are_refused(tmp_path: Path) -> None:
    for folder in ("b", "a"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "t.csv").write_text(folder)
    with pytest.raises(ImporterError, match=r"2 files t\.csv, and they differ"):
        find_tables(tmp_path, ["t.csv"])


def test_absent_archive_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImporterError, match="No archive folder"):
        find_tables(tmp_path / "absent", ["t.csv"])


def test_words_are_translated_and_unknown_ones_counted_but_not_quoted() -> None:
    words = {"YES": 1, "NO": 0, "": None}
    rows = [{"a": "yes"}, {"a": "NO"}, {"a": ""}]
    assert translate(rows, "t.csv", "a", words) == [1, 0, None]
    with pytest.raises(ImporterError, match=r"t\.csv, column a: 1 cells") as caught:
        translate([*rows, {"a": "JANE DOE"}], "t.csv", "a", words)
    assert "JANE" not in str(caught.value)


def _read_embed(path: Path) -> object:
    return embed_tables.read_images(path.parents[1])


READERS: dict[str, Callable[[Path], Any]] = {
    "t.csv": lambda path: read_table(path, ["a"]),
    "u.csv": lambda path: find_tables(path.parent, ["u.csv"]),
    "v.xlsx": lambda path: read_workbook(path, ["a"]),
    "tables/EMBED_OpenData_metadata.csv": _read_embed,
}


@pytest.mark.parametrize("name", READERS)
def test_a_table_that_may_not_be_opened_is_not_called_malformed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("a")
    # Permissions do not hold back a test run by root.
    monkeypatch.setattr(Path, "open", denied)
    monkeypatch.setattr("zipfile.ZipFile", denied)
    monkeypatch.setattr("openpyxl.load_workbook", denied)
    with pytest.raises(ImporterError) as caught:
        READERS[name](path)
    assert str(caught.value) == (
        f"The table {path.name} cannot be opened (Permission denied). Check its "
        "permissions and the disk."
    )


@pytest.mark.parametrize("name", ["t.csv", "tables/EMBED_OpenData_metadata.csv"])
def test_a_published_table_without_a_column_may_be_of_another_download(
    tmp_path: Path, name: str
) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("b\n1\n")
    message = rf"The table {path.name} lacks the columns .*'a.*restore the table"
    with pytest.raises(ImporterError, match=message) as caught:
        READERS[name](path)
    assert "incomplete, of another version" in str(caught.value)
    assert "column map" not in str(caught.value)


def test_a_table_of_ones_own_without_a_column_may_be_mapped_wrongly(
    tmp_path: Path,
) -> None:
    (tmp_path / "t.csv").write_text("b\n1\n")
    table = LabelTable(file="t.csv", key="a", columns={})
    with pytest.raises(ImporterError, match=r"\['a'\].* Correct the column map"):
        read_rows(tmp_path, table)
