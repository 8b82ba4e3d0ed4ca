"""Decode pixels: one pinned decoder per transfer syntax, so that bytes reproduce.

GPL decoders are never used. 12-bit JPEG Extended is read by dicomsdl only: gdcm and
pylibjpeg fail on it. A decoder may crash or hang: call this in a worker process
(`client.data.workers`), where a crash or a hang costs one file.
"""

from __future__ import annotations

from importlib.metadata import version

import numpy as np
from pydicom.dataset import Dataset
from pydicom.pixels import pixel_array

from client.data.codes import Rejected
from client.data.dicom_header import DEFLATED, Header, quiet

MAX_PIXELS = 128 * 1024**2
"""Cap on rows * columns before anything is allocated."""

_NATIVE = {
    "1.2.840.10008.1.2": "<",
    "1.2.840.10008.1.2.1": "<",
    DEFLATED: "<",
    "1.2.840.10008.1.2.2": ">",
}
_JPEG_EXTENDED = "1.2.840.10008.1.2.4.51"
_PLUGINS = {
    "1.2.840.10008.1.2.5": "pylibjpeg",
    "1.2.840.10008.1.2.4.50": "gdcm",
    "1.2.840.10008.1.2.4.57": "gdcm",
    "1.2.840.10008.1.2.4.70": "gdcm",
    "1.2.840.10008.1.2.4.80": "pyjpegls",
    "1.2.840.10008.1.2.4.81": "pyjpegls",
    "1.2.840.10008.1.2.4.90": "pylibjpeg",
    "1.2.840.10008.1.2.4.91": "pylibjpeg",
}
_PACKAGE = {
    "1.2.840.10008.1.2.5": "pylibjpeg-rle",
    "1.2.840.10008.1.2.4.90": "pylibjpeg-openjpeg",
    "1.2.840.10008.1.2.4.91": "pylibjpeg-openjpeg",
    _JPEG_EXTENDED: "dicomsdl",
}
_DISTRIBUTION = {"gdcm": "python-gdcm", "pyjpegls": "pyjpegls"}


def decode(content: bytes, ds: Dataset, header: Header) -> tuple[np.ndarray, str]:
    """Decode the one frame of an image.

    Parameters
    ----------
    content : the whole file; only dicomsdl needs it
    ds : of the same file, with its pixels
    header : of the same file; a remark may be added

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
    syntax = header.transfer_syntax
    if "PixelData" not in ds:
        raise Rejected("Q_TRUNCATED", "decode")
    if syntax in _NATIVE:
        stored = _native(ds.PixelData, shape, header, _NATIVE[syntax])
    elif syntax in _PLUGINS or syntax == _JPEG_EXTENDED:
        stored = _encapsulated(content, ds, syntax)
    else:
        raise Rejected("Q_SYNTAX", "decode")
    if stored.shape != shape or stored.dtype.kind not in "iu":
        raise Rejected("Q_CODESTREAM", "decode")
    _check_range(stored, header)
    return stored, decoder_name(syntax)


def decoder_name(syntax: str) -> str:
    """Name the package that decodes a transfer syntax."""
    plugin = _PLUGINS.get(syntax, "")
    return _PACKAGE.get(syntax) or _DISTRIBUTION.get(plugin, "pydicom")


def decoder_versions() -> dict[str, str]:
    """Return package -> version of everything that can shape a pixel."""
    names = {"pydicom", "numpy", "opencv-python-headless", "pylibjpeg", "dicomsdl"}
    names |= set(_PACKAGE.values()) | set(_DISTRIBUTION.values())
    return {name: version(name) for name in sorted(names)}


def _declared_shape(header: Header) -> tuple[int, int]:
    rows, columns = header.integer("Rows", 0), header.integer("Columns", 0)
    if rows < 1 or columns < 1:
        raise Rejected("Q_HEADER", "decode")
    if rows * columns > MAX_PIXELS:
        raise Rejected("Q_TOO_LARGE", "decode")
    if header.frames_described > 1 or header.integer("NumberOfFrames", 1) != 1:
        raise Rejected("Q_FRAMES", "decode")
    return rows, columns


def _native(
    pixels: bytes, shape: tuple[int, int], header: Header, order: str
) -> np.ndarray:
    allocated = header.integer("BitsAllocated", 0)
    signed = header.integer("PixelRepresentation", 0) == 1
    if allocated not in (8, 16, 32):
        raise Rejected("Q_HEADER", "decode")
    dtype = np.dtype(f"{order}{'i' if signed else 'u'}{allocated // 8}")
    count = shape[0] * shape[1]
    surplus = len(pixels) - count * dtype.itemsize
    if surplus < 0:
        raise Rejected("Q_TRUNCATED", "decode")
    if surplus > 1:
        header.remarks.add("W_PADDED")
    stored = np.frombuffer(pixels, dtype, count).reshape(shape)
    stored = stored.astype(dtype.newbyteorder("="), copy=False)
    spare = allocated - header.integer("BitsStored", allocated)
    # The bits above BitsStored need not repeat the sign (PS3.5 8.1.1).
    return (stored << spare) >> spare if signed and spare else stored


def _encapsulated(content: bytes, ds: Dataset, syntax: str) -> np.ndarray:
    try:
        with quiet():
            if syntax == _JPEG_EXTENDED:
                return _dicomsdl(content)
            return np.asarray(
                pixel_array(ds, raw=True, decoding_plugin=_PLUGINS[syntax])
            )
    except (ModuleNotFoundError, NotImplementedError) as error:
        raise Rejected("Q_SYNTAX", "decode", type(error).__name__) from None
    except Exception as error:
        raise Rejected("Q_CODESTREAM", "decode", type(error).__name__) from None


def _dicomsdl(content: bytes) -> np.ndarray:
    import dicomsdl

    return np.asarray(dicomsdl.open_memory(content).pixelData(storedvalue=True))


def _check_range(stored: np.ndarray, header: Header) -> None:
    low, high = int(stored.min()), int(stored.max())
    if low == high:
        raise Rejected("Q_BLANK", "decode")
    bits = header.integer("BitsStored", stored.dtype.itemsize * 8)
    signed = header.integer("PixelRepresentation", 0) == 1
    limits = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    if low < limits[0] or high > limits[1]:
        header.remarks.add("W_RANGE")
