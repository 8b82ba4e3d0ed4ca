"""PNG, JPEG and PGM: depth, colour and broken files."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from client.data.codes import Rejected
from client.data.raster import Container, read_container, read_raster

RAMP = np.arange(4096, dtype=np.uint16).reshape(64, 64)


def _encode(pixels: np.ndarray, kind: str = ".png") -> bytes:
    return cv2.imencode(kind, pixels)[1].tobytes()


def test_both_scales_of_a_12_bit_image_agree() -> None:
    narrow = read_raster(_encode(RAMP), 12, "MONOCHROME2").image
    wide = read_raster(_encode(RAMP * 16), 16, "MONOCHROME2").image
    np.testing.assert_allclose(narrow, RAMP / 4095, atol=1e-7)
    np.testing.assert_allclose(wide, narrow, atol=16 / 65535)


def test_container_tells_depth_and_colour() -> None:
    grey = (RAMP // 16).astype(np.uint8)
    assert read_container(_encode(RAMP)) == Container(16, False)
    assert read_container(_encode(grey, ".jpg")) == Container(8, False)
    assert read_container(_encode(np.dstack([grey] * 3))) == Container(8, True)


def test_colour_of_equal_channels_is_the_grey_image() -> None:
    grey = (RAMP // 16).astype(np.uint8)
    colour = read_raster(_encode(np.dstack([grey] * 3)), 8, "MONOCHROME2").image
    np.testing.assert_allclose(colour, grey / 255, atol=1e-7)


def test_colour_of_16_bits_spans_its_container() -> None:
    wide = (RAMP * 16).astype(np.uint16)
    picture = read_raster(_encode(np.dstack([wide] * 3)), 8, "MONOCHROME2")
    np.testing.assert_allclose(picture.image, wide / 65535, atol=1e-7)
    assert picture.remarks == ()


def test_monochrome1_is_inverted_and_excess_is_clipped() -> None:
    picture = read_raster(_encode(RAMP), 11, "MONOCHROME1")
    assert picture.remarks == ("W_RANGE",)
    assert picture.image[0, 0] == 1.0 and picture.image[-1, -1] == 0.0


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "Q_EMPTY"),
        (b"a,b\n1,2\n", "X_NOT_IMAGE"),
        (b"\x89PNG\r\n\x1a\n broken", "Q_CODESTREAM"),
        (b"P5\n64 ", "Q_CODESTREAM"),
        (b"P5\n64 64\n70000\n", "Q_CODESTREAM"),
        (b"P5,P6\n", "X_NOT_IMAGE"),
        (b"P2\n1 1\n255\n7\n", "X_NOT_IMAGE"),
        (b"P6\n1 1\n255\nabc", "X_NOT_IMAGE"),
    ],
)
def test_broken_container_has_its_code(content: bytes, code: str) -> None:
    with pytest.raises(Rejected, match=code):
        read_container(content)


def test_truncated_png_is_rejected() -> None:
    noise = np.random.default_rng(0).integers(0, 65535, (64, 64), np.uint16)
    content = _encode(noise)
    with pytest.raises(Rejected, match="Q_CODESTREAM"):
        read_raster(content[: len(content) // 2], 16, "MONOCHROME2")


def test_grey_map_is_read_at_its_depth() -> None:
    grey = (RAMP // 16).astype(np.uint8)
    narrow = b"P5\n# a comment\n64 64\n255\n" + grey.tobytes()
    wide = b"P5 64 64 4095\n" + RAMP.astype(">u2").tobytes()
    assert read_container(narrow) == Container(8, False)
    assert read_container(wide) == Container(16, False)
    image = read_raster(narrow, 8, "MONOCHROME2").image
    np.testing.assert_allclose(image, grey / 255, atol=1e-7)
    image = read_raster(wide, 12, "MONOCHROME2").image
    np.testing.assert_allclose(image, RAMP / 4095, atol=1e-7)


def test_truncated_grey_map_is_rejected() -> None:
    content = b"P5\n64 64\n255\n" + bytes(range(256)) * 8
    with pytest.raises(Rejected, match="Q_CODESTREAM"):
        read_raster(content, 8, "MONOCHROME2")
