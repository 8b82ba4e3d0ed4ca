"""Read the header of one DICOM file by a keep-list; everything else is dropped.

What is kept is plain Python data. No value of a header may reach a log, a warning or an
exception text: pydicom quotes values in all three, so all three are silenced here.
"""

from __future__ import annotations

import io
import logging
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pydicom
from pydicom.charset import python_encoding
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from client.data.codes import Rejected

MAX_FILE_BYTES = 2 * 1024**3
"""Larger files are not read."""

MAX_INFLATED_BYTES = 512 * 1024**2
"""Deflated files that grow beyond this are not read."""

DEFLATED = "1.2.840.10008.1.2.1.99"

TEXTS = (
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "PatientID",
    "AccessionNumber",
    "StudyDate",
    "AcquisitionDate",
    "AcquisitionTime",
    "Modality",
    "ImageType",
    "PresentationIntentType",
    "PhotometricInterpretation",
    "VOILUTFunction",
    "ImageLaterality",
    "Laterality",
    "ViewPosition",
    "PaddleDescription",
    "SeriesDescription",
    "AcquisitionDeviceProcessingDescription",
    "QualityControlImage",
    "BurnedInAnnotation",
    "PartialView",
    "BreastImplantPresent",
    "PatientAge",
    "Manufacturer",
    "ManufacturerModelName",
)
NUMBERS = (
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "NumberOfFrames",
    "InstanceNumber",
    "ImagePositionPatient",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "RescaleSlope",
    "RescaleIntercept",
    "WindowCenter",
    "WindowWidth",
    "ImagerPixelSpacing",
    "PixelSpacing",
)
SEQUENCES = (
    "ViewCodeSequence",
    "ViewModifierCodeSequence",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
    "ModalityLUTSequence",
    "VOILUTSequence",
)
_IN_GROUPS = {
    "FrameVOILUTSequence": ("WindowCenter", "WindowWidth", "VOILUTFunction"),
    "PixelMeasuresSequence": ("PixelSpacing",),
    "PixelValueTransformationSequence": ("RescaleSlope", "RescaleIntercept"),
}
"""Functional group -> what it holds in place of the top level (PS3.3 C.7.6.16)."""

_TAGS = [*TEXTS, *NUMBERS, *SEQUENCES, "PixelData"]


@dataclass(frozen=True)
class Lut:
    """A lookup table (PS3.3 C.11.1.1 and C.11.2.1.1).

    Attributes
    ----------
    first : input value that maps to the first entry
    maximum : largest output the table's bit depth allows, 2**bits - 1
    entries : float32, shape (entries,)
    """

    first: int
    maximum: int
    entries: np.ndarray


@dataclass
class Header:
    """What is kept of one header.

    Attributes
    ----------
    texts : keyword -> stripped values; absent elements are empty lists
    numbers : keyword -> values; what is no number is left out
    view_codes, modifier_codes : code values of the view and of its modifiers
    frame_laterality : from the functional groups, or empty
    frames_described : items of the per-frame functional groups
    remarks : ``W_`` codes
    """

    transfer_syntax: str
    texts: dict[str, list[str]] = field(default_factory=dict)
    numbers: dict[str, list[float]] = field(default_factory=dict)
    view_codes: list[str] = field(default_factory=list)
    modifier_codes: list[str] = field(default_factory=list)
    frame_laterality: str = ""
    frames_described: int = 0
    modality_lut: Lut | None = None
    voi_lut: Lut | None = None
    remarks: set[str] = field(default_factory=set)

    def text(self, keyword: str) -> str:
        """Return the first value, empty if there is none."""
        values = self.texts[keyword]
        return values[0] if values else ""

    def number(self, keyword: str) -> float | None:
        """Return the first value, None if there is none."""
        values = self.numbers[keyword]
        return values[0] if values else None

    def integer(self, keyword: str, default: int) -> int:
        """Return the first value as a whole number, or the default."""
        value = self.number(keyword)
        return default if value is None or not np.isfinite(value) else int(value)


def read_dataset(content: bytes, *, pixels: bool) -> Dataset:
    """Parse a file in memory, restricted to the keep-list.

    Raises
    ------
    Rejected
        ``Q_EMPTY``, ``Q_CONTAINER``, ``Q_NOT_DICOM``, ``Q_NO_SYNTAX``,
        ``Q_TOO_LARGE``, ``Q_TRUNCATED`` or ``Q_STRUCTURE``.
    """
    if not content:
        raise Rejected("Q_EMPTY", "read")
    if content[:2] == b"\x1f\x8b" or content[:4] == b"PK\x03\x04":
        raise Rejected("Q_CONTAINER", "read")
    try:
        with quiet():
            _refuse_bomb(content)
            ds = pydicom.dcmread(
                io.BytesIO(content), specific_tags=_TAGS, stop_before_pixels=not pixels
            )
            syntax = ds.file_meta.get("TransferSyntaxUID")
    except Rejected:
        raise
    except InvalidDicomError:
        raise Rejected("Q_NOT_DICOM", "read", "InvalidDicomError") from None
    except Exception as error:
        raise Rejected("Q_STRUCTURE", "read", type(error).__name__) from None
    if not syntax:
        raise Rejected("Q_NO_SYNTAX", "read")
    if not ds:  # a file that ends inside an element comes back without any
        raise Rejected("Q_TRUNCATED", "read")
    return ds


def read_header(content: bytes) -> Header:
    """Read the kept elements of a file in memory, without its pixels.

    Raises
    ------
    Rejected
        As `read_dataset`.
    """
    return header_of(read_dataset(content, pixels=False))


