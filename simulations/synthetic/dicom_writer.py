"""One view as DICOM: a mammogram, and a synthetic 2D image or a volume beside it.

A mammogram is a Digital Mammography X-Ray Image, For Presentation; a volume is a Breast
Tomosynthesis Image of several frames, or a CT Image for each slice.

Source: DICOM PS3.3 A.27, A.55 and A.3 (the objects), C.7.6.16 (functional groups),
C.8.11.1 to C.8.11.7 (DX and mammography modules), C.11.2 (VOI LUT); PS3.16 CID 4014
(views).
"""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import (
    UID,
    BreastTomosynthesisImageStorage,
    CTImageStorage,
    DigitalMammographyXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    generate_uid,
)

from simulations.synthetic.profiles import LATERALITIES, VIEWS, SiteProfile
from simulations.synthetic.render import chest_wall_right

VIEW_CODES = {
    "CC": ("399162004", "cranio-caudal"),
    "MLO": ("399368009", "medio-lateral oblique"),
}
BREAST_CODE = ("76752008", "Breast")
STUDY_DATE = "20260101"  # the same for all: dates carry no information here
SOFTWARE = "mammofed synthetic"
SLICE_MM = 4.0


@dataclass(frozen=True)
class ImageIdentity:
    """Which image of an archive this is; every UID derives from it.

    Attributes
    ----------
    seed : of the archive
    patient_id : ``P0007``
    age_years : of the patient
    laterality, view : ``L`` or ``R``; ``CC`` or ``MLO``
    name : of an object beside the mammogram of this view; empty for the mammogram
    """

    seed: int
    patient_id: str
    age_years: int
    laterality: str
    view: str
    name: str = ""


def make_uid(profile: SiteProfile, seed: int, *names: str) -> str:
    """Derive a UID of up to 64 characters from the seed, the site and names."""
    entropy = ["mammofed synthetic", str(seed), profile.site, *names]
    return str(generate_uid(entropy_srcs=["\x1f".join(entropy)]))


def sop_instance_uid(profile: SiteProfile, identity: ImageIdentity) -> str:
    """Return the SOP instance UID of an image."""
    names = (identity.patient_id, identity.laterality, identity.view, identity.name)
    return make_uid(profile, identity.seed, *filter(None, names))


def encode_image(
    profile: SiteProfile, identity: ImageIdentity, stored: NDArray[np.uint16]
) -> bytes:
    """Encode one image as a DICOM file, Explicit VR Little Endian.

    Parameters
    ----------
    profile : the hospital
    identity : whose image of which view
    stored : uint16, shape (rows, columns), at most ``profile.top``

    Returns
    -------
    bytes; the same for the same input
    """
    return _to_bytes(_image(profile, identity, stored))


def encode_synthetic_2d(
    profile: SiteProfile, identity: ImageIdentity, stored: NDArray[np.uint16]
) -> bytes:
    """Encode a 2D image that was made from a volume; as `encode_image`."""
    ds = _image(profile, identity, stored)
    ds.ImageType = ["DERIVED", "PRIMARY", "TOMO", "GENERATED_2D"]
    _start_series(ds, profile, identity, f"{identity.view} S-View", 2)
    return _to_bytes(ds)


def encode_volume(
    profile: SiteProfile, identity: ImageIdentity, volume: NDArray[np.uint16]
) -> bytes:
    """Encode a volume [slice, row, column], MONOCHROME2, as one object."""
    ds = _volume(profile, identity, volume[0], BreastTomosynthesisImageStorage)
    ds.ImageType = ["DERIVED", "PRIMARY", "TOMOSYNTHESIS", "NONE"]
    anatomy = _item(
        FrameLaterality=identity.laterality,
        AnatomicRegionSequence=ds.AnatomicRegionSequence,
    )
    shared = _item(FrameAnatomySequence=[anatomy])
    groups = {
        "PixelMeasuresSequence": ("PixelSpacing", "SliceThickness"),
        "FrameVOILUTSequence": ("WindowCenter", "WindowWidth", "VOILUTFunction"),
        "PixelValueTransformationSequence": (
            "RescaleIntercept",
            "RescaleSlope",
            "RescaleType",
        ),
    }
    for group, keywords in groups.items():
        setattr(shared, group, [_item(**{key: ds[key].value for key in keywords})])
        for key in keywords:
            del ds[key]
    del ds.Laterality, ds.AnatomicRegionSequence
    ds.SharedFunctionalGroupsSequence = [shared]
    ds.PerFrameFunctionalGroupsSequence = [
        _item(
            FrameContentSequence=[_item(StackID="1", InStackPositionNumber=number + 1)],
            PlanePositionSequence=[_item(ImagePositionPatient=_position(number))],
        )
        for number in range(len(volume))
    ]
    ds.NumberOfFrames = len(volume)
    ds.PixelData = volume.astype("<u2").tobytes()
    return _to_bytes(ds)


