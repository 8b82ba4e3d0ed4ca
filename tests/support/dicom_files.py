"""Small mammograms as DICOM files, written for the tests."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, generate_uid

MG = "1.2.840.10008.5.1.4.1.1.1.2"
TOMOSYNTHESIS = "1.2.840.10008.5.1.4.1.1.13.1.3"
CT = "1.2.840.10008.5.1.4.1.1.2"
MODEL = "Unit Test Mammograph"
LOSSLESS = (
    "1.2.840.10008.1.2",  # implicit little endian
    "1.2.840.10008.1.2.1",  # explicit little endian
    "1.2.840.10008.1.2.2",  # explicit big endian
    "1.2.840.10008.1.2.1.99",  # deflated
    "1.2.840.10008.1.2.4.70",  # JPEG Lossless
    "1.2.840.10008.1.2.4.80",  # JPEG-LS
    "1.2.840.10008.1.2.4.90",  # JPEG 2000
    "1.2.840.10008.1.2.5",  # RLE
)
"""Transfer syntaxes that keep every value."""


def phantom(rows: int = 64, columns: int = 48, seed: int = 0) -> np.ndarray:
    """Return uint16 [row, column] below 4096: half an ellipse at the left edge."""
    row, column = np.mgrid[0:rows, 0:columns]
    inside = ((row - rows / 2) / (rows * 0.42)) ** 2 + (column / (columns * 0.7)) ** 2
    texture = np.random.default_rng(seed).integers(1000, 3500, (rows, columns))
    return np.where(inside < 1, texture, 0).astype(np.uint16)


def dataset(pixels: np.ndarray | None = None, **elements: Any) -> FileDataset:
    """Return a presentation mammogram, 12 bits stored; `elements` replace or add."""
    pixels = phantom() if pixels is None else pixels
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = MG
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    ds.SOPClassUID, ds.SOPInstanceUID = MG, generate_uid()
    ds.PatientID, ds.PatientAge = "P1", "057Y"
    ds.StudyInstanceUID, ds.StudyDate = "1.2.3.100", "20200101"
    ds.Modality, ds.PresentationIntentType = "MG", "FOR PRESENTATION"
    ds.ImageType = ["ORIGINAL", "PRIMARY"]
    ds.ImageLaterality, ds.ViewPosition = "L", "CC"
    ds.Manufacturer, ds.ManufacturerModelName = "HOLOGIC, Inc.", MODEL
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = pixels.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 12, 11
    ds.PixelRepresentation = 0
    ds.ImagerPixelSpacing = [0.07, 0.08]
    ds.PixelData = pixels.astype("<u2").tobytes()
    for keyword, value in elements.items():
        if value is None:
            del ds[keyword]
        else:
            setattr(ds, keyword, value)
    meta.MediaStorageSOPInstanceUID = ds.get("SOPInstanceUID", "1.2.3")
    return ds


def stack(frames: int, rows: int = 64, columns: int = 48, seed: int = 0) -> np.ndarray:
    """Return uint16 [frame, row, column]: phantoms of one outline."""
    seeds = range(1000 * seed + 1, 1000 * seed + 1 + frames)
    return np.stack([phantom(rows, columns, one) for one in seeds])


def volume(frames: np.ndarray, **elements: Any) -> FileDataset:
    """Return a tomosynthesis volume as one object of several frames."""
    kind = {"SOPClassUID": TOMOSYNTHESIS, "NumberOfFrames": len(frames)}
    ds = dataset(frames[0], **(kind | elements))
    ds.PixelData = frames.astype("<u2").tobytes()
    return ds


def slices(frames: np.ndarray, **elements: Any) -> list[bytes]:
    """Return the same volume as a CT file for each slice."""
    kind = {
        "SOPClassUID": CT,
        "Modality": "CT",
        "ImageType": ["DERIVED", "PRIMARY", "TOMO"],
        "SeriesInstanceUID": "1.2.3.300",
    }
    return [
        image(frame, **(kind | {"InstanceNumber": number} | elements))
        for number, frame in enumerate(frames, start=1)
    ]


def write_archive(root: Path, images: int) -> Path:
    """Write an archive of a number of images, each of its own patient."""
    root.mkdir(parents=True)
    for number in range(images):
        content = image(
            phantom(seed=number),
            SOPInstanceUID=f"1.2.3.4.{number + 1}",
            StudyInstanceUID=f"1.2.3.5.{number + 1}",
            PatientID=f"P{number}",
            ImageLaterality="LR"[number % 2],
        )
        (root / f"image{number:04d}").write_bytes(content)
    return root


def to_bytes(ds: Dataset, *, implicit: bool = False, little: bool = True) -> bytes:
    """Write a dataset to memory, in the transfer syntax its meta information names."""
    buffer = io.BytesIO()
    ds.save_as(
        buffer,
        implicit_vr=implicit,
        little_endian=little,
        enforce_file_format=True,
    )
    return buffer.getvalue()


def image(pixels: np.ndarray | None = None, **elements: Any) -> bytes:
    """Return a whole file, explicit little endian."""
    return to_bytes(dataset(pixels, **elements))


def encoded(ds: FileDataset, syntax: str) -> bytes:
    """Return a whole file in another transfer syntax."""
    if syntax == "1.2.840.10008.1.2.4.70":
        return _with_gdcm(to_bytes(ds))
    ds.file_meta.TransferSyntaxUID = syntax
    if syntax == "1.2.840.10008.1.2":
        return to_bytes(ds, implicit=True)
    if syntax in ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99"):
        return to_bytes(ds)
    if syntax == "1.2.840.10008.1.2.2":
        return _big_endian(ds)
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.compress(syntax, generate_instance_uid=False)
    return to_bytes(ds)


def _with_gdcm(content: bytes) -> bytes:
    import gdcm

    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "a"), Path(folder, "b")
        source.write_bytes(content)
        reader = gdcm.ImageReader()
        reader.SetFileName(str(source))
        assert reader.Read()
        change = gdcm.ImageChangeTransferSyntax()
        change.SetTransferSyntax(
            gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1)
        )
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer = gdcm.ImageWriter()
        writer.SetFileName(str(target))
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()
        return target.read_bytes()


def _big_endian(ds: FileDataset) -> bytes:
    copy = FileDataset(
        "",
        {},
        file_meta=ds.file_meta,
        preamble=b"\0" * 128,
        is_implicit_VR=False,
        is_little_endian=False,
    )
    copy.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    for element in ds:
        copy.add(element)
    copy["PixelData"].VR = "OW"
    copy.PixelData = np.frombuffer(ds.PixelData, "<u2").astype(">u2").tobytes()
    return to_bytes(copy, little=False)
