"""Facts as the tables of a public archive state them, and the images they are about."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from string import Formatter
from typing import Any, NamedTuple

from client.data.importers.files import Found, ImporterError
from client.data.importers.tables import LabelTable, read_table, table_facts

ASSUMED_NORMAL = {
    "cancer_pathology": 0,
    "pathology_class": "normal",
    "label_level": "breast",
    "label_source": "assumed",
}
"""Facts of a breast that no row is about, beside one that has a row, by option only."""


class Row(NamedTuple):
    """One row of a table: its stripped texts by column, and what they state."""

    texts: dict[str, str]
    facts: dict[str, Any]


def stated(texts: Sequence[dict[str, str]], name: str, table: LabelTable) -> list[Row]:
    """Translate rows to manifest facts; what a row leaves open is left out.

    Parameters
    ----------
    texts : stripped texts by column, one for each row
    name : file name, for the error
    table : what the columns mean

    Raises
    ------
    ImporterError
        If a cell holds an unknown word; the text names column and lines only.
    """
    try:
        facts = table_facts(list(texts), table)
    except ImporterError as error:
        raise ImporterError(
            f"The table {name} is not as published: restore it. {error}"
        ) from None
    return [
        Row(row, {key: value for key, value in known.items() if value is not None})
        for row, known in zip(texts, facts, strict=True)
    ]


def rows_by_path(
    root: Path, table: LabelTable, place: str, others: Collection[str] = ()
) -> dict[str, Row]:
    """Read a table whose rows name an image each.

    Parameters
    ----------
    root : the archive
    table : its file lies directly in the archive
    place : where an image is, columns in braces: ``images/{study_id}/{image_id}.dcm``
    others : further columns that the importer reads

    Returns
    -------
    path of the image, relative to the archive -> row

    Raises
    ------
    ImporterError
        If the table or a column is missing, a word is unknown, or an image is named
        more than once.
    """
    names = {name for _, name, _, _ in Formatter().parse(place) if name}
    texts = read_table(
        root / table.file, names | {*others} | set(table.columns.values())
    )
    rows = {
        place.format_map(row.texts): row for row in stated(texts, table.file, table)
    }
    if len(rows) < len(texts):
        raise ImporterError(
            f"The table {table.file} names {len(texts) - len(rows)} images more than "
            "once. Restore it as it was published."
        )
    return rows


def take_rows(files: Sequence[Found], rows: Mapping[str, Row]) -> dict[str, int]:
    """Give each image what its row states; side and view of the table win.

    A header that names another side is remarked as ``W_SIDE``.

    Returns
    -------
    counts ``table_rows_unmatched`` and ``files_unmatched``
    """
    matched = files_unmatched = 0
    for file in files:
        row = rows.get(file.path.as_posix())
        if row is None:
            files_unmatched += file.verdict is None
            continue
        matched += 1
        side = file.facts.get("laterality")
        if side and side != row.facts.get("laterality", side):
            file.remarks.add("W_SIDE")
        file.facts |= row.facts
    return {
        "table_rows_unmatched": len(rows) - matched,
        "files_unmatched": files_unmatched,
    }
