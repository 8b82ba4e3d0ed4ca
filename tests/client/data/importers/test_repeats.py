"""Of several images of one view the preferred one is known, and a plan may want it."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset

from client.data.check import check_site
from client.data.manifest import read_linkage, read_manifest
from client.data.site_data import import_site, prepare_site
from common.plan import Preprocessing

BEST = Preprocessing(rows=32, columns=16, repeats="best")


def _displaced() -> list[Dataset]:
    modifier, code = Dataset(), Dataset()
    modifier.CodeValue, modifier.CodingSchemeDesignator = "399209000", "SCT"
    code.CodeValue, code.CodingSchemeDesignator = "399162004", "SCT"
    code.ViewModifierCodeSequence = [modifier]
    return [code]


class Exam:
    """Images of one left CC, in files named as the test names them."""

    def __init__(self, folder: Path, dicom: ModuleType) -> None:
        self.archive, self.site, self.dicom = folder / "archive", folder / "site", dicom
        self.archive.mkdir()

    def add(self, name: str, rows: int = 64, **elements: Any) -> None:
        pixels = self.dicom.phantom(rows, 48, seed=len(name) + ord(name[0]))
        uid = f"1.2.3.{len(list(self.archive.iterdir()))}"
        facts = {"SOPInstanceUID": uid, "AcquisitionDate": "20200101"} | elements
        (self.archive / name).write_bytes(self.dicom.image(pixels, **facts))

    def ranks(self) -> dict[str, int | None]:
        import_site("hospital", self.archive, self.site, "s", {})
        rows = read_manifest(self.site).merge(read_linkage(self.site), on="row_id")
        ranks = rows["repeat"].astype(object).where(rows["repeat"].notna(), None)
        return dict(zip(rows["source_path"], ranks, strict=True))


@pytest.fixture
def exam(tmp_path: Path, dicom: ModuleType) -> Exam:
    return Exam(tmp_path, dicom)


def test_the_largest_is_preferred_then_the_latest(exam: Exam) -> None:
    exam.add("part", 40, AcquisitionTime="120000")
    exam.add("early", AcquisitionTime="101500")
    exam.add("late", AcquisitionTime="101501.5")
    assert exam.ranks() == {"late": 0, "early": 1, "part": 2}


def test_a_later_day_and_a_higher_number_count(exam: Exam) -> None:
    exam.add("first", InstanceNumber=2)
    exam.add("second", InstanceNumber=10)
    exam.add("next_day", AcquisitionDate="20200102", InstanceNumber=1)
    assert exam.ranks() == {"next_day": 0, "second": 1, "first": 2}


def test_an_image_with_the_implant_displaced_comes_first(exam: Exam) -> None:
    exam.add("whole", 80, AcquisitionTime="120000")
    exam.add("displaced", 64, ViewCodeSequence=_displaced())
    assert exam.ranks() == {"displaced": 0, "whole": 1}


def test_other_sides_views_exams_and_unusable_images_are_no_repeats(exam: Exam) -> None:
    exam.add("a")
    exam.add("right", ImageLaterality="R")
    exam.add("oblique", ViewPosition="MLO")
    exam.add("exam", StudyInstanceUID="1.2.3.999")
    exam.add("raw", 90, PresentationIntentType="FOR PROCESSING")
    ranks = exam.ranks()
    assert ranks.pop("raw") is None
    assert set(ranks.values()) == {0}


def test_a_plan_may_want_the_best_one_only(exam: Exam) -> None:
    for number, name in enumerate("abc"):
        exam.add(name, AcquisitionTime=f"10150{number}")
    exam.add("oblique", ViewPosition="MLO")
    ranks = exam.ranks()
    assert (ranks["c"], ranks["oblique"]) == (0, 0)
    every = prepare_site(exam.site, exam.archive, Preprocessing(rows=32, columns=16))
    best = prepare_site(exam.site, exam.archive, BEST)
    assert (len(every), len(best)) == (4, 2)
    assert (best.rows["repeat"] == 0).all() and every.folder != best.folder
    assert np.isin(best.index["image_sha256"], every.index["image_sha256"]).all()
    assert (read_manifest(exam.site)["status"] == "ok").all()
    check = check_site(exam.site, exam.archive)
    assert [p.count for p in check.problems if p.code == "repeats"] == [2]
