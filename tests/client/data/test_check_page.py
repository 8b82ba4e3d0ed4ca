"""The page of a check shows what its sentences say, and nothing empty."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest

from client.data.check_page import write_check
from tests.support.exports import Export


@pytest.fixture
def export(tmp_path: Path, dicom: ModuleType) -> Export:
    return Export(tmp_path / "archive", dicom)


def _page(export: Export, tmp_path: Path) -> str:
    check = export.check(tmp_path / "site")
    return write_check(tmp_path / "site", check, "ours").read_text()


def _section(page: str, name: str) -> str:
    return page.partition(f'<section id="{name}">')[2].partition("</section>")[0]


def _pictures_of_sheet(section: str) -> list[np.ndarray]:
    """Cut the images out of the first contact sheet of a section."""
    (encoded, *_) = re.findall(r"data:image/png;base64,([^\"]+)", section)
    content = np.frombuffer(base64.b64decode(encoded), np.uint8)
    sheet = cv2.imdecode(content, cv2.IMREAD_GRAYSCALE)
    # Black above and below the breast; all else in such a row is white.
    black = (sheet < 9).sum(axis=1)
    row = int(black.argmax())
    inside = np.flatnonzero(np.diff(np.pad(sheet[row] < 9, 1).astype(int)))
    rows = np.flatnonzero(black)
    box = slice(rows[0], rows[-1] + 1)
    return [
        sheet[box, left:right]
        for left, right in zip(inside[::2], inside[1::2], strict=True)
    ]


def _chest_wall(picture: np.ndarray) -> str:
    middle = picture.shape[1] // 2
    return "left" if picture[:, :middle].sum() > picture[:, middle:].sum() else "right"


@pytest.mark.parametrize(("side", "wall"), [("R", "left"), ("L", "right")])
def test_a_wrong_side_is_shown_as_the_file_has_it(
    export: Export, tmp_path: Path, side: str, wall: str
) -> None:
    export.add("1", side, mirrored=wall == "right")
    page = _page(export, tmp_path)
    assert "left and right as in the file" in page
    (shown,) = _pictures_of_sheet(_section(page, "problems"))
    assert _chest_wall(shown) == wall
    (trained,) = _pictures_of_sheet(_section(page, "samples"))
    assert _chest_wall(trained) == "left"


def _words(page: str) -> str:
    text = re.sub(r"<style>.*?</style>|<[^>]+>", " ", page, flags=re.DOTALL)
    return " ".join(text.split())


def test_a_page_without_an_image_has_nothing_empty(
    export: Export, tmp_path: Path
) -> None:
    export.add("1", PresentationIntentType="FOR PROCESSING")
    page = _page(export, tmp_path)
    assert "1 file found: 0 usable images of 0 patients, 1 excluded" in _words(page)
    assert "Nothing can be trained with this as it stands: no file gives" in page
    assert "no_image" in _section(page, "problems")
    assert "kinds of problem" not in page
    assert not _section(page, "samples") and not _section(page, "counts")
    assert page.count("<table>") == 1


def test_one_of_a_kind_is_told_in_the_singular(export: Export, tmp_path: Path) -> None:
    export.add("1", seed=1, mirrored=True)
    export.add("2", seed=2, cancer="1")
    export.add("3", seed=2, cancer="1")
    words = _words(_page(export, tmp_path))
    assert "3 files found: 3 usable images of 3 patients, 0 excluded" in words
    assert "1 kind of problem to mend before training" in words
    assert "1 of 1: the chest wall" in words and "2 of 2: identical" in words


def test_of_many_images_with_a_problem_a_dozen_is_shown(
    export: Export, tmp_path: Path
) -> None:
    for number in range(13):
        export.add(str(number), mirrored=True)
    assert "12 of 13: the chest wall" in _words(_page(export, tmp_path))
