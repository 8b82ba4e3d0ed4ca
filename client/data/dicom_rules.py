"""Decide from the header alone what a file is, and whether it is a screening view.

Rules and their order follow the reference of this project (data.md sections 2.3 and
2.4); code values are those of PS3.16 CID 4014 (view) and CID 4015 (view modifier), in
SNOMED CT and in the older SNOMED RT form.
"""

from __future__ import annotations

from typing import Any

from client.data.codes import Rejected
from client.data.dicom_header import Header
from client.data.intensity import header_voi

_MG = "1.2.840.10008.5.1.4.1.1.1.2"
_MG_PROCESSING = _MG + ".1"
_CT = "1.2.840.10008.5.1.4.1.1.2"
_VOLUME = "1.2.840.10008.5.1.4.1.1.13.1.3"
_PROJECTIONS = ("1.2.840.10008.5.1.4.1.1.13.1.4", "1.2.840.10008.5.1.4.1.1.13.1.5")
_TOMO = {"TOMO", "TOMOSYNTHESIS"}
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_FUJI = "FDR-3000AWS"  # what it makes of a volume is called DERIVED, and no more
_WITHOUT_PIXELS = {"SR", "PR", "KO", "DOC", "RTSTRUCT", "RTPLAN", "ECG", "REG", "SEG"}
_MAX_FRAMES = 10_000

VIEW_OF_CODE = {
    "399162004": "CC",
    "R-10242": "CC",
    "399368009": "MLO",
    "R-10226": "MLO",
    "399260004": "ML",
    "R-10224": "ML",
    "399352003": "LM",
    "R-10228": "LM",
    "399099002": "LMO",
    "R-10230": "LMO",
    "399192008": "XCCL",
    "R-1024A": "XCCL",
    "399196006": "FB",
    "R-10244": "FB",
    "399101009": "OTHER",
    "R-1024B": "OTHER",
    "399188001": "OTHER",
    "R-102D0": "OTHER",
    "441555000": "OTHER",
    "R-40AAA": "OTHER",
}
AXILLARY_TAIL = {"399011000", "R-102D1", "442580003", "R-40AB2"}
IMPLANT_DISPLACED = {"399209000", "R-102D5"}
_EXCLUDED_CODE = {
    "399055006": "X_SPOT",
    "R-102D7": "X_SPOT",
    "399163009": "X_MAG",
    "R-102D6": "X_MAG",
    "399110001": "X_TANGENTIAL",
    "R-102C2": "X_TANGENTIAL",
    "442581004": "X_TANGENTIAL",
    "R-40AB3": "X_TANGENTIAL",
    "442593008": "X_TANGENTIAL",
    "R-40ABE": "X_TANGENTIAL",
    "441752004": "X_TANGENTIAL",
    "P2-00161": "X_TANGENTIAL",
    "127457009": "X_SPECIMEN",
    "G-8310": "X_SPECIMEN",
}
_VIEWS = ("MLO", "LMO", "XCCL", "CC", "ML", "LM", "AT", "FB")
_VIEW_TEXTS = {"LO": "MLO", "RO": "MLO", "OBLIQUE": "MLO", "LCC": "CC", "RCC": "CC"}
_SIDES = {"L": "L", "R": "R", "LEFT": "L", "RIGHT": "R", "D": "R", "E": "L"}
VENDORS = {
    "hologic": "hologic",
    "lorad": "hologic",
    "ge medical": "ge",
    "ge healthcare": "ge",
    "siemens": "siemens",
    "fuji": "fuji",
    "philips": "philips",
    "sectra": "philips",
    "planmed": "planmed",
    "giotto": "ims",
    "i.m.s": "ims",
    "ims ": "ims",
    "carestream": "carestream",
    "kodak": "carestream",
    "agfa": "agfa",
    "konica": "konica",
    "metaltronica": "metaltronica",
    "synthetic": "synthetic",
}


def classify(header: Header, *, film: bool = False) -> dict[str, Any]:
    """Return the manifest facts of a header that shows a usable mammogram.

    Laterality and view may come out as None: a label table can still supply them.

    Parameters
    ----------
    header : as read by `read_header`
    film : the archive holds digitised film, so secondary captures are wanted

    Raises
    ------
    Rejected
        With an ``X_`` code where a rule excludes the file, or ``Q_HEADER`` and
        ``Q_FRAMES`` where the header cannot be right.
    """
    _exclude_objects(header, film)
    _exclude_views(header)
    if header.text("BurnedInAnnotation").upper() == "YES":
        header.remarks.add("W_TEXT")
    return facts(header, film=film)


