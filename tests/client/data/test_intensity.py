"""Stored values become [0, 1] as PS3.3 says, on scales of the header only."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset

from client.data import dicom_rules
from client.data.dicom import read_picture
from client.data.dicom_header import header_of
from client.data.intensity import to_unit_range, window
from common.vendors import VENDORS

RAMP = np.arange(4096, dtype=np.uint16).reshape(64, 64)


def _image(dicom: ModuleType, pixels: np.ndarray = RAMP, **elements: Any) -> np.ndarray:
    return read_picture(dicom.image(pixels, **elements)).image


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_window_follows_the_standard(dicom: ModuleType, function: str) -> None:
    center, width = 2000.0, 1500.0
    values = RAMP.astype(np.float64)
    expected = {
        "LINEAR": (values - (center - 0.5)) / (width - 1) + 0.5,
        "LINEAR_EXACT": (values - center) / width + 0.5,
        "SIGMOID": 1 / (1 + np.exp(-4 * (values - center) / width)),
    }[function]
    found = _image(
        dicom, WindowCenter=center, WindowWidth=width, VOILUTFunction=function
    )
    np.testing.assert_allclose(found, np.clip(expected, 0, 1), atol=1e-6)


def test_first_of_several_windows_and_linear_by_default(dicom: ModuleType) -> None:
    several = _image(dicom, WindowCenter=[2000, 100], WindowWidth=[1500, 10])
    one = _image(dicom, WindowCenter=2000, WindowWidth=1500, VOILUTFunction="LINEAR")
    np.testing.assert_array_equal(several, one)


def test_window_of_width_one_is_a_step() -> None:
    found = window(np.array([0.0, 1.0, 2.0], np.float32), 1.5, 1.0, "linear")
    assert found.tolist() == [0.0, 0.0, 1.0]


def test_window_of_another_bit_depth_is_not_believed(dicom: ModuleType) -> None:
    wide = RAMP * 16
    bits = {"BitsStored": 16, "HighBit": 15, "VOILUTFunction": "SIGMOID"}
    content = dicom.image(wide, WindowCenter=128, WindowWidth=256, **bits)
    picture = read_picture(content)
    assert (picture.voi, picture.remarks) == ("range", ("W_VOI",))
    np.testing.assert_allclose(picture.image, wide / 65535.0, atol=1e-6)
    narrow = read_picture(dicom.image(wide, WindowCenter=540, WindowWidth=580, **bits))
    assert narrow.voi == "sigmoid"


def test_missing_window_keeps_the_stored_range(dicom: ModuleType) -> None:
    dim = RAMP // 4
    np.testing.assert_allclose(_image(dicom, dim), dim / 4095.0, atol=1e-7)


@pytest.mark.parametrize("width", [0.5, -3, 0])
def test_unusable_window_falls_back_with_a_remark(
    dicom: ModuleType, width: float
) -> None:
    content = dicom.image(RAMP, WindowCenter=100, WindowWidth=width)
    picture = read_picture(content)
    assert (picture.voi, picture.remarks) == ("range", ("W_VOI",))
    np.testing.assert_allclose(picture.image, RAMP / 4095.0, atol=1e-7)


def test_policy_none_ignores_the_window(dicom: ModuleType) -> None:
    content = dicom.image(RAMP, WindowCenter=100, WindowWidth=10)
    picture = read_picture(content, "none")
    np.testing.assert_allclose(picture.image, RAMP / 4095.0, atol=1e-7)
    assert picture.voi == "range"


def _voi_lut(maximum: int) -> Dataset:
    item = Dataset()
    item.add_new(0x00283002, "US", [4000, 50, 12])
    table = (np.sqrt(np.linspace(0, 1, 4000)) * maximum).astype("<u2")
    item.add_new(0x00283006, "OW", table.tobytes())
    return item


def test_voi_lut_wins_and_is_scaled_by_its_depth_not_its_maximum(
    dicom: ModuleType,
) -> None:
    item = _voi_lut(3990)
    table = np.frombuffer(item.LUTData, "<u2")
    found = _image(dicom, VOILUTSequence=[item], WindowCenter=1, WindowWidth=2)
    expected = table[np.clip(RAMP.astype(int) - 50, 0, 3999)] / 4095.0
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_broken_voi_lut_leaves_the_window(dicom: ModuleType) -> None:
    item = _voi_lut(3990)
    item.LUTData = item.LUTData[:10]
    picture = read_picture(
        dicom.image(RAMP, VOILUTSequence=[item], WindowCenter=2000, WindowWidth=1500)
    )
    assert picture.voi == "linear" and "W_VOI" in picture.remarks


def test_rescale_moves_values_and_range(dicom: ModuleType) -> None:
    plain = _image(dicom)
    moved = _image(dicom, RescaleSlope=2, RescaleIntercept=-100, RescaleType="US")
    np.testing.assert_allclose(moved, plain, atol=1e-6)
    windowed = _image(
        dicom,
        RescaleSlope=2,
        RescaleIntercept=-100,
        RescaleType="US",
        WindowCenter=3900,
        WindowWidth=3000,
    )
    same = _image(dicom, WindowCenter=2000.25, WindowWidth=1500.5)
    np.testing.assert_allclose(windowed, same, atol=1e-6)


@pytest.mark.parametrize(("brightest", "remarks"), [(409, ("W_DIM",)), (410, ())])
def test_an_image_that_stays_dark_is_remarked_on(
    dicom: ModuleType, brightest: int, remarks: tuple[str, ...]
) -> None:
    """As one of 8 bits does beside the window, or in the range, of 12."""
    picture = read_picture(dicom.image(RAMP % brightest + 1))
    assert picture.remarks == remarks


def test_8_bit_display_data_skip_the_window(dicom: ModuleType) -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    ds = dicom.dataset(
        pixels,
        WindowCenter=128,
        WindowWidth=256,
        VOILUTFunction="SIGMOID",
        BitsAllocated=8,
        BitsStored=8,
        HighBit=7,
    )
    ds.PixelData = pixels.tobytes()
    found = read_picture(dicom.to_bytes(ds)).image
    np.testing.assert_allclose(found, pixels / 255.0, atol=1e-7)


@pytest.mark.parametrize("windowed", [True, False])
def test_monochrome1_twin_is_equal(dicom: ModuleType, windowed: bool) -> None:
    elements: dict[str, Any] = {}
    twin: dict[str, Any] = {"PhotometricInterpretation": "MONOCHROME1"}
    if windowed:
        elements = {
            "WindowWidth": 1500,
            "WindowCenter": 2000,
            "VOILUTFunction": "SIGMOID",
        }
        twin |= elements | {"WindowCenter": 4095 - 2000}
    found = _image(dicom, (4095 - RAMP).astype(np.uint16), **twin)
    np.testing.assert_array_equal(found, _image(dicom, **elements))


def test_monochrome1_is_inverted_against_a_fixed_maximum(dicom: ModuleType) -> None:
    dim = (RAMP // 4 + 100).astype(np.uint16)
    found = _image(dicom, dim, PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_allclose(found, 1 - dim / 4095.0, atol=1e-6)


@pytest.mark.parametrize(("value", "limit"), [(0, 30), (30, 0)])
def test_padding_range_is_zero_in_either_order(
    dicom: ModuleType, value: int, limit: int
) -> None:
    padded = _image(
        dicom,
        PixelPaddingValue=value,
        PixelPaddingRangeLimit=limit,
        PhotometricInterpretation="MONOCHROME1",
    )
    assert (padded[RAMP <= 30] == 0).all() and (
        padded[(RAMP > 30) & (RAMP < 4095)] > 0
    ).all()


def test_values_of_32768_and_more_do_not_wrap(dicom: ModuleType) -> None:
    film = (RAMP.astype(np.uint32) * 16).astype(np.uint16)
    found = _image(dicom, film, BitsStored=16, HighBit=15)
    np.testing.assert_allclose(found, film / 65535.0, atol=1e-6)
    assert (np.diff(found.reshape(-1)) > 0).all()


def test_the_stored_array_is_not_changed(dicom: ModuleType) -> None:
    header = header_of(dicom.dataset(RAMP, PixelPaddingValue=0))
    stored = RAMP.copy()
    to_unit_range(stored, header, "first")
    np.testing.assert_array_equal(stored, RAMP)


def test_values_beyond_bits_stored_are_clipped_with_a_remark(dicom: ModuleType) -> None:
    bright = RAMP.copy()
    bright[0, 0] = 60000
    picture = read_picture(dicom.image(bright))
    assert picture.image[0, 0] == 1.0 and picture.remarks == ("W_RANGE",)


def test_signed_pixels_use_the_signed_range(dicom: ModuleType) -> None:
    signed = RAMP.astype(np.int16) - 2048
    ds = dicom.dataset(RAMP, PixelRepresentation=1)
    # Bits above BitsStored left unset: the sign has to be restored from bit 11.
    ds.PixelData = (signed & 0x0FFF).astype("<i2").tobytes()
    np.testing.assert_allclose(
        read_picture(dicom.to_bytes(ds)).image, RAMP / 4095.0, atol=1e-6
    )


def test_a_plan_makes_exceptions_by_vendor_and_by_intent(dicom: ModuleType) -> None:
    window_ = {"WindowCenter": 900, "WindowWidth": 900}
    siemens = dicom.image(RAMP, Manufacturer="SIEMENS", **window_)
    hologic = dicom.image(RAMP, **window_)
    nameless = dicom.image(RAMP, Manufacturer="", **window_)
    exceptions = {
        "siemens": "none",
        "hologic/unknown": "none",
        "unknown": "none",
        "unknown/presentation": "first",
    }
    for content, step in (
        (siemens, "range"),
        (hologic, "linear"),
        (nameless, "linear"),
    ):
        assert read_picture(content, voi_of=exceptions).voi == step
    assert read_picture(hologic, "none", voi_of={"hologic": "first"}).voi == "linear"


def test_a_plan_can_name_every_vendor_that_is_told_apart() -> None:
    assert set(dicom_rules.VENDORS.values()) | {"other", "unknown"} == set(VENDORS)