def encode_slice(
    profile: SiteProfile,
    identity: ImageIdentity,
    stored: NDArray[np.uint16],
    number: int,
) -> bytes:
    """Encode slice `number`, counted from 0, of a volume as a CT Image."""
    ds = _volume(profile, identity, stored, CTImageStorage)
    ds.Modality = "CT"
    ds.ImageType = ["DERIVED", "PRIMARY", "TOMO"]
    ds.InstanceNumber = number + 1
    ds.ImagePositionPatient = _position(number)
    return _to_bytes(ds)


def _volume(
    profile: SiteProfile,
    identity: ImageIdentity,
    stored: NDArray[np.uint16],
    sop_class: UID,
) -> FileDataset:
    """Return what both ways to store a volume have in common."""
    ds = _image(replace(profile, monochrome1=False), identity, stored)
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = sop_class
    ds.Laterality = identity.laterality
    ds.PixelSpacing, ds.SliceThickness = ds.ImagerPixelSpacing, SLICE_MM
    ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    ds.FrameOfReferenceUID = make_uid(
        profile, identity.seed, identity.patient_id, "frame of reference"
    )
    del ds.ImageLaterality, ds.ImagerPixelSpacing, ds.PresentationIntentType
    _start_series(ds, profile, identity, f"{identity.view} Tomo", 3)
    return ds


def _start_series(
    ds: Dataset, profile: SiteProfile, identity: ImageIdentity, title: str, number: int
) -> None:
    side, view = identity.laterality, identity.view
    names = (identity.patient_id, side, view, f"series {number}")
    ds.SeriesInstanceUID = make_uid(profile, identity.seed, *names)
    ds.SeriesDescription, ds.SeriesNumber = f"{side} {title}", number


def _position(number: int) -> list[float]:
    return [0.0, 0.0, number * SLICE_MM]


def _item(**elements: Any) -> Dataset:
    item = Dataset()
    for keyword, value in elements.items():
        setattr(item, keyword, value)
    return item


def _image(
    profile: SiteProfile, identity: ImageIdentity, stored: NDArray[np.uint16]
) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = DigitalMammographyXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = sop_instance_uid(profile, identity)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    _add_patient_and_study(ds, profile, identity)
    _add_series_and_equipment(ds, profile, identity)
    _add_anatomy(ds, profile, identity)
    _add_pixels(ds, profile, stored)
    _add_display(ds, profile)
    return ds


def _to_bytes(ds: FileDataset) -> bytes:
    stream = io.BytesIO()
    ds.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def _add_patient_and_study(
    ds: Dataset, profile: SiteProfile, identity: ImageIdentity
) -> None:
    """Add Patient, General Study and Patient Study."""
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.PatientName = f"Synthetic^{identity.patient_id}"
    ds.PatientID = identity.patient_id
    ds.PatientBirthDate = ""
    ds.PatientSex = "F"
    ds.PatientAge = f"{identity.age_years:03d}Y"
    ds.StudyInstanceUID = make_uid(profile, identity.seed, identity.patient_id, "study")
    ds.StudyDate = STUDY_DATE
    ds.StudyTime = "120000"
    ds.StudyID = "1"
    ds.AccessionNumber = ""
    ds.ReferringPhysicianName = ""


