"""Published tables: found wherever they lie, and never half understood."""

from __future__ import annotations

from pathlib import Path

import pytest

from client.data.importers import ImporterError
from client.data.importers.published import find_tables, translate


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
