"""Decode pixels: pinned decoders per transfer syntax, so that bytes reproduce.

GPL decoders are never used. dicomsdl decodes JPEG Lossless three times as fast as gdcm,
and is the only one for 12-bit JPEG Extended; but it fills up a stream that was cut off
without a word, so it gets streams with their end only. Where the first cannot read a
lossless stream, another has its turn: there all agree. A lossy stream has one decoder,
because two may round differently. Of an object with several frames one is decoded at a
time, and never by dicomsdl. A decoder may crash or hang: call this in a worker process
(`client.data.workers`), where a crash or a hang costs one file.
"""

from __future__ import annotations

import io
import struct
from importlib.metadata import version

import numpy as np
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames, parse_basic_offsets, parse_fragments
from pydicom.pixels import pixel_array

from client.data.codes import Rejected
from client.data.dicom_header import DEFLATED, Header, quiet

MAX_PIXELS = 128 * 1024**2
"""Cap on rows * columns before anything is allocated."""

MAX_VOLUME_PIXELS = 1024**3
"""Cap on rows * columns * frames: one file must not take a worker for minutes."""

_NATIVE = {
    "1.2.840.10008.1.2": "<",
    "1.2.840.10008.1.2.1": "<",
    DEFLATED: "<",
    "1.2.840.10008.1.2.2": ">",
}
_DECODERS: dict[str, tuple[str, ...]] = {
    "1.2.840.10008.1.2.5": ("pylibjpeg-rle", "pydicom"),
    "1.2.840.10008.1.2.4.50": ("python-gdcm",),
    "1.2.840.10008.1.2.4.51": ("dicomsdl",),
    "1.2.840.10008.1.2.4.57": ("dicomsdl", "python-gdcm"),
    "1.2.840.10008.1.2.4.70": ("dicomsdl", "python-gdcm"),
    "1.2.840.10008.1.2.4.80": ("pyjpegls", "python-gdcm"),
    "1.2.840.10008.1.2.4.81": ("pyjpegls",),
    "1.2.840.10008.1.2.4.90": ("python-gdcm", "pylibjpeg-openjpeg"),
    "1.2.840.10008.1.2.4.91": ("pylibjpeg-openjpeg",),
}
"""Distributions by transfer syntax, in the order in which they are tried."""

_PLUGIN_OF = {
    "pydicom": "pydicom",
    "pylibjpeg-rle": "pylibjpeg",
    "pylibjpeg-openjpeg": "pylibjpeg",
    "python-gdcm": "gdcm",
    "pyjpegls": "pyjpegls",
}
_END_OF_IMAGE = b"\xff\xd9"  # ITU-T T.81, B.1.1.3


def decode(
    content: bytes, ds: Dataset, header: Header, frame: int | None = None
) -> tuple[np.ndarray, str]:
    """Decode one frame.

    Parameters
    ----------
    content : the whole file; only dicomsdl needs it
    ds : of the same file, with its pixels
    header : of the same file; a remark may be added
    frame : of a volume, from 0; None for an image, which has one frame and is not blank

    Returns
    -------
    integer, shape (rows, columns), stored values, signed where the header says so
    name of the decoder

    Raises
    ------
    Rejected
        ``Q_HEADER``, ``Q_TOO_LARGE``, ``Q_FRAMES``, ``Q_SYNTAX``, ``Q_TRUNCATED``,
        ``Q_CODESTREAM`` or ``Q_BLANK``.
    """
    shape = _declared_shape(header)
    frames = _declared_frames(header, shape, frame)
    syntax = header.transfer_syntax
    if "PixelData" not in ds:
        raise Rejected("Q_TRUNCATED", "decode")
    if syntax in _NATIVE:
        stored = _native(ds.PixelData, (frames, *shape), header, frame or 0)
        decoder = "pydicom"
    elif syntax in _DECODERS:
        stored, decoder = _encapsulated(content, ds, frames, frame)
    else:
        raise Rejected("Q_SYNTAX", "decode")
    if stored.shape != shape or stored.dtype.kind not in "iu":
        raise Rejected("Q_CODESTREAM", "decode")
    _check_range(stored, header, may_be_blank=frame is not None)
    return stored, decoder


def decoder_versions() -> dict[str, str]:
    """Return package -> version of everything that can shape a pixel."""
    names = {"pydicom", "numpy", "opencv-python-headless", "pylibjpeg"}
    names |= {name for order in _DECODERS.values() for name in order}
    return {name: version(name) for name in sorted(names)}


def _declared_shape(header: Header) -> tuple[int, int]:
    rows, columns = header.integer("Rows", 0), header.integer("Columns", 0)
    if rows < 1 or columns < 1:
        raise Rejected("Q_HEADER", "decode")
    if rows * columns > MAX_PIXELS:
        raise Rejected("Q_TOO_LARGE", "decode")
    return rows, columns