def facts(header: Header, *, film: bool = False) -> dict[str, Any]:
    """Collect what a header tells, also of a file that a rule excludes."""
    return {
        "laterality": laterality(header),
        "view": view(header),
        "modality_kind": kind(header, film),
        "frames": frames(header),
        "intent": intent(header),
        "age_years": age(header.text("PatientAge")),
        "implant": _implant(header),
        "vendor": vendor(header.text("Manufacturer")),
        "bits_stored": _bits(header),
        "photometric": _photometric(header),
        "voi_applied": header_voi(header),
    }


def intent(header: Header) -> str:
    """PresentationIntentType, else the SOP class, else ``unknown``."""
    declared = header.text("PresentationIntentType").upper()
    if declared in ("FOR PRESENTATION", "FOR PROCESSING"):
        return declared.removeprefix("FOR ").lower()
    by_class = {_MG: "presentation", _MG_PROCESSING: "processing"}
    return by_class.get(header.text("SOPClassUID"), "unknown")


def kind(header: Header, film: bool = False) -> str:
    """Tell digital, film, synthetic, tomosynthesis and low-energy contrast apart."""
    if _is_tomosynthesis(header):
        return "DBT"
    if film:
        return "SFM"
    words = _image_type(header)
    series = header.text("SeriesDescription").lower().replace("_", "-")
    if "GENERATED_2D" in words or any(
        name in series for name in ("c-view", "cview", "s-view", "sview")
    ):
        return "SYNTH2D"
    if "LOW_ENERGY" in words:
        return "CESM_LE"
    derived = {"DERIVED", "PRIMARY"} <= words and "POST_CONTRAST" not in words
    if derived and _FUJI in header.text("ManufacturerModelName").upper():
        return "SYNTH2D"
    return "FFDM"


def frames(header: Header) -> int | None:
    """NumberOfFrames, 1 if it is not given; None if no volume has so many."""
    number = header.integer("NumberOfFrames", 1)
    return number if 1 <= number <= _MAX_FRAMES else None


def laterality(header: Header) -> str | None:
    """ImageLaterality, Laterality, FrameLaterality, else side words in ViewPosition.

    PatientOrientation is not asked: real headers contradict it too often.
    """
    for text in (
        header.text("ImageLaterality"),
        header.text("Laterality"),
        header.frame_laterality,
    ):
        side = side_of(text)
        if side:
            return side
    words = header.text("ViewPosition").upper().replace("-", " ").split()
    for word in words:
        if word in ("LEFT", "RIGHT", "LCC", "RCC", "LMLO", "RMLO"):
            return word[0]
    return None


def view(header: Header) -> str | None:
    """ViewPosition, else the view code; the axillary tail modifier makes it ``AT``."""
    if AXILLARY_TAIL & set(header.modifier_codes):
        return "AT"
    found = view_of(header.text("ViewPosition"))
    if found and found != "OTHER":
        return found
    for code in header.view_codes:
        if code in VIEW_OF_CODE:
            return VIEW_OF_CODE[code]
    return found


def side_of(text: str) -> str | None:
    """Read a side in any of its spellings: L R LEFT RIGHT E D (esquerda, direita)."""
    return _SIDES.get(text.strip().upper())


def view_of(text: str) -> str | None:
    """Read a view in any of its spellings; a text that names none is ``OTHER``."""
    words = text.upper().replace("-", " ").replace("_", " ").split()
    if not words:
        return None
    for word in words:
        word = _VIEW_TEXTS.get(word, word)
        if len(word) > 2 and word[0] in "LR" and word[1:] in ("MLO", "CC", "ML", "AT"):
            word = word[1:]
        if word in _VIEWS:
            return word
    return "OTHER"


