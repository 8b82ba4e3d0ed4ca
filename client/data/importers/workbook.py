"""Read a table that is published as a workbook (xlsx)."""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Collection
from itertools import zip_longest
from pathlib import Path
from zipfile import BadZipFile

from client.data.importers.files import ImporterError

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


def read_workbook(path: Path, wanted: Collection[str]) -> list[dict[str, str]]:
    """Read all rows of the first sheet as stripped texts; line 1 names the columns.

    Raises
    ------
    ImporterError
        If the workbook cannot be read, or one of the wanted columns is missing.
    """
    try:
        from openpyxl import load_workbook
    except ImportError:
        raise ImporterError(
            f"The table {path.name} is a workbook; reading it needs the package "
            "openpyxl. Install it, or save the table as a CSV file of the same name."
        ) from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            book = load_workbook(path, read_only=True, data_only=True)
            sheet = book.worksheets[0]
            sheet.reset_dimensions()  # the size that a file declares may be wrong
            lines = [
                ["" if cell is None else str(cell).strip() for cell in line]
                for line in sheet.iter_rows(values_only=True)
            ]
            book.close()
    except _UNREADABLE as error:
        raise ImporterError(
            f"The table {path.name} cannot be read as a workbook "
            f"({type(error).__name__}). Download it again, or save it as a CSV file of "
            "the same name."
        ) from None
    names = lines[0] if lines else []
    if missing := sorted(set(wanted) - set(names)):
        raise ImporterError(
            f"The table {path.name} lacks the columns {missing}; it has {len(names)} "
            "columns. Restore it as it was published."
        )
    return [
        dict(zip_longest(names, line[: len(names)], fillvalue="")) for line in lines[1:]
    ]