def _add_series_and_equipment(
    ds: Dataset, profile: SiteProfile, identity: ImageIdentity
) -> None:
    """Add General, DX and Mammography Series, General Equipment, SOP Common."""
    number = 1 + LATERALITIES.index(identity.laterality) * 2
    number += VIEWS.index(identity.view)
    ds.SOPClassUID = DigitalMammographyXRayImageStorageForPresentation
    ds.SOPInstanceUID = sop_instance_uid(profile, identity)
    ds.SeriesInstanceUID = make_uid(
        profile, identity.seed, identity.patient_id, "series"
    )
    ds.Modality = "MG"
    ds.PresentationIntentType = "FOR PRESENTATION"
    ds.SeriesNumber = 1
    ds.InstanceNumber = number
    ds.Manufacturer = profile.manufacturer
    ds.ManufacturerModelName = profile.model
    ds.SoftwareVersions = SOFTWARE
    ds.InstitutionName = f"Synthetic site {profile.site}"


def _add_anatomy(ds: Dataset, profile: SiteProfile, identity: ImageIdentity) -> None:
    """Add DX Anatomy Imaged, Mammography Image and Acquisition Context."""
    ds.ImageLaterality = identity.laterality
    ds.PatientOrientation = patient_orientation(profile, identity)
    ds.AnatomicRegionSequence = [_code(*BREAST_CODE)]
    view = _code(*VIEW_CODES[identity.view])
    view.ViewModifierCodeSequence = []
    ds.ViewCodeSequence = [view]
    ds.ViewPosition = identity.view
    ds.PositionerType = "MAMMOGRAPHIC"
    ds.OrganExposed = "BREAST"
    ds.BodyPartExamined = "BREAST"
    ds.BreastImplantPresent = "NO"
    ds.AcquisitionContextSequence = []


def patient_orientation(profile: SiteProfile, identity: ImageIdentity) -> list[str]:
    """Return the directions of rows and of columns (0020,0020).

    Rows run away from the chest wall (A) or towards it (P). Columns run to the feet in
    MLO and from lateral to medial in CC.
    """
    rows = "P" if chest_wall_right(profile, identity.laterality) else "A"
    medial = "R" if identity.laterality == "L" else "L"
    return [rows, medial if identity.view == "CC" else f"F{medial}"]


def _code(value: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue = value
    item.CodingSchemeDesignator = "SCT"
    item.CodeMeaning = meaning
    return item


def _add_pixels(ds: Dataset, profile: SiteProfile, stored: NDArray[np.uint16]) -> None:
    """Add Image Pixel, DX Image and DX Detector."""
    rows, columns = stored.shape
    spacing = round(profile.field_height_mm / rows, 6)
    ds.ImageType = ["DERIVED", "PRIMARY", ""]
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = (
        "MONOCHROME1" if profile.monochrome1 else "MONOCHROME2"
    )
    ds.Rows, ds.Columns = rows, columns
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, profile.bits, profile.bits - 1
    ds.PixelRepresentation = 0
    ds.PixelIntensityRelationship = "LOG"
    ds.PixelIntensityRelationshipSign = 1 if profile.monochrome1 else -1
    ds.ImagerPixelSpacing = [spacing, spacing]
    ds.DetectorType = "DIRECT"
    ds.BurnedInAnnotation = "NO"
    ds.LossyImageCompression = "00"
    if profile.padded:
        ds.PixelPaddingValue = profile.top if profile.monochrome1 else 0
    ds.PixelData = stored.astype("<u2").tobytes()


def _add_display(ds: Dataset, profile: SiteProfile) -> None:
    """Add the identity rescale and the VOI LUT, in stored values."""
    centre, width = (fraction * profile.top for fraction in profile.window)
    if profile.monochrome1:
        centre = profile.top - centre
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = 0, 1, "US"
    ds.WindowCenter, ds.WindowWidth = round(centre, 1), round(width, 1)
    ds.VOILUTFunction = profile.voi_function
    ds.PresentationLUTShape = "INVERSE" if profile.monochrome1 else "IDENTITY"
