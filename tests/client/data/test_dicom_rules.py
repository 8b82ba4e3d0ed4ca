"""What a file is, from its header alone: facts, precedence, exclusions."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
from pydicom.dataset import Dataset

from client.data.codes import Rejected
from client.data.dicom_header import header_of
from client.data.dicom_rules import age, classify, side_of, vendor, view_of

PROCESSING = "1.2.840.10008.5.1.4.1.1.1.2.1"
TOMOSYNTHESIS = "1.2.840.10008.5.1.4.1.1.13.1.3"
PROJECTION = "1.2.840.10008.5.1.4.1.1.13.1.4"
PROJECTION_FOR_PROCESSING = "1.2.840.10008.5.1.4.1.1.13.1.5"
CT = "1.2.840.10008.5.1.4.1.1.2"
FUJI = {"Manufacturer": "FUJIFILM Corp.", "ManufacturerModelName": "FDR-3000AWS"}


def _facts(dicom: ModuleType, film: bool = False, **elements: Any) -> dict[str, Any]:
    return classify(header_of(dicom.dataset(**elements)), film=film)


def _code(dicom: ModuleType, **elements: Any) -> str:
    with pytest.raises(Rejected) as caught:
        _facts(dicom, **elements)
    assert caught.value.stage == "classify"
    return caught.value.code


def _item(value: str, *modifiers: str) -> Dataset:
    item = Dataset()
    item.CodeValue = value
    if modifiers:
        item.ViewModifierCodeSequence = [_item(code) for code in modifiers]
    return item


def _shared(side: str) -> Dataset:
    anatomy, shared = Dataset(), Dataset()
    anatomy.FrameLaterality = side
    shared.FrameAnatomySequence = [anatomy]
    return shared


def test_plain_mammogram_gives_its_facts(dicom: ModuleType) -> None:
    assert _facts(
        dicom, BreastImplantPresent="NO", WindowCenter=900, WindowWidth=900
    ) == {
        "laterality": "L",
        "view": "CC",
        "modality_kind": "FFDM",
        "frames": 1,
        "intent": "presentation",
        "age_years": 57,
        "implant": 0,
        "vendor": "hologic",
        "bits_stored": 12,
        "photometric": "MONOCHROME2",
        "voi_applied": "linear",
    }


@pytest.mark.parametrize(
    ("elements", "side"),
    [
        ({"ImageLaterality": "R", "Laterality": "L"}, "R"),
        ({"ImageLaterality": None, "Laterality": "R"}, "R"),
        (
            {
                "ImageLaterality": "",
                "SharedFunctionalGroupsSequence": [_shared("R")],
                "ViewPosition": "LEFT CC",
            },
            "R",
        ),
        ({"ImageLaterality": None, "ViewPosition": "RIGHT CC"}, "R"),
        ({"ImageLaterality": None, "PatientOrientation": ["P", "L"]}, None),
        ({"ImageLaterality": "B"}, None),
    ],
)
def test_laterality_follows_the_order_of_elements(
    dicom: ModuleType, elements: dict[str, Any], side: str | None
) -> None:
    assert _facts(dicom, **elements)["laterality"] == side


@pytest.mark.parametrize(
    ("elements", "view"),
    [
        ({"ViewPosition": "MLO", "ViewCodeSequence": [_item("399162004")]}, "MLO"),
        ({"ViewPosition": "", "ViewCodeSequence": [_item("399368009")]}, "MLO"),
        ({"ViewPosition": None, "ViewCodeSequence": [_item("R-10242")]}, "CC"),
        ({"ViewPosition": "LATERAL", "ViewCodeSequence": [_item("R-10224")]}, "ML"),
        (
            {"ViewPosition": "MLO", "ViewModifierCodeSequence": [_item("399011000")]},
            "AT",
        ),
        ({"ViewPosition": None}, None),
        ({"ViewPosition": "SOMETHING"}, "OTHER"),
    ],
)
def test_view_follows_the_order_of_elements(
    dicom: ModuleType, elements: dict[str, Any], view: str | None
) -> None:
    assert _facts(dicom, **elements)["view"] == view


@pytest.mark.parametrize(
    ("elements", "code"),
    [
        ({"PresentationIntentType": "FOR PROCESSING"}, "X_PROCESSING"),
        ({"PresentationIntentType": None, "SOPClassUID": PROCESSING}, "X_PROCESSING"),
        ({"SOPClassUID": PROJECTION}, "X_DBT"),
        ({"SOPClassUID": PROJECTION_FOR_PROCESSING}, "X_DBT"),
        (
            {"NumberOfFrames": 9, "ImageType": ["ORIGINAL", "PRIMARY", "TOMO_PROJ"]},
            "X_DBT",
        ),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "TOMO"]}, "X_DBT"),
        ({"NumberOfFrames": 12, "Modality": "US"}, "X_DBT"),
        ({"Modality": "CT", "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"]}, "X_NOT_MG"),
        ({"SOPClassUID": CT, "Modality": "CT"}, "X_NOT_MG"),
        (
            {"SOPClassUID": TOMOSYNTHESIS, "PresentationIntentType": "FOR PROCESSING"},
            "X_PROCESSING",
        ),
        ({"SOPClassUID": TOMOSYNTHESIS, "NumberOfFrames": 20_000}, "Q_FRAMES"),
        ({"ViewPosition": "SPOT CC"}, "X_SPOT"),
        ({"ViewCodeSequence": [_item("399162004", "399055006")]}, "X_SPOT"),
        ({"ViewCodeSequence": [_item("399162004", "R-102D6")]}, "X_MAG"),
        ({"PaddleDescription": "MAG SPOT 10CM"}, "X_MAG"),
        ({"ViewCodeSequence": [_item("127457009")]}, "X_SPECIMEN"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "STEREO"]}, "X_STEREO"),
        ({"ViewModifierCodeSequence": [_item("399110001")]}, "X_TANGENTIAL"),
        ({"PartialView": "YES"}, "X_PARTIAL"),
        ({"QualityControlImage": "YES"}, "X_QC"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, "X_SECONDARY_CAPTURE"),
        ({"Modality": "RG"}, "X_NOT_MG"),
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, "X_COLOUR"),
        ({"ImageType": ["DERIVED", "PRIMARY", "SUBTRACTION"]}, "X_SUBTRACTED"),
        ({"Rows": None}, "Q_HEADER"),
        ({"Modality": None, "SOPClassUID": None}, "Q_HEADER"),
        ({"BitsAllocated": 12}, "Q_HEADER"),
        ({"NumberOfFrames": 0}, "Q_FRAMES"),
    ],
)
def test_rule_excludes_with_its_code(
    dicom: ModuleType, elements: dict[str, Any], code: str
) -> None:
    ds = dicom.dataset(**elements)
    if elements.get("SOPClassUID", "") is None:
        ds.file_meta.MediaStorageSOPClassUID = "1.2.4"
    with pytest.raises(Rejected) as caught:
        classify(header_of(ds))
    assert caught.value.code == code


@pytest.mark.parametrize("modality", ["SR", "PR", "RTPLAN"])
def test_object_without_pixels_is_no_image(dicom: ModuleType, modality: str) -> None:
    removed = {"Rows": None, "Columns": None, "PixelData": None}
    assert _code(dicom, Modality=modality, **removed) == "X_NOT_IMAGE"


def test_declared_film_accepts_secondary_captures(dicom: ModuleType) -> None:
    elements = {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7", "Modality": "RG"}
    assert _facts(dicom, film=True, **elements)["modality_kind"] == "SFM"


@pytest.mark.parametrize(
    ("elements", "kind"),
    [
        ({"SeriesDescription": "L CC C-View"}, "SYNTH2D"),
        ({"ImageType": ["DERIVED", "PRIMARY", "GENERATED_2D"]}, "SYNTH2D"),
        ({"ImageType": ["DERIVED", "PRIMARY", "TOMO", "GENERATED_2D"]}, "SYNTH2D"),
        (
            {
                "SOPClassUID": TOMOSYNTHESIS,
                "ImageType": ["DERIVED", "PRIMARY", "TOMO", "GENERATED_2D"],
            },
            "SYNTH2D",
        ),
        (FUJI | {"ImageType": ["DERIVED", "PRIMARY"]}, "SYNTH2D"),
        (FUJI | {"ImageType": ["ORIGINAL", "PRIMARY"]}, "FFDM"),
        (FUJI | {"ImageType": ["DERIVED", "PRIMARY", "POST_CONTRAST"]}, "FFDM"),
        ({"ImageType": ["DERIVED", "PRIMARY"]}, "FFDM"),
        ({"SOPClassUID": TOMOSYNTHESIS, "NumberOfFrames": 40}, "DBT"),
        ({"NumberOfFrames": 12}, "DBT"),
        ({"Modality": "CT", "ImageType": ["DERIVED", "PRIMARY", "TOMO"]}, "DBT"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOW_ENERGY"]}, "CESM_LE"),
    ],
)
def test_kind_of_image(dicom: ModuleType, elements: dict[str, Any], kind: str) -> None:
    assert _facts(dicom, **elements)["modality_kind"] == kind


def test_number_of_frames_is_a_fact(dicom: ModuleType) -> None:
    assert _facts(dicom, NumberOfFrames=12)["frames"] == 12


def test_functional_groups_fill_in_what_the_top_level_leaves_out(
    dicom: ModuleType,
) -> None:
    shared, frame = Dataset(), Dataset()
    shared.FrameVOILUTSequence = [_window(1800, 900, "SIGMOID")]
    frame.FrameVOILUTSequence = [_window(7, 7, "LINEAR")]
    frame.PixelMeasuresSequence = [Dataset()]
    frame.PixelMeasuresSequence[0].PixelSpacing = [0.1, 0.2]
    frame.PixelMeasuresSequence[0].Rows = 1
    frame.FrameAnatomySequence = _shared("R").FrameAnatomySequence
    elements = {
        "ImageLaterality": None,
        "ImagerPixelSpacing": None,
        "NumberOfFrames": 2,
        "SharedFunctionalGroupsSequence": [shared],
        "PerFrameFunctionalGroupsSequence": [frame, Dataset()],
    }
    header = header_of(dicom.dataset(**elements))
    facts = classify(header)
    assert (facts["laterality"], facts["voi_applied"]) == ("R", "sigmoid")
    assert header.numbers["WindowCenter"] == [1800] and header.frames_described == 2
    assert header.numbers["PixelSpacing"] == [0.1, 0.2]
    assert header.integer("Rows", 0) == 64
    own = header_of(dicom.dataset(**elements, WindowCenter=5, WindowWidth=6))
    assert (own.number("WindowCenter"), own.number("WindowWidth")) == (5, 6)


def _window(center: float, width: float, function: str) -> Dataset:
    item = Dataset()
    item.WindowCenter, item.WindowWidth = center, width
    item.VOILUTFunction = function
    return item


def test_unknown_intent_is_accepted(dicom: ModuleType) -> None:
    elements = {"PresentationIntentType": None, "SOPClassUID": "1.2.3.4"}
    assert _facts(dicom, **elements)["intent"] == "unknown"


def test_words_of_other_archives_are_understood() -> None:
    assert [side_of(word) for word in ("LEFT", "Right", "D", "E", " l ")] == list(
        "LRRLL"
    )
    words = ("RCC", "LO", "L MLO", "RMLO", "xccl", "LM", "LMO", "at")
    assert [view_of(word) for word in words] == [
        *("CC", "MLO", "MLO", "MLO", "XCCL", "LM", "LMO", "AT")
    ]


@pytest.mark.parametrize(
    ("text", "years"),
    [("046Y", 46), ("103Y", 89), ("011M", 0), ("Y046", None), ("46", None), ("", None)],
)
def test_age_is_whole_years_top_coded(text: str, years: int | None) -> None:
    assert age(text) == years


def test_vendor_is_one_of_a_list_never_free_text() -> None:
    texts = ("GE MEDICAL SYSTEMS", "SIEMENS", "LORAD", "Dr. Miller's box", " ")
    assert [vendor(text) for text in texts] == [
        "ge",
        "siemens",
        "hologic",
        "other",
        None,
    ]


@pytest.mark.parametrize(("declared", "remarks"), [("YES", {"W_TEXT"}), ("NO", set())])
def test_declared_text_in_the_pixels_is_remarked(
    dicom: ModuleType, declared: str, remarks: set[str]
) -> None:
    header = header_of(dicom.dataset(BurnedInAnnotation=declared))
    classify(header)
    assert header.remarks == remarks
