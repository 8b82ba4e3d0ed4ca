"""Read a table that is published as a workbook (xlsx)."""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Collection
from itertools import zip_longest
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

from client.data.importers.files import ImporterError, unopened

# Of SyntaxError are the errors of both XML parsers that openpyxl may find; its own
# descriptors raise TypeError and AttributeError at sheets that they dislike.
_UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    SyntaxError,
    BadZipFile,
    zlib.error,
)


def read_workbook(
    path: Path, wanted: Collection[str], sheet: str | None = None
) -> list[dict[str, str]]:
    """Read all rows of a sheet as stripped texts; line 1 names the columns.

    Parameters
    ----------
    path : the workbook
    wanted : columns that must be there
    sheet : name of the sheet; None = the first one

    Raises
    ------
    ImporterError
        If the workbook cannot be read, or the sheet or a wanted column is missing.
    """
    part = f"the sheet {sheet}" if sheet else "the table"
    try:
        from openpyxl import load_workbook
    except ImportError:
        raise ImporterError(
            f"The table {path.name} is a workbook; reading it needs the package "
            f"openpyxl. Install it, or save {part} as a CSV file of the same name."
        ) from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            book = load_workbook(path, read_only=True, data_only=True)
            pages = [one for one in book.worksheets if sheet in (None, one.title)]
            lines = _lines(pages[0]) if pages else []
            book.close()
    except PermissionError as error:
        raise unopened(path, error) from None
    except _UNREADABLE as error:
        raise ImporterError(
            f"The table {path.name} cannot be read as a workbook "
            f"({type(error).__name__}). Download it again, or save {part} as a CSV "
            "file of the same name."
        ) from None
    if not pages:
        raise ImporterError(
            f"The table {path.name} has no sheet {sheet or 'at all'}. Restore it as "
            "it was published."
        )
    names = lines[0] if lines else []
    if missing := sorted(set(wanted) - set(names)):
        raise ImporterError(
            f"The table {path.name} lacks the columns {missing}; it has {len(names)} "
            "columns. Restore it as it was published."
        )
    return [
        dict(zip_longest(names, line[: len(names)], fillvalue="")) for line in lines[1:]
    ]


def _lines(page: Any) -> list[list[str]]:
    page.reset_dimensions()  # the size that a file declares may be wrong
    return [
        ["" if cell is None else str(cell).strip() for cell in line]
        for line in page.iter_rows(values_only=True)
    ]
