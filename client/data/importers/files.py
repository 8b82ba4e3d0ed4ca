"""An archive on disk: what it holds, and what is known of each file.

Original identifiers live in these objects while an import runs, and nowhere else.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote_from_bytes, unquote_to_bytes

import pandas as pd

from client.data.codes import Rejected
from client.data.dicom_header import MAX_FILE_BYTES
from client.data.pseudonyms import Pseudonymiser
from common.canonical import sha256_of_file

_PLAIN = "".join(chr(code) for code in range(32, 127) if chr(code) != "%")


class ImporterError(ValueError):
    """An archive or its options cannot be imported; the text says what to change."""


@dataclass(frozen=True)
class Source:
    """An archive while it is imported.

    Attributes
    ----------
    root : its folder; nothing is written there
    pseudonymiser : of the site that imports
    progress : called with the number of files read and of files found
    workers : processes that read headers, where there are enough files for them;
        changes no byte of the result
    """

    root: Path
    pseudonymiser: Pseudonymiser
    progress: Callable[[int, int], None] = lambda done, total: None
    workers: int = 1

    def paths(self, skip: Collection[Path] = ()) -> list[Path]:
        """List the archive as `walk` does; one without any file is an error."""
        paths = list(walk(self.root, skip))
        if not paths:
            raise ImporterError(f"No image file below {self.root}.")
        return paths

    def files(self, skip: Collection[Path] = ()) -> Iterator[Path]:
        """Walk the archive as `walk` does, and tell how far one is."""
        paths = self.paths(skip)
        for done, path in enumerate(paths):
            self.progress(done, len(paths))
            yield path
        self.progress(len(paths), len(paths))


@dataclass
class Imported:
    """What an importer returns.

    Attributes
    ----------
    manifest, linkage : see `client.data.manifest`
    notes : counts that are no rows, such as table rows without a file
    """

    manifest: pd.DataFrame
    linkage: pd.DataFrame
    notes: dict[str, int] = field(default_factory=dict)


@dataclass
class Found:
    """One file while it is imported; original identifiers stay in memory.

    Attributes
    ----------
    path : relative to the archive
    size, mtime_ns : of the file, in bytes and nanoseconds; 0 if it cannot be asked
    uid : SOP instance UID, empty if unknown
    patient, exam, series : empty if unknown; `exam` orders by `exam_date`
    place : of a slice in its volume, see `volumes.place_of`
    preference : among images of one view, see `repeats.preference_of`
    model : of the machine, as the header has it; only a pseudonym of it is a fact
    facts : manifest fields known so far
    remarks : ``W_`` codes
    verdict : why the file is not used, or None
    """

    path: Path
    size: int = 0
    mtime_ns: int = 0
    sha256: str = ""
    reader: str = "dicom"
    uid: str = ""
    patient: str = ""
    exam: str = ""
    exam_date: str = ""
    accession: str = ""
    series: str = ""
    place: tuple[int, float] = (0, 0.0)
    preference: tuple[int, int, str, int] = (0, 0, "", 0)
    model: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    remarks: set[str] = field(default_factory=set)
    verdict: Rejected | None = None


def encode_path(path: Path) -> str:
    """Write a relative path as printable ASCII; a file name may be no valid text."""
    return quote_from_bytes(os.fsencode(path), safe=_PLAIN)


def decode_path(text: str) -> Path:
    """Invert `encode_path`."""
    return Path(os.fsdecode(unquote_to_bytes(text)))


def as_plain(found: Found) -> dict[str, Any]:
    """Write what is known of a file as JSON data; `from_plain` inverts it."""
    verdict = found.verdict
    return vars(found) | {
        "path": encode_path(found.path),
        "remarks": sorted(found.remarks),
        "verdict": verdict and (verdict.code, verdict.stage, verdict.exception_type),
    }


def from_plain(plain: dict[str, Any]) -> Found:
    """Invert `as_plain`."""
    changed = {
        "path": decode_path(plain["path"]),
        "place": tuple(plain["place"]),
        "preference": tuple(plain["preference"]),
        "remarks": set(plain["remarks"]),
        "verdict": plain["verdict"] and Rejected(*plain["verdict"]),
    }
    return Found(**(plain | changed))


def walk(root: Path, skip: Collection[Path] = ()) -> Iterator[Path]:
    """Yield every file below an archive as a relative path, in a fixed order.

    Raises
    ------
    ImporterError
        If there is no such folder, or one below it cannot be listed.
    """
    if not root.is_dir():
        raise ImporterError(f"No archive folder {root}.")
    left_out = {os.path.realpath(path) for path in skip}
    skipped = {Path(path).name for path in skip}
    for folder, folders, names in os.walk(root, onerror=_unlistable):
        folders.sort(key=os.fsencode)
        # A link to a folder is not followed, but it does not vanish either.
        links = [name for name in folders if (Path(folder) / name).is_symlink()]
        for name in sorted([*names, *links], key=os.fsencode):
            path = Path(folder) / name
            if name not in skipped or os.path.realpath(path) not in left_out:
                yield path.relative_to(root)


def _unlistable(error: OSError) -> None:
    raise ImporterError(
        f"A folder of the archive cannot be listed ({type(error).__name__}). Check its "
        "permissions and the disk: its files would be missed without a word."
    )


def unopened(path: Path, error: OSError) -> ImporterError:
    """Tell that a table is there and cannot be opened, which says nothing of it."""
    return ImporterError(
        f"The table {path.name} cannot be opened ({error.strerror}). Check its "
        "permissions and the disk."
    )


def load(root: Path, path: Path) -> tuple[Found, bytes]:
    """Read a file; one that cannot be read comes with its verdict and no bytes."""
    found = Found(path)
    full = root / path
    try:
        if not full.is_file():
            raise Rejected("Q_UNREADABLE", "read")
        state = full.stat()
        found.size, found.mtime_ns = state.st_size, state.st_mtime_ns
        if found.size > MAX_FILE_BYTES:
            found.sha256 = sha256_of_file(full)
            raise Rejected("Q_TOO_LARGE", "read")
        content = full.read_bytes()
    except Rejected as verdict:
        found.verdict = verdict
        return found, b""
    except OSError as error:
        found.verdict = Rejected("Q_UNREADABLE", "read", type(error).__name__)
        return found, b""
    found.sha256 = hashlib.sha256(content).hexdigest()
    return found, content


def beside(path: Path) -> Found:
    """Account for a file that is part of an archive, but no mammogram."""
    return Found(path, verdict=Rejected("X_NOT_IMAGE", "classify"))