def header_of(ds: Dataset) -> Header:
    """Copy the kept elements out of a dataset.

    An element that cannot be converted counts as absent and gives ``W_VALUE``.
    """
    header = Header(str(ds.file_meta.TransferSyntaxUID))
    with quiet():
        sets = _values(ds, "SpecificCharacterSet", header)
        if not set(sets) <= set(python_encoding):
            header.remarks.add("W_CHARSET")
        for keyword in TEXTS:
            header.texts[keyword] = _values(ds, keyword, header)
        if not header.texts["SOPClassUID"]:
            storage = _values(ds.file_meta, "MediaStorageSOPClassUID", header)
            header.texts["SOPClassUID"] = storage
        for keyword in NUMBERS:
            header.numbers[keyword] = _numbers(ds, keyword, header)
        _read_views(ds, header)
        header.modality_lut = _read_lut(ds, "ModalityLUTSequence", header)
        header.voi_lut = _read_lut(ds, "VOILUTSequence", header)
        _read_functional_groups(ds, header)
    return header


@contextmanager
def quiet() -> Iterator[None]:
    """Keep pydicom's warnings and log lines, which quote values, to ourselves."""
    logger = logging.getLogger("pydicom")
    was_disabled = logger.disabled
    logger.disabled = True
    try:
        with warnings.catch_warnings(), pydicom.config.disable_value_validation():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = was_disabled


def _refuse_bomb(content: bytes) -> None:
    # A deflated file starts, uncompressed, with preamble, "DICM" and group 0002, whose
    # first element (PS3.10 7.1) is the length of the rest of that group.
    if DEFLATED.encode() not in content[:1024]:
        return
    start = 144 + int.from_bytes(content[140:144], "little")
    inflated = zlib.decompressobj(-zlib.MAX_WBITS)
    inflated.decompress(content[start:], MAX_INFLATED_BYTES)
    if inflated.unconsumed_tail:
        raise Rejected("Q_TOO_LARGE", "read")


def _values(ds: Dataset, keyword: str, header: Header) -> list[str]:
    try:
        value = ds.get(keyword)
    except Exception:
        header.remarks.add("W_VALUE")
        return []
    if value is None or value == "":
        return []
    many = value if isinstance(value, (list, pydicom.multival.MultiValue)) else [value]
    return [str(item).strip() for item in many]


def _numbers(ds: Dataset, keyword: str, header: Header) -> list[float]:
    numbers = []
    for text in _values(ds, keyword, header):
        try:
            numbers.append(float(text))
        except ValueError:
            header.remarks.add("W_VALUE")
    return numbers


def _items(ds: Dataset, keyword: str, header: Header) -> list[Dataset]:
    try:
        value = ds.get(keyword)
        return [item for item in value or () if isinstance(item, Dataset)]
    except Exception:
        header.remarks.add("W_VALUE")
        return []


def _read_views(ds: Dataset, header: Header) -> None:
    modifiers = _items(ds, "ViewModifierCodeSequence", header)
    for view in _items(ds, "ViewCodeSequence", header):
        header.view_codes += _values(view, "CodeValue", header)
        modifiers += _items(view, "ViewModifierCodeSequence", header)
    for modifier in modifiers:
        header.modifier_codes += _values(modifier, "CodeValue", header)


def _read_functional_groups(ds: Dataset, header: Header) -> None:
    """Take what the top level leaves out: from the shared group, else frame 0."""
    frames = _items(ds, "PerFrameFunctionalGroupsSequence", header)
    header.frames_described = len(frames)
    shared = _items(ds, "SharedFunctionalGroupsSequence", header)
    for group in [*shared, *frames[:1]]:
        for anatomy in _items(group, "FrameAnatomySequence", header):
            side = _values(anatomy, "FrameLaterality", header)
            header.frame_laterality = header.frame_laterality or "".join(side[:1])
        for name, keywords in _IN_GROUPS.items():
            for item in _items(group, name, header):
                _fill_in(item, keywords, header)
        for item in _items(group, "FrameVOILUTSequence", header):
            header.voi_lut = header.voi_lut or _read_lut(item, "VOILUTSequence", header)


def _fill_in(item: Dataset, keywords: tuple[str, ...], header: Header) -> None:
    for keyword in keywords:
        if keyword in header.numbers:
            known = header.numbers[keyword]
            header.numbers[keyword] = known or _numbers(item, keyword, header)
        else:
            texts = header.texts[keyword]
            header.texts[keyword] = texts or _values(item, keyword, header)


def _read_lut(ds: Dataset, keyword: str, header: Header) -> Lut | None:
    items = _items(ds, keyword, header)
    if not items:
        return None
    try:
        return _lut(items[0], ds.original_encoding[1] is not False)
    except Exception:
        header.remarks.add("W_VOI")
        return None


def _lut(item: Dataset, little_endian: bool) -> Lut | None:
    count, first, bits = (int(value) for value in item.LUTDescriptor)
    count = count or 65536
    raw: Any = item.LUTData
    if isinstance(raw, bytes):
        wide = ("<u2" if little_endian else ">u2") if len(raw) >= 2 * count else "u1"
        raw = np.frombuffer(raw, dtype=wide)
    entries = np.asarray(raw, dtype=np.int64).reshape(-1)[:count] & 0xFFFF
    if len(entries) != count or not 1 <= bits <= 16:
        raise ValueError("LUT data do not fit their descriptor")
    return Lut(first, 2**bits - 1, entries.astype(np.float32))
