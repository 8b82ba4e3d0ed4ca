"""One stored image as a Digital Mammography X-Ray Image, For Presentation.

Source: DICOM PS3.3 A.27 (the object), C.8.11.1 to C.8.11.7 (DX and mammography
modules), C.11.2 (VOI LUT); PS3.16 CID 4014 (views).
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import (
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


@dataclass(frozen=True)
class ImageIdentity:
    """Which image of an archive this is; every UID derives from it.

    Attributes
    ----------
    seed : of the archive
    patient_id : ``P0007``
    age_years : of the patient
    laterality, view : ``L`` or ``R``; ``CC`` or ``MLO``
    """

    seed: int
    patient_id: str
    age_years: int
    laterality: str
    view: str


def make_uid(profile: SiteProfile, seed: int, *names: str) -> str:
    """Derive a UID of up to 64 characters from the seed, the site and names."""
    entropy = ["mammofed synthetic", str(seed), profile.site, *names]
    return str(generate_uid(entropy_srcs=["\x1f".join(entropy)]))


def sop_instance_uid(profile: SiteProfile, identity: ImageIdentity) -> str:
    """Return the SOP instance UID of an image."""
    names = (identity.patient_id, identity.laterality, identity.view)
    return make_uid(profile, identity.seed, *names)


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
