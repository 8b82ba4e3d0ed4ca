"""PNG, JPEG and PGM files: what their container tells, and their pixels in [0, 1].

A raster has no header worth the name: side, view, patient and true bit depth come from
a table. A 16-bit file may span 0..65535 or 0..4095 for the same image. Of the Netpbm
family only binary grey maps (PGM, magic number P5) are read.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from client.data.codes import Rejected
from client.data.dicom import Picture
from client.data.dicom_decode import MAX_PIXELS

_MODES = {"L": (8, False), "I;16": (16, False), "I;16B": (16, False), "I": (16, False)}
_COLOUR = ("RGB", "RGBA", "P", "LA", "CMYK", "YCbCr", "PA")


@dataclass(frozen=True)
class Container:
    """What the container tells without decoding: bits per sample, and colour."""

    bits: int
    colour: bool


def read_container(content: bytes) -> Container:
    """Read the container of a PNG, JPEG or PGM file in memory.

    Raises
    ------
    Rejected
        ``Q_EMPTY``, ``X_NOT_IMAGE``, ``Q_TOO_LARGE``, ``Q_CODESTREAM``.
    """
    if not content:
        raise Rejected("Q_EMPTY", "read")
    grey_map = content[:2] == b"P5" and content[2:3].isspace()
    formats = ("PPM",) if grey_map else ("PNG", "JPEG")
    try:
        with Image.open(io.BytesIO(content), formats=formats) as picture:
            mode, (columns, rows) = picture.mode, picture.size
    except UnidentifiedImageError:
        png_or_jpeg = content.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8"))
        code = "Q_CODESTREAM" if png_or_jpeg or grey_map else "X_NOT_IMAGE"
        raise Rejected(code, "read") from None
    except Image.DecompressionBombError:
        raise Rejected("Q_TOO_LARGE", "read") from None
    except Exception as error:
        raise Rejected("Q_CODESTREAM", "read", type(error).__name__) from None
    if rows * columns > MAX_PIXELS:
        raise Rejected("Q_TOO_LARGE", "read")
    if mode in _MODES:
        return Container(*_MODES[mode])
    if mode in _COLOUR:
        return Container(8, True)
    raise Rejected("Q_CODESTREAM", "read")


def read_raster(content: bytes, bits: int, photometric: str) -> Picture:
    """Decode a PNG, JPEG or PGM file in memory.

    Parameters
    ----------
    content : the whole file
    bits : true bit depth of a grey image; 2**bits - 1 becomes 1.0
    photometric : ``MONOCHROME1`` inverts

    Raises
    ------
    Rejected
        ``Q_CODESTREAM`` or ``Q_BLANK``.
    """
    encoded = np.frombuffer(content, np.uint8)
    stored = cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED)
    if stored is None or stored.dtype.kind != "u":
        raise Rejected("Q_CODESTREAM", "decode")
    if stored.ndim == 3:
        stored = cv2.cvtColor(stored[:, :, :3], cv2.COLOR_BGR2GRAY)
        bits = 8 * stored.itemsize  # display values: the container's range is theirs
    if stored.min() == stored.max():
        raise Rejected("Q_BLANK", "decode")
    maximum = 2**bits - 1
    remarks = ("W_RANGE",) if stored.max() > maximum else ()
    image = np.clip(stored.astype(np.float32) / np.float32(maximum), 0.0, 1.0)
    if photometric == "MONOCHROME1":
        image = np.float32(1.0) - image
    return Picture(image, None, "opencv-python-headless", "range", remarks)