def age(text: str) -> int | None:
    """Read an age string (PS3.5 6.2, for example ``046Y``); top-coded at 89 years."""
    if len(text) != 4 or not text[:3].isdigit() or text[3] not in "DWMY":
        return None
    per_year = {"D": 365, "W": 52, "M": 12, "Y": 1}
    return min(int(text[:3]) // per_year[text[3]], 89)


def vendor(text: str) -> str | None:
    """Map the manufacturer, a free text, to a known name or ``other``."""
    low = text.lower()
    if not low.strip():
        return None
    if low.strip() in ("ge", "ims"):
        return low.strip()
    return next((name for part, name in VENDORS.items() if part in low), "other")


def _exclude_objects(header: Header, film: bool) -> None:
    modality = header.text("Modality").upper()
    sop_class = header.text("SOPClassUID")
    sized = header.integer("Rows", 0) > 0 and header.integer("Columns", 0) > 0
    if not sized and (modality in _WITHOUT_PIXELS or (sop_class and not modality)):
        raise Rejected("X_NOT_IMAGE", "classify")
    if header.text("QualityControlImage").upper() == "YES":
        raise Rejected("X_QC", "classify")
    if sop_class.startswith(_SECONDARY_CAPTURE) and not film:
        raise Rejected("X_SECONDARY_CAPTURE", "classify")
    tomosynthesis = _is_tomosynthesis(header)
    if tomosynthesis and not _is_reconstructed(header):
        raise Rejected("X_DBT", "classify")
    if not modality and sop_class not in (_MG, _MG_PROCESSING, _VOLUME):
        raise Rejected("Q_HEADER", "classify")
    if modality not in ("", "MG") and not film and not tomosynthesis:
        raise Rejected("X_NOT_MG", "classify")
    if not sized:
        raise Rejected("Q_HEADER", "classify")
    if header.integer("SamplesPerPixel", 1) != 1:
        raise Rejected("X_COLOUR", "classify")
    if frames(header) is None:
        raise Rejected("Q_FRAMES", "classify")
    if _photometric(header) is None or _bits(header) is None:
        raise Rejected("Q_HEADER", "classify")


def _exclude_views(header: Header) -> None:
    if intent(header) == "processing":
        raise Rejected("X_PROCESSING", "classify")
    words = _image_type(header)
    if words & {"STEREO", "BIOPSY", "SCOUT"} or "STEREO" in " ".join(words):
        raise Rejected("X_STEREO", "classify")
    if words & {"SUBTRACTION", "SUBTRACTED", "RECOMBINED"}:
        raise Rejected("X_SUBTRACTED", "classify")
    for code in [*header.modifier_codes, *header.view_codes]:
        if code in _EXCLUDED_CODE:
            raise Rejected(_EXCLUDED_CODE[code], "classify")
    position = header.text("ViewPosition").upper()
    paddle = header.text("PaddleDescription").upper()
    if "SPOT" in position:
        raise Rejected("X_SPOT", "classify")
    if "MAG" in paddle or "MAG" in position:
        raise Rejected("X_MAG", "classify")
    if "SPECIMEN" in position:
        raise Rejected("X_SPECIMEN", "classify")
    if position in ("TAN", "TANGENTIAL", "NP", "IMF", "AC"):
        raise Rejected("X_TANGENTIAL", "classify")
    if header.text("PartialView").upper() == "YES":
        raise Rejected("X_PARTIAL", "classify")


def _is_tomosynthesis(header: Header) -> bool:
    several = header.integer("NumberOfFrames", 1) > 1
    words = _image_type(header)
    if "GENERATED_2D" in words and not several:  # made of a volume, not one itself
        return False
    declared = header.text("SOPClassUID") in (_VOLUME, *_PROJECTIONS)
    return several or declared or bool(words & _TOMO)


def _is_reconstructed(header: Header) -> bool:
    """Of tomosynthesis: a volume, or a slice of one that is stored as CT."""
    sop_class, modality = header.text("SOPClassUID"), header.text("Modality").upper()
    words = _image_type(header)
    if sop_class in _PROJECTIONS or "PROJ" in " ".join(words):
        return False
    if modality == "CT" or sop_class == _CT:
        return bool(words & _TOMO)
    several = header.integer("NumberOfFrames", 1) > 1
    return sop_class == _VOLUME or (several and modality in ("", "MG"))


def _image_type(header: Header) -> set[str]:
    return {word.upper() for word in header.texts["ImageType"]}


def _implant(header: Header) -> int | None:
    if IMPLANT_DISPLACED & set(header.modifier_codes):
        return 1
    return {"YES": 1, "NO": 0}.get(header.text("BreastImplantPresent").upper())


def _photometric(header: Header) -> str | None:
    value = header.text("PhotometricInterpretation").upper()
    return value if value in ("MONOCHROME1", "MONOCHROME2") else None


def _bits(header: Header) -> int | None:
    allocated = header.integer("BitsAllocated", 0)
    stored = header.integer("BitsStored", allocated)
    return stored if allocated in (8, 16, 32) and 1 <= stored <= allocated else None
