"""Which of several images of one view is the one to keep.

A view is repeated after motion or bad positioning, breasts that do not fit are imaged
in parts, and with an implant it is displaced for a second image.
"""

from __future__ import annotations

from client.data.dicom_header import Header
from client.data.dicom_rules import IMPLANT_DISPLACED
from client.data.importers.files import Found


def preference_of(header: Header) -> tuple[int, int, str, int]:
    """Tell how much an image is wanted beside others of its view.

    One with the implant displaced shows more tissue; else the largest, which is no
    part; else the latest, which is the repetition (PS3.3 C.7.6.1, C.8.11.7).

    Returns
    -------
    Larger is better: implant displaced, pixels, when acquired, InstanceNumber.
    """
    displaced = bool(IMPLANT_DISPLACED & set(header.modifier_codes))
    pixels = header.integer("Rows", 0) * header.integer("Columns", 0)
    time = header.text("AcquisitionDate") + header.text("AcquisitionTime")
    return int(displaced), pixels, time, header.integer("InstanceNumber", 0)


def mark_repeats(files: list[Found]) -> None:
    """Rank usable images of one breast, view and kind: ``repeat`` 0 is to be kept.

    Tomosynthesis has none, nor has an image without side or view.
    """
    views: dict[tuple[str, ...], list[Found]] = {}
    for file in files:
        facts = file.facts
        kind, side, view = (
            facts.get(name) for name in ("modality_kind", "laterality", "view")
        )
        if file.verdict is None and kind != "DBT" and kind and side and view:
            key = (file.patient, file.exam, side, view, kind)
            views.setdefault(key, []).append(file)
    for images in views.values():
        images.sort(key=lambda file: (file.preference, file.uid), reverse=True)
        for rank, file in enumerate(images):
            file.facts["repeat"] = rank
