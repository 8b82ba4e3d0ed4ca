"""Plant canaries, run what a hospital runs, search everything that came of it.

The real code: import with importer ``hospital``, check with its page, prepare, the
mistakes a person can make, then one session: handshake, a round of training, closing,
a refusal, and the pages that ``audit egress`` makes of them. Searched are all files of
the site, their names, every reply as egress packs it (``tests/e2e/test_wire.py`` has
all bytes on the wire), and all that was logged at any level, warned, printed and
raised. Exempt are ``linkage.*``, which leads back to the patients, and the secret.
"""

from __future__ import annotations

import io
import logging
import os
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from flwr.app import ArrayRecord, Message

from client.data.cache import CacheError
from client.data.canary import Canaries
from client.data.check import check_site
from client.data.check_page import write_check
from client.data.dataset import build_dataset
from client.data.importers import ImporterError
from client.data.manifest import LINKAGE_FILE
from client.data.planted_exam import (
    ARCHIVE_NAME,
    OPTIONS,
    PATIENTS,
    plant_exams,
)
from client.data.pseudonyms import SECRET_FILE
from client.data.site_data import WHEREABOUTS_FILE, import_site, prepare_site
from client.data.snapshot import Snapshot
from client.data.withdrawn import UnknownPatientError
from client.dump import write_message
from client.egress_rehearsal import messages
from client.policy import SitePolicy
from client.resident import Resident
from client.session import SiteFolders, SiteSession
from client.withdrawal import find_patient
from common.plan import Model, Plan, Preprocessing, Roster, Split, Stage, Work

EXEMPT = (LINKAGE_FILE, WHEREABOUTS_FILE, SECRET_FILE)
_SITE = "audit"
_SECRET = b"of planted exams, of no real site"
_PREPROCESSING = Preprocessing(rows=32, columns=16)


@dataclass(frozen=True)
class Audit:
    """What was planted, what was searched, and what was found.

    Attributes
    ----------
    places : number of planted values by kind
    planted : files that hold them
    files, messages, said : files, replies and texts that were searched; a text is a
        log line, a warning, an exception, or what one step printed
    found : artefact and kind of canary
    """

    places: dict[str, int]
    planted: int
    files: int
    messages: int
    said: int
    found: tuple[tuple[str, str], ...]


def audit(folder: Path, say: Callable[[str], None] = lambda step: None) -> Audit:
    """Run the audit.

    Parameters
    ----------
    folder : empty; gets an archive and a site of its own
    say : told each step
    """
    root, site, state = folder / ARCHIVE_NAME, folder / "site", folder / "state"
    say("Planting canaries")
    canaries, planted = plant_exams(root)
    record = _Record()
    sent: list[bytes] = []
    say("Importing")
    with record.listening("import"):
        _import(root, site)
        _make_mistakes(record, folder, root, site)
    say("Checking")
    with record.listening("check"):
        write_check(site, check_site(site, root), _SITE)
    say("Preparing")
    with record.listening("prepare"):
        snapshot = prepare_site(site, root, _PREPROCESSING)
    say("One round of a federation")
    with record.listening("federation"):
        sent += _take_part(state, snapshot)
    say("Searching")
    written = [place for place in folder.iterdir() if place != root]
    files = [path for place in written for path in (place, *place.rglob("*"))]
    found = {
        (str(path.relative_to(folder)), kind)
        for path in files
        for kind in _search_file(canaries, path, folder)
    }
    for name, text in record.said:
        found |= {(name, kind) for kind in canaries.find(text.encode(errors="replace"))}
    for number, content in enumerate(sent, start=1):
        found |= {(f"message {number}", kind) for kind in canaries.find(content)}
    count = sum(path.is_file() and path.name not in EXEMPT for path in files)
    return Audit(
        dict(canaries.places),
        planted,
        count,
        len(sent),
        len(record.said),
        tuple(sorted(found)),
    )


def _import(root: Path, site: Path) -> None:
    """Import; then one file changes, which the preparation must notice."""
    import_site("hospital", root, site, _SITE, OPTIONS, secret=_SECRET, synthetic=True)
    changed = sorted(root.glob("*/*"))[2 * PATIENTS - 1]
    changed.write_bytes(changed.read_bytes() + bytes(2))


