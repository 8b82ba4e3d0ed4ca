"""Tables as a public archive publishes them, wherever a download has put them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from client.data.importers.files import ImporterError, unopened, walk
from common.canonical import sha256_of_file


def find_tables(root: Path, names: Collection[str]) -> dict[str, list[Path]]:
    """Locate tables by their names, anywhere below an archive.

    Copies of a table are accepted if they are equal: the first then speaks for all.

    Parameters
    ----------
    root : the archive
    names : file names

    Returns
    -------
    name -> its paths in the order of `walk`; a table that is absent is left out

    Raises
    ------
    ImporterError
        If there is no such archive, a table cannot be opened, or two tables of one
        name differ.
    """
    found: dict[str, list[Path]] = {}
    for path in walk(root):
        if path.name in names and (root / path).is_file():
            found.setdefault(path.name, []).append(root / path)
    for name, copies in found.items():
        if len(set(map(_content, copies))) > 1:
            raise ImporterError(
                f"The archive holds {len(copies)} files {name}, and they differ. "
                "Keep the one that was published."
            )
    return found


def _content(path: Path) -> str:
    try:
        return sha256_of_file(path)
    except OSError as error:
        raise unopened(path, error) from None


def find_table(root: Path, name: str, otherwise: str = "") -> list[Path]:
    """Locate the one table of an archive, with its equal copies.

    Parameters
    ----------
    otherwise : what else the user can do than complete the download

    Raises
    ------
    ImporterError
        If there is none, or copies differ.
    """
    copies = find_tables(root, [name]).get(name)
    if copies is None:
        raise ImporterError(
            f"No table {name} below {root}. Complete the download{otherwise}."
        )
    return copies


def translate(
    rows: Sequence[Mapping[str, str]],
    table: str,
    column: str,
    words: Mapping[str, Any],
) -> list[Any]:
    """Translate one column by a closed vocabulary, whatever the case of its words.

    Parameters
    ----------
    rows : stripped texts by column
    table : file name, for the error
    column : which column
    words : word in upper case -> value; the empty word must be named to be allowed

    Raises
    ------
    ImporterError
        If a cell holds another word; the text counts such cells and quotes none.
    """
    cells = [row[column].upper() for row in rows]
    if unknown := sum(cell not in words for cell in cells):
        raise ImporterError(
            f"The table {table}, column {column}: {unknown} cells hold a word that is "
            "not known. Restore the table as it was published."
        )
    return [words[cell] for cell in cells]
