"""One DICOM file in memory -> one image in [0, 1]; the way there, and its provenance.

The steps are files of their own: `dicom_header` (keep-list), `dicom_rules` (what is
it), `dicom_decode` (pixels), `intensity` (values). Rasters go through `raster`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np
from pydicom.dataset import Dataset

from client.data.codes import Rejected
from client.data.dicom_decode import decode
from client.data.dicom_header import Header, header_of, read_dataset
from client.data.dicom_rules import intent, vendor
from client.data.intensity import Voi, to_unit_range, voi_is_unusable

DIM = 0.1
"""Brightest value below which an image is remarked on. In RSNA there are an image of 8
bits with the window of another depth, and one of a very low range."""


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


def read_picture(
    content: bytes,
    voi: Voi = "first",
    frames: tuple[int, int] | None = None,
    voi_of: Mapping[str, Voi] | None = None,
    alive: Callable[[], None] = lambda: None,
) -> Picture:
    """Decode a file that `client.data.dicom_rules.classify` has accepted.

    Parameters
    ----------
    content : the whole file
    voi : as in `client.data.intensity.to_unit_range`
    frames : first and one past the last of a volume, which become one image, the
        maximum of them after VOI and inversion; None for a file of one image
    voi_of : exceptions by vendor or ``vendor/intent``, see `common.plan.Preprocessing`
    alive : called before each frame, for whoever watches over a long volume

    Raises
    ------
    Rejected
        With the code of the step that failed; never with a value of the file.
    """
    ds = read_dataset(content, pixels=True)
    header = header_of(ds)
    voi = _voi_of(header, voi_of or {}) or voi
    wanted: Iterable[int | None] = (None,) if frames is None else range(*frames)

    def shown() -> Iterator[Picture]:
        for frame in wanted:
            alive()
            yield _show(content, ds, header, voi, frame)

    picture = reduce(brightest, shown())
    if voi == "first" and voi_is_unusable(header):
        header.remarks.add("W_VOI")
    return replace(picture, remarks=tuple(sorted(header.remarks)))


def brightest(picture: Picture, other: Picture) -> Picture:
    """Take the maximum of two slices of one volume, into the image of the first.

    Raises
    ------
    Rejected
        ``Q_FRAMES`` if they are not of one size.
    """
    if picture.image.shape != other.image.shape:
        raise Rejected("Q_FRAMES", "decode")
    np.maximum(picture.image, other.image, out=picture.image)
    remarks = {*picture.remarks, *other.remarks}
    return replace(picture, remarks=tuple(sorted(remarks)))


def _voi_of(header: Header, exceptions: Mapping[str, Voi]) -> Voi | None:
    name = vendor(header.text("Manufacturer")) or "unknown"
    return exceptions.get(f"{name}/{intent(header)}") or exceptions.get(name)


def _show(
    content: bytes, ds: Dataset, header: Header, voi: Voi, frame: int | None
) -> Picture:
    stored, decoder = decode(content, ds, header, frame)
    image, step = to_unit_range(stored, header, voi)
    if frame is None and image.max() < DIM:
        header.remarks.add("W_DIM")
    return Picture(image, _spacing(header), decoder, step, ())


def _spacing(header: Header) -> tuple[float, float] | None:
    # ImagerPixelSpacing is measured at the detector; PixelSpacing may be calibrated.
    for keyword in ("ImagerPixelSpacing", "PixelSpacing"):
        values = header.numbers[keyword]
        if len(values) == 2 and all(0 < value < 10 for value in values):
            return values[0], values[1]
    return None
