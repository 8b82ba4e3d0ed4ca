"""Join a label table to the files of an archive on one declared key.

The level at which a label was recorded decides how far it may spread. A key that fits
several exams cannot tell which exam or breast its label belongs to: that is an error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from client.data.importers.files import Found, ImporterError, Source
from client.data.importers.tables import LabelTable, read_rows, table_facts
from client.data.pseudonyms import Pseudonymiser

Key = Literal["sop_instance_uid", "accession_number", "relative_path", "patient_id"]

_KEY_OF: dict[Key, Callable[[Found], str]] = {
    "sop_instance_uid": lambda file: file.uid,
    "accession_number": lambda file: file.accession,
    "relative_path": lambda file: file.path.as_posix(),
    "patient_id": lambda file: file.patient,
}
_NAMES_ONE_IMAGE = ("sop_instance_uid", "relative_path")
_Entry = tuple[dict[str, Any], dict[str, str], int]


def join(
    files: list[Found], source: Source, table: LabelTable, key: Key
) -> dict[str, int]:
    """Copy the table's facts to the files they are about.

    Laterality and view of a header stay; a contradiction is remarked as ``W_SIDE``.
    Patient and exam of the table, where declared, replace those of the header.
    A machine enters as a pseudonym, because a table may name it by a serial number.

    Parameters
    ----------
    files : of the archive
    source : where the table is, and whose pseudonyms
    table : what its columns mean
    key : what its key column holds

    Returns
    -------
    counts ``table_rows_unmatched`` and ``files_unmatched``

    Raises
    ------
    ImporterError
        If rows with one key contradict each other, a side is missing where the label
        is of a breast, or a key fits several exams.
    """
    by_side = table.level == "breast" and key not in _NAMES_ONE_IMAGE
    entries = _entries(read_rows(source.root, table), table, key, by_side)
    matched: dict[tuple[str, str], list[Found]] = {}
    headers = {id(file): file.patient for file in files}
    files_unmatched = 0
    for file in files:
        place = (_KEY_OF[key](file), _side(file) if by_side else "")
        if place[0] and place in entries:
            matched.setdefault(place, []).append(file)
        else:
            files_unmatched += file.verdict is None
    if table.level in ("exam", "breast"):
        _refuse_several_exams(matched, entries)
    for place, same in matched.items():
        for file in same:
            _take(file, entries[place], table, source.pseudonymiser)
    if table.patient:
        _rename_the_others(files, matched, headers, table.patient, entries)
    lines = {line for _, _, line in entries.values()}
    used = {entries[place][2] for place in matched}
    return {
        "table_rows_unmatched": len(lines - used),
        "files_unmatched": files_unmatched,
    }


def _rename_the_others(
    files: list[Found],
    matched: dict[tuple[str, str], list[Found]],
    headers: dict[int, str],
    column: str,
    entries: dict[tuple[str, str], _Entry],
) -> None:
    """Give a patient's files without a name in the table the name of the others.

    Else one woman would have two pseudonyms, train and test, and withdraw by half.
    """
    named = {
        id(file)
        for place, same in matched.items()
        if entries[place][1][column]
        for file in same
    }
    names: dict[str, set[str]] = {}
    for file in files:
        if id(file) in named and headers[id(file)]:
            names.setdefault(headers[id(file)], set()).add(file.patient)
    for file in files:
        if id(file) not in named and len(found := names.get(file.patient, set())) == 1:
            (file.patient,) = found


def _side(file: Found) -> str:
    return file.facts.get("laterality") or ""


def _normalised(text: str, key: Key) -> str:
    if key != "relative_path":
        return text
    return text.replace("\\", "/").removeprefix("./")


def _entries(
    rows: list[dict[str, str]], table: LabelTable, key: Key, by_side: bool
) -> dict[tuple[str, str], _Entry]:
    entries: dict[tuple[str, str], _Entry] = {}
    conflicts, without_side = [], []
    for line, (row, facts) in enumerate(
        zip(rows, table_facts(rows, table), strict=True), start=2
    ):
        side = facts.get("laterality") or ""
        if by_side and not side:
            without_side.append(line)
        sides = ("L", "R") if side == "B" else (side,)
        for one in sides if by_side else ("",):
            place = (_normalised(row[table.key], key), one)
            entry = (facts, row, line)
            if place in entries and _differ(entries[place], entry, table):
                conflicts.append(line)
            entries.setdefault(place, entry)
    if without_side:
        raise ImporterError(
            f"Labels are of a breast, but {len(without_side)} rows of the table "
            f"name no side, first in lines {without_side[:5]}. Map laterality."
        )
    if conflicts:
        raise ImporterError(
            f"{len(conflicts)} rows of the label table contradict an earlier row with "
            f"the same key, first in lines {conflicts[:5]}. Keep one row for each."
        )
    return entries


def _differ(first: _Entry, second: _Entry, table: LabelTable) -> bool:
    columns = [column for column in (table.patient, table.exam) if column]
    same_identity = all(first[1][name] == second[1][name] for name in columns)
    return first[0] != second[0] or not same_identity


def _refuse_several_exams(
    matched: dict[tuple[str, str], list[Found]], entries: dict[tuple[str, str], _Entry]
) -> None:
    bad = [
        entries[place][2]
        for place, files in matched.items()
        if len({(file.patient, file.exam) for file in files}) > 1
    ]
    if bad:
        raise ImporterError(
            f"{len(bad)} keys of the label table fit several exams, first in lines "
            f"{sorted(bad)[:5]}, so their labels cannot be placed. Join on "
            "accession_number, or on sop_instance_uid or relative_path."
        )


def _take(
    file: Found, entry: _Entry, table: LabelTable, pseudonymiser: Pseudonymiser
) -> None:
    facts, row, _ = entry
    for name, value in facts.items():
        if value is None or (value == "B" and name == "laterality"):
            continue
        if name in ("laterality", "view") and file.facts.get(name):
            if name == "laterality" and file.facts[name] != value:
                file.remarks.add("W_SIDE")
            continue
        if name == "machine":  # the name of a station, or a serial number
            value = f"machine-{pseudonymiser.label('machine', value)}"
        if name != "bits_stored" or file.reader == "raster":
            file.facts[name] = value
    if table.patient and row[table.patient]:
        file.patient = row[table.patient]
    if table.exam and row[table.exam]:
        file.exam = row[table.exam]