def _make_mistakes(record: _Record, folder: Path, root: Path, site: Path) -> None:
    """Do what ends in an error that quotes tables, files or identifiers."""
    names = {"density": "Name"}  # a column of names, mapped by mistake
    table = OPTIONS["table"] | {"columns": names}
    with record.raised(ImporterError):
        options = OPTIONS | {"table": table}
        import_site("hospital", root, folder / "other", _SITE, options)
    with record.raised(CacheError):
        prepare_site(site, root, Preprocessing(modalities=("SFM",)))
    with record.raised(UnknownPatientError):
        find_patient(site, Canaries().plant("patient", 999))


def _take_part(state: Path, snapshot: Snapshot) -> Iterator[bytes]:
    """Take part in a federation of one site; yield the replies as they would leave."""
    plan, policy = _plan(), SitePolicy()
    resident = Resident(plan, torch.device("cpu"), None)
    session = SiteSession(
        _SITE,
        plan,
        resident,
        build_dataset({_SITE: snapshot}, plan),
        SiteFolders(state, state),
        policy,
        synthetic=True,
    )
    for message in messages(_SITE, session, resident, state):
        write_message(state / "egress", _SITE, message, policy)
        yield _packed(message)


def _plan() -> Plan:
    stage = Stage(
        "adapt", 1, model=Model("resnet_tiny"), work=Work("steps", 2, batch_size=8)
    )
    return Plan(
        id="audit",
        version="0",
        roster=Roster((_SITE,)),
        stages=(stage,),
        preprocessing=_PREPROCESSING,
        split=Split(train=0.4, validation=0.3, test=0.3),
    )


def _packed(message: Message) -> bytes:
    """Write out what a message carries: envelope, names, values, tensors, error."""
    parts = [repr(vars(message.metadata)).encode()]
    if message.has_error():
        parts.append(repr(vars(message.error)).encode())
        return b"\n".join(parts)
    for name, record in message.content.items():
        parts.append(name.encode())
        if isinstance(record, ArrayRecord):
            for key, array in record.items():
                parts += [key.encode(), array.data]
        else:
            parts.append(repr(dict(record)).encode())
    return b"\n".join(parts)


def _search_file(canaries: Canaries, path: Path, folder: Path) -> set[str]:
    found = canaries.find(os.fsencode(path.relative_to(folder)))
    if path.is_file() and path.name not in EXEMPT:
        found |= canaries.find(path.read_bytes())
        if path.suffix == ".parquet":  # compressed: its values, then
            found |= canaries.find(pd.read_parquet(path).to_csv().encode())
    return found


class _Record(logging.Handler):
    """Keeps all that is logged, warned, printed and raised.

    Attributes
    ----------
    said : where it was said, and the text
    """

    def __init__(self) -> None:
        super().__init__(logging.NOTSET)
        self.said: list[tuple[str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line of the log, with the traceback that belongs to it."""
        self.said.append(("log", self.format(record)))

    @contextmanager
    def raised(self, expected: type[Exception]) -> Iterator[None]:
        """Keep the text of an error that is expected, and its traceback."""
        try:
            yield
        except expected as error:
            self.said.append(("error", "".join(traceback.format_exception(error))))
        else:
            raise RuntimeError("A mistake of the audit was not refused.")

    @contextmanager
    def listening(self, step: str) -> Iterator[None]:
        """Listen to a step; native code too, which prints past Python's streams."""
        root = logging.getLogger()
        level, printed = root.level, io.StringIO()
        root.addHandler(self)
        root.setLevel(logging.DEBUG)
        try:
            with (
                warnings.catch_warnings(record=True) as caught,
                redirect_stdout(printed),
                redirect_stderr(printed),
                tempfile.TemporaryFile() as native,
                _descriptors_to(native.fileno()),
            ):
                warnings.simplefilter("always")
                yield
                self.said += [("warning", str(item.message)) for item in caught]
                native.seek(0)
                text = native.read().decode(errors="replace")
                self.said.append((f"output of {step}", printed.getvalue() + text))
        finally:
            root.setLevel(level)
            root.removeHandler(self)


@contextmanager
def _descriptors_to(target: int) -> Iterator[None]:
    """Lead standard output and standard error elsewhere for a while."""
    _flush()
    kept = [os.dup(number) for number in (1, 2)]
    try:
        for number in (1, 2):
            os.dup2(target, number)
        yield
    finally:
        _flush()
        for number, before in zip((1, 2), kept, strict=True):
            os.dup2(before, number)
            os.close(before)


def _flush() -> None:
    for stream in (sys.__stdout__, sys.__stderr__):
        if stream is not None:
            stream.flush()
