"""What stands beside the breast is found, the breast and its noise are not."""

from __future__ import annotations

from types import ModuleType

import cv2
import numpy as np
import pytest

from client.data.check_marks import has_mark
from client.data.preprocessing import preprocess
from common.plan import Preprocessing

SIZE = Preprocessing(rows=256, columns=128)


def _prepared(dicom: ModuleType, text: str = "") -> np.ndarray:
    """Prepare a phantom in [0, 1], with a text in the corner above the breast."""
    image = dicom.phantom(768, 576, seed=1).astype(np.float32) / 4095
    if text:
        paper = np.zeros(image.shape, np.uint8)
        cv2.putText(paper, text, (320, 130), cv2.FONT_HERSHEY_SIMPLEX, 1.2, 255, 3)
        image = np.maximum(image, paper / np.float32(255))
    return preprocess(image, SIZE)[0]


def test_a_breast_alone_has_no_mark(dicom: ModuleType) -> None:
    assert not has_mark(_prepared(dicom))


@pytest.mark.parametrize("text", ["DOE", "R", "L MLO"])
def test_text_beside_the_breast_is_a_mark(dicom: ModuleType, text: str) -> None:
    assert has_mark(_prepared(dicom, text))


def test_single_bright_pixels_are_no_mark(dicom: ModuleType) -> None:
    image = _prepared(dicom)
    image[5:250:40, 120] = 65535
    assert not has_mark(image)


def test_an_image_without_a_breast_has_none() -> None:
    assert not has_mark(np.full((256, 128), 7, np.uint16))
