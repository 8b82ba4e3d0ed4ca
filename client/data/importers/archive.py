"""Every file of an archive becomes one row, whatever it is.

Importers differ in what they take from tables. What they share is here: reading
headers, pseudonyms, duplicates, the order of exams.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from client.data.codes import Rejected
from client.data.dicom_header import Header, header_of, read_dataset, read_header
from client.data.dicom_rules import classify, facts
from client.data.importers.files import (
    Found,
    Imported,
    Source,
    beside,
    encode_path,
    from_plain,
    load,
)
from client.data.importers.repeats import mark_repeats, preference_of
from client.data.importers.volumes import mark_volumes, place_of
from client.data.manifest import (
    LABEL_FIELDS,
    empty_row,
    linkage_frame,
    manifest_frame,
)
from client.data.pseudonyms import Pseudonymiser
from client.data.workers import run_tasks

_WORKER = "client.data.importers.scan_worker"

_FILES_PER_WORKER = 500
"""A process starts in a second. So many mammograms are read in ten, so many tiny files
in half a one: with fewer for each, a small archive would only wait for processes."""

_FILES_PER_TASK = 64

_SECONDS_PER_FILE = 600.0
"""Two gigabytes, the most that is read, may come slowly: 4 megabytes a second."""

_SHAPING = ("Rows", "Columns", "NumberOfFrames", "BitsStored", "PixelRepresentation")
"""Numbers of a header that shape the image its encoded pixels become."""


def scan_dicom(
    source: Source,
    *,
    film: bool = False,
    skip: Collection[Path] = (),
    wanted: Callable[[Path], bool] = lambda path: True,
) -> list[Found]:
    """Read the header of every file of an archive, in the order of `walk`.

    Many files are read by worker processes, where a header that crashes or hangs the
    parser costs one file: ``Q_CRASH`` or ``Q_TIMEOUT``.

    Parameters
    ----------
    film : digitised film: secondary captures are wanted
    skip : files that are tables of the archive, not images
    wanted : False for paths that the archive's layout declares to be no mammograms,
        such as reports and masks; they are ``X_NOT_IMAGE`` without being read

    Raises
    ------
    WorkerError
        If the workers cannot run at all.
    """
    paths = source.paths(skip)
    found = {path: beside(path) for path in paths if not wanted(path)}
    todo = [path for path in paths if path not in found]
    source.progress(len(found), len(paths))
    for file in _scan(source, todo, film):
        if file.model:  # a free text: only its being the same matters
            file.facts["model"] = (
                f"model-{source.pseudonymiser.label('model', file.model)}"
            )
        found[file.path] = file
        source.progress(len(found), len(paths))
    return [found[path] for path in paths]


def finish(
    files: list[Found],
    site: str,
    dataset: str,
    source: Source,
    *,
    sides_required: bool = True,
    notes: dict[str, int] | None = None,
) -> Imported:
    """Judge what needs the whole archive, and replace identifiers by pseudonyms.

    Parameters
    ----------
    source : whose files, and whose pseudonyms
    sides_required : an image without laterality or view is excluded
    """
    pseudonymiser = source.pseudonymiser
    _judge_duplicates(files, source.root)
    _judge(files, "X_NO_PATIENT", lambda file: not file.patient)
    if sides_required:
        _judge(files, "X_NO_SIDE", lambda file: not file.facts.get("laterality"))
        _judge(files, "X_NO_VIEW", lambda file: not file.facts.get("view"))
    mark_volumes(files, pseudonymiser)
    mark_repeats(files)
    orders = _exam_orders(files)
    manifest, linkage, taken = [], [], set()
    for file in files:
        row_id = pseudonymiser.row(file.uid or f"path:{encode_path(file.path)}")
        if row_id in taken:
            row_id = pseudonymiser.row(f"{file.uid} path:{encode_path(file.path)}")
        taken.add(row_id)
        keys = _keys(file, pseudonymiser) | {"exam_order": orders.get(_exam_of(file))}
        manifest.append(
            empty_row()
            | file.facts
            | keys
            | {"row_id": row_id, "site": site, "dataset": dataset}
            | _status(file)
        )
        linkage.append(_linkage(file, row_id))
    counted = {"files": len(files)} | (notes or {})
    return Imported(manifest_frame(manifest), linkage_frame(linkage), counted)


def _scan(source: Source, paths: list[Path], film: bool) -> Iterator[Found]:
    """Yield every file as its header tells, here in order, from workers in any."""
    workers = min(source.workers, len(paths) // _FILES_PER_WORKER)
    if workers == 0:
        yield from (scan_one(source.root, path, film) for path in paths)
        return
    files = [{"path": encode_path(path)} for path in paths]
    tasks = [
        {"files": files[first : first + _FILES_PER_TASK]}
        for first in range(0, len(files), _FILES_PER_TASK)
    ]
    setup = {"root": encode_path(source.root), "film": film}
    for _, answer in run_tasks(_WORKER, setup, tasks, workers, _SECONDS_PER_FILE):
        yield from map(from_plain, answer["files"])


def scan_one(root: Path, path: Path, film: bool) -> Found:
    """Read one file and its header; what is wrong with it becomes its verdict."""
    found, content = load(root, path)
    if found.verdict is not None:
        return found
    try:
        header = read_header(content)
        _take_identifiers(found, header)
        found.remarks = header.remarks
        found.facts = facts(header, film=film)
        found.model = header.text("ManufacturerModelName")
        classify(header, film=film)
    except Rejected as verdict:
        found.verdict = verdict
    except Exception as error:
        found.verdict = Rejected("Q_STRUCTURE", "classify", type(error).__name__)
    return found


def _take_identifiers(found: Found, header: Header) -> None:
    found.uid = header.text("SOPInstanceUID")
    study = header.text("StudyInstanceUID")
    # Some public exports carry no patient: then an exam is all one can keep together.
    found.patient = header.text("PatientID") or (f"study:{study}" if study else "")
    found.exam = study or header.text("AccessionNumber")
    found.exam_date = header.text("StudyDate")
    found.accession = header.text("AccessionNumber")
    found.series = header.text("SeriesInstanceUID")
    found.place = place_of(header)
    found.preference = preference_of(header)


def _judge(files: list[Found], code: str, broken: Callable[[Found], bool]) -> None:
    for file in files:
        if file.verdict is None and broken(file):
            file.verdict = Rejected(code, "classify")


def _judge_duplicates(files: list[Found], root: Path) -> None:
    groups: dict[str, list[Found]] = {}
    for file in files:
        if file.verdict is None:
            groups.setdefault(file.uid or file.sha256, []).append(file)
    for same in groups.values():
        # Copies that the table does not name say nothing against the one it names; of
        # two exports the one of which more is known is the better one.
        same.sort(key=lambda file: (not _labels(file), -_known(file)))
        labels = {found for file in same if (found := _labels(file))}
        if not _one_image(same, root):
            doubted, code = same, "Q_UID_CONFLICT"
        elif len(labels) > 1:
            doubted, code = same, "X_CONFLICT"
        else:
            doubted, code = same[1:], "X_DUPLICATE"
        for file in doubted:
            file.verdict = Rejected(code, "classify")


def _one_image(same: list[Found], root: Path) -> bool:
    """Tell whether files with one UID are one image, however their headers differ.

    An export that was made again with a corrected header has the same encoded pixels.
    If patients or sides contradict each other, nobody knows which header is right.
    """
    if len({file.sha256 for file in same}) == 1:
        return True
    patients = {file.patient for file in same} - {""}
    sides = {file.facts.get("laterality") for file in same} - {None}
    if len(patients) > 1 or len(sides) > 1:
        return False
    first = _pixels(same[0], root)
    return bool(first) and all(_pixels(file, root) == first for file in same[1:])


def _pixels(file: Found, root: Path) -> tuple[object, ...]:
    """Return what the decoded image depends on, as it is stored; empty if unreadable.

    Of the encoded bytes it is the hash: a volume may be large.
    """
    try:
        ds = read_dataset(load(root, file.path)[1], pixels=True)
    except Rejected:
        return ()
    element = ds.get_item("PixelData", keep_deferred=True)
    if element is None or not isinstance(element.value, bytes):
        return ()
    header = header_of(ds)
    return (
        hashlib.sha256(element.value).hexdigest(),
        header.transfer_syntax,
        header.text("PhotometricInterpretation"),
        *map(header.number, _SHAPING),
    )


def _known(file: Found) -> int:
    known = sum(value is not None for value in file.facts.values())
    return known + bool(file.patient)


def _labels(file: Found) -> tuple[Any, ...]:
    labels = tuple(map(file.facts.get, LABEL_FIELDS))
    return labels if any(label is not None for label in labels) else ()


def _exam_of(file: Found) -> tuple[str, str]:
    return file.patient, file.exam


def _exam_orders(files: list[Found]) -> dict[tuple[str, str], int | None]:
    """Rank each patient's exams by date; unknown where a date is missing."""
    dates: dict[str, dict[str, str]] = {}
    for file in files:
        if file.patient:
            dates.setdefault(file.patient, {})[file.exam] = file.exam_date
    orders: dict[tuple[str, str], int | None] = {}
    for patient, exams in dates.items():
        known = len(exams) == 1 or all(exams.values())
        ranked = sorted(exams, key=lambda exam: (exams[exam], exam))
        for rank, exam in enumerate(ranked):
            orders[patient, exam] = rank if known else None
    return orders


def _keys(file: Found, pseudonymiser: Pseudonymiser) -> dict[str, str | None]:
    if not file.patient:
        return {}
    side = file.facts.get("laterality")
    return {
        "patient_key": pseudonymiser.patient(file.patient),
        "exam_key": pseudonymiser.exam(file.patient, file.exam),
        "breast_key": pseudonymiser.breast(file.patient, file.exam, side)
        if side
        else None,
    }


def _status(file: Found) -> dict[str, str | None]:
    if file.verdict is not None:
        return {"status": file.verdict.status, "reason": file.verdict.code}
    return {"status": "ok", "reason": " ".join(sorted(file.remarks)) or None}


def _linkage(file: Found, row_id: str) -> dict[str, str]:
    verdict = file.verdict
    return {
        "row_id": row_id,
        "source_path": encode_path(file.path),
        "sop_instance_uid": file.uid,
        "file_sha256": file.sha256,
        "file_size": str(file.size),
        "file_mtime_ns": str(file.mtime_ns),
        "reader": file.reader,
        "stage": f"import:{verdict.stage}" if verdict else "",
        "exception_type": verdict.exception_type if verdict else "",
        "remarks": " ".join(sorted(file.remarks)),
    }
