"""How long it takes to confirm a finished preparation of very many files."""

from __future__ import annotations

import io
import os
import tempfile
import time
from pathlib import Path

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import (
    DigitalMammographyXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
)

from client.data.site_data import import_site, prepare_site
from common.plan import Preprocessing
from common.progress import View

_ROWS, _COLUMNS = 32, 16
_SIZE = Preprocessing(rows=_ROWS, columns=_COLUMNS)
_UID = "1.2.3.10000000"
_PATIENT = "P00000000"


def measure_confirm(stubs: int, view: View) -> dict[str, float]:
    """Import and prepare files of a few hundred bytes; then prepare twice again.

    Parameters
    ----------
    stubs : number of files, each an image of a patient of its own

    Returns
    -------
    ``stubs`` and seconds: ``import_seconds prepare_seconds``, then those of the call
    that finds everything done, ``confirm_seconds``, and ``verify_seconds`` of the one
    that hashes every file
    """
    with tempfile.TemporaryDirectory() as name:
        archive, site = Path(name) / "archive", Path(name) / "site"
        _write(archive, stubs, view)
        workers = os.cpu_count() or 1
        clock = [time.perf_counter()]
        with view.bar("importing stubs", stubs) as bar:
            import_site(
                "hospital",
                archive,
                site,
                "stubs",
                {"dataset": "stubs"},
                workers=workers,
                progress=bar.move,
            )
        clock.append(time.perf_counter())
        calls = {"preparing": False, "confirming": False, "hashing": True}
        for title, verify in calls.items():
            with view.bar(f"{title} stubs", stubs) as bar:
                prepare_site(
                    site,
                    archive,
                    _SIZE,
                    workers=workers,
                    progress=bar.move,
                    verify=verify,
                )
            clock.append(time.perf_counter())
    taken = np.diff(clock).tolist()
    names = ("import", "prepare", "confirm", "verify")
    return {"stubs": stubs} | {
        f"{name}_seconds": seconds for name, seconds in zip(names, taken, strict=True)
    }


def _write(root: Path, stubs: int, view: View) -> None:
    """Write one file many times, each with its own UID, patient and pixels."""
    template, random = _template(), np.random.default_rng(0)
    with view.bar("writing stubs", stubs) as bar:
        for number in range(stubs):
            folder = root / f"{number // 1000:03d}"
            folder.mkdir(parents=True, exist_ok=True)
            pixels = _pixels(random).tobytes()
            content = (
                template.replace(_UID.encode(), f"1.2.3.2{number:07d}".encode())
                .replace(_PATIENT.encode(), f"P{number:08d}".encode())
                .replace(bytes(len(pixels)), pixels)
            )
            (folder / f"{number}.dcm").write_bytes(content)
            bar.move(number + 1)


def _pixels(random: np.random.Generator) -> np.ndarray:
    """Draw a bright half disc at the left edge."""
    row, column = np.mgrid[:_ROWS, :_COLUMNS]
    inside = np.hypot(row - _ROWS / 2, column) < _COLUMNS * 0.8
    noise = random.integers(1000, 3500, (_ROWS, _COLUMNS))
    return np.where(inside, noise, 0).astype("<u2")


def _template() -> bytes:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = DigitalMammographyXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = _UID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds = FileDataset("", {}, file_meta=meta, preamble=b"\1" * 128)
    ds.SOPClassUID, ds.SOPInstanceUID = meta.MediaStorageSOPClassUID, _UID
    ds.PatientID, ds.StudyInstanceUID = _PATIENT, "1.2.4.5"
    ds.Modality, ds.PresentationIntentType = "MG", "FOR PRESENTATION"
    ds.ImageType = ["ORIGINAL", "PRIMARY"]
    ds.ImageLaterality, ds.ViewPosition = "L", "CC"
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = _ROWS, _COLUMNS
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 12, 11
    ds.PixelRepresentation = 0
    ds.PixelData = bytes(2 * _ROWS * _COLUMNS)
    stream = io.BytesIO()
    ds.save_as(stream, enforce_file_format=True)
    return stream.getvalue()
