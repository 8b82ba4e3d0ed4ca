"""One DICOM file in memory -> one image in [0, 1]; the way there, and its provenance.

The steps are files of their own: `dicom_header` (keep-list), `dicom_rules` (what is
it), `dicom_decode` (pixels), `intensity` (values). Rasters go through `raster`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from client.data.dicom_decode import decode
from client.data.dicom_header import Header, header_of, read_dataset
from client.data.intensity import Voi, to_unit_range, voi_is_unusable


@dataclass(frozen=True)
class Picture:
    """A decoded image and where it came from.

    Attributes
    ----------
    image : float32, shape (rows, columns), range [0, 1], MONOCHROME2, padding 0
    spacing : millimetres between rows and between columns, or None
    decoder : package that decoded the pixels
    voi : step taken, see `client.data.intensity.to_unit_range`
    remarks : ``W_`` codes, sorted
    """

    image: np.ndarray
    spacing: tuple[float, float] | None
    decoder: str
    voi: str
    remarks: tuple[str, ...]


def read_picture(content: bytes, voi: Voi = "first") -> Picture:
    """Decode a file that `client.data.dicom_rules.classify` has accepted.

    Raises
    ------
    Rejected
        With the code of the step that failed; never with a value of the file.
    """
    ds = read_dataset(content, pixels=True)
    header = header_of(ds)
    stored, decoder = decode(content, ds, header)
    image, step = to_unit_range(stored, header, voi)
    if voi == "first" and voi_is_unusable(header):
        header.remarks.add("W_VOI")
    return Picture(
        image, _spacing(header), decoder, step, tuple(sorted(header.remarks))
    )


def _spacing(header: Header) -> tuple[float, float] | None:
    # ImagerPixelSpacing is measured at the detector; PixelSpacing may be calibrated.
    for keyword in ("ImagerPixelSpacing", "PixelSpacing"):
        values = header.numbers[keyword]
        if len(values) == 2 and all(0 < value < 10 for value in values):
            return values[0], values[1]
    return None