def _declared_frames(header: Header, shape: tuple[int, int], frame: int | None) -> int:
    frames = header.integer("NumberOfFrames", 1)
    if header.frames_described not in (0, frames):
        raise Rejected("Q_FRAMES", "decode")
    if not (frames == 1 if frame is None else 0 <= frame < frames):
        raise Rejected("Q_FRAMES", "decode")
    if frames * shape[0] * shape[1] > MAX_VOLUME_PIXELS:
        raise Rejected("Q_TOO_LARGE", "decode")
    return frames


def _native(
    pixels: bytes, shape: tuple[int, int, int], header: Header, frame: int
) -> np.ndarray:
    order = _NATIVE[header.transfer_syntax]
    allocated = header.integer("BitsAllocated", 0)
    signed = header.integer("PixelRepresentation", 0) == 1
    if allocated not in (8, 16, 32):
        raise Rejected("Q_HEADER", "decode")
    dtype = np.dtype(f"{order}{'i' if signed else 'u'}{allocated // 8}")
    count = shape[1] * shape[2]
    surplus = len(pixels) - shape[0] * count * dtype.itemsize
    if surplus < 0:
        raise Rejected("Q_TRUNCATED", "decode")
    if surplus > 1:
        header.remarks.add("W_PADDED")
    offset = frame * count * dtype.itemsize
    stored = np.frombuffer(pixels, dtype, count, offset).reshape(shape[1:])
    stored = stored.astype(dtype.newbyteorder("="), copy=False)
    spare = allocated - header.integer("BitsStored", allocated)
    # The bits above BitsStored need not repeat the sign (PS3.5 8.1.1).
    return (stored << spare) >> spare if signed and spare else stored


def _encapsulated(
    content: bytes, ds: Dataset, frames: int, frame: int | None
) -> tuple[np.ndarray, str]:
    code, kind = "Q_SYNTAX", ""
    decoders = _DECODERS[str(ds.file_meta.TransferSyntaxUID)]
    if frames > 1:
        _refuse_missing_frames(ds.PixelData, frames)
        decoders = tuple(name for name in decoders if name != "dicomsdl")
    for decoder in decoders:
        try:
            with quiet():
                if decoder == "dicomsdl":
                    return _dicomsdl(content, ds), decoder
                plugin = _PLUGIN_OF[decoder]
                stored = pixel_array(ds, index=frame, raw=True, decoding_plugin=plugin)
                return np.asarray(stored), decoder
        except (ModuleNotFoundError, NotImplementedError) as error:
            code, kind = "Q_SYNTAX", type(error).__name__
        except Exception as error:
            code, kind = "Q_CODESTREAM", type(error).__name__
    raise Rejected(code, "decode", kind)


def _refuse_missing_frames(pixels: bytes, frames: int) -> None:
    stream = io.BytesIO(pixels)
    try:
        held = len(parse_basic_offsets(stream)) or parse_fragments(stream)[0]
    except (ValueError, struct.error) as error:
        raise Rejected("Q_CODESTREAM", "decode", type(error).__name__) from None
    if held < frames:
        raise Rejected("Q_FRAMES", "decode")


def _dicomsdl(content: bytes, ds: Dataset) -> np.ndarray:
    import dicomsdl

    frame = next(generate_frames(ds.PixelData, number_of_frames=1))
    if not frame.rstrip(b"\0").endswith(_END_OF_IMAGE):
        raise ValueError("the codestream has no end")
    # It trusts the header for the size of its memory, which it does not clear.
    precision, rows, columns, samples = _jpeg_frame(frame)
    wide = ds.BitsAllocated == 16
    if (rows, columns, samples, precision > 8) != (ds.Rows, ds.Columns, 1, wide):
        raise ValueError("the codestream is not as large as the header says")
    return np.asarray(dicomsdl.open_memory(content).pixelData(storedvalue=True))


def _jpeg_frame(stream: bytes) -> tuple[int, int, int, int]:
    """Read bits, rows, columns and samples of a JPEG frame header (T.81, B.2.2)."""
    place = 2
    while place + 10 <= len(stream) and stream[place] == 0xFF:
        marker = stream[place + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return (
                stream[place + 4],
                int.from_bytes(stream[place + 5 : place + 7], "big"),
                int.from_bytes(stream[place + 7 : place + 9], "big"),
                stream[place + 9],
            )
        place += 2 + int.from_bytes(stream[place + 2 : place + 4], "big")
    raise ValueError("the codestream has no frame header")


def _check_range(stored: np.ndarray, header: Header, *, may_be_blank: bool) -> None:
    low, high = int(stored.min()), int(stored.max())
    if low == high and not may_be_blank:
        raise Rejected("Q_BLANK", "decode")
    bits = header.integer("BitsStored", stored.dtype.itemsize * 8)
    signed = header.integer("PixelRepresentation", 0) == 1
    limits = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    if low < limits[0] or high > limits[1]:
        header.remarks.add("W_RANGE")
