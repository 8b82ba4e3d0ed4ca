"""Every file is a standard Digital Mammography image that decodes to what we drew."""

import io

import numpy as np
import pydicom
import pytest
from pydicom.uid import DigitalMammographyXRayImageStorageForPresentation

from simulations.synthetic.dicom_writer import ImageIdentity, encode_image
from simulations.synthetic.profiles import ALL_SITES
from simulations.synthetic.render import render_patient

# Type 1 elements of PS3.3 A.27 for our kind of image: present and not empty.
TYPE_1 = [
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "Modality",
    "PresentationIntentType",
    "ImageLaterality",
    "AnatomicRegionSequence",
    "ViewCodeSequence",
    "PositionerType",
    "ImageType",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelIntensityRelationship",
    "PixelIntensityRelationshipSign",
    "RescaleIntercept",
    "RescaleSlope",
    "RescaleType",
    "PresentationLUTShape",
    "LossyImageCompression",
    "BurnedInAnnotation",
    "ImagerPixelSpacing",
    "PatientOrientation",
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
    "PixelData",
]
# Type 2: present, may be empty.
TYPE_2 = [
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
    "SeriesNumber",
    "InstanceNumber",
    "Manufacturer",
    "DetectorType",
    "AcquisitionContextSequence",
]


def encode(profile, laterality="L", view="MLO") -> tuple[bytes, np.ndarray]:
    stored = render_patient(profile, 1, 0, 128, 64)[laterality, view]
    identity = ImageIdentity(1, "P0000", 50, laterality, view)
    return encode_image(profile, identity, stored), stored


@pytest.mark.parametrize("profile", ALL_SITES, ids=lambda p: p.site)
def test_required_elements_are_there(profile):
    content, _ = encode(profile)
    ds = pydicom.dcmread(io.BytesIO(content))  # not forced: needs preamble and meta
    missing = [name for name in TYPE_1 if ds.get(name) in (None, "", [])]
    missing += [name for name in TYPE_2 if name not in ds]
    assert not missing
    assert "ViewModifierCodeSequence" in ds.ViewCodeSequence[0]
    assert ds.SOPClassUID == DigitalMammographyXRayImageStorageForPresentation
    assert ds.file_meta.MediaStorageSOPInstanceUID == ds.SOPInstanceUID
    assert ds.Modality == "MG"
    assert ds.BurnedInAnnotation == "NO"


@pytest.mark.parametrize("profile", ALL_SITES, ids=lambda p: p.site)
def test_values_are_legal_and_pixels_come_back(profile):
    with pydicom.config.strict_reading():
        content, stored = encode(profile)
        ds = pydicom.dcmread(io.BytesIO(content))
        assert [str(element.value) for element in ds if element.VR != "SQ"]
    np.testing.assert_array_equal(ds.pixel_array, stored)
    assert ds.BitsStored == profile.bits == ds.HighBit + 1
    assert ds.ImagerPixelSpacing[0] == pytest.approx(profile.field_height_mm / 128)
    inverse = "INVERSE" if profile.monochrome1 else "IDENTITY"
    assert ds.PresentationLUTShape == inverse
    if profile.padded:
        assert (ds.pixel_array == ds.PixelPaddingValue).any()


@pytest.mark.parametrize("profile", ALL_SITES, ids=lambda p: p.site)
def test_orientation_agrees_with_the_pixels(profile):
    for laterality in "LR":
        content, stored = encode(profile, laterality, "CC")
        ds = pydicom.dcmread(io.BytesIO(content))
        bright = profile.top - stored.astype(int) if profile.monochrome1 else stored
        chest_wall_left = bright[:, :32].sum() > bright[:, 32:].sum()
        medial = "R" if laterality == "L" else "L"
        assert list(ds.PatientOrientation) == ["A" if chest_wall_left else "P", medial]
        assert ds.ImageLaterality == laterality


def test_views_are_coded():
    codes = {
        view: pydicom.dcmread(io.BytesIO(encode(ALL_SITES[0], "R", view)[0]))
        .ViewCodeSequence[0]
        .CodeValue
        for view in ("CC", "MLO")
    }
    assert codes == {"CC": "399162004", "MLO": "399368009"}


def test_the_window_shows_the_breast_and_not_the_air():
    for profile in ALL_SITES:
        content, _ = encode(profile)
        ds = pydicom.dcmread(io.BytesIO(content))
        shown = pydicom.pixels.apply_voi_lut(ds.pixel_array, ds) / profile.top
        shown = 1 - shown if profile.monochrome1 else shown
        assert np.median(shown[:, 50:]) < 0.1 or profile.mirrored
        assert 0.15 < np.percentile(shown, 90) < 0.95


def test_uids_are_unique_and_repeatable():
    contents = [
        encode(profile, laterality, view)[0]
        for profile in ALL_SITES
        for laterality in "LR"
        for view in ("CC", "MLO")
    ]
    uids = [pydicom.dcmread(io.BytesIO(c)).SOPInstanceUID for c in contents]
    assert len(set(uids)) == len(uids)
    assert all(uid.is_valid and len(uid) <= 64 for uid in uids)
    assert encode(ALL_SITES[0], "L", "CC")[0] == contents[0]
