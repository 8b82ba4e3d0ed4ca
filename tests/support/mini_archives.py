"""Miniature archives with the layout of public ones, large enough to train on."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from tests.support import dicom_files

VIEWS = [(side, view) for side in "LR" for view in ("CC", "MLO")]
_NO_HEADER = dict.fromkeys(("ImageLaterality", "ViewPosition", "PatientAge"))


def write_rsna(root: Path, patients: int) -> Path:
    """Write an RSNA-like download of site 1; every third patient has BI-RADS 2."""
    head = "site_id,patient_id,image_id,laterality,view,age,cancer,biopsy,invasive,"
    lines = [head + "BIRADS,implant,density,machine_id,difficult_negative_case"]
    for patient in range(patients):
        birads = 2 if patient % 3 == 0 else 1
        for number, (side, view) in enumerate(VIEWS):
            image = 10 * patient + number
            path = root / "train_images" / str(patient) / f"{image}.dcm"
            _write(path, image, side, f"1.2.3.{patient}", f"1.2.4.{image}")
            lines.append(
                f"1,{patient},{image},{side},{view},60,0,0,0,{birads}.0,0,B,49,False"
            )
    (root / "train.csv").write_text("\n".join(lines))
    return root


def write_vindr(root: Path, studies: int) -> Path:
    """Write a VinDr-like download; every second study has BI-RADS 4."""
    head = "study_id,series_id,image_id,laterality,view_position,height,width,"
    lines = [head + "breast_birads,breast_density,split"]
    for number in range(studies):
        study, birads = _md5(f"study {number}"), 4 if number % 2 == 0 else 1
        for side, view in VIEWS:
            image = _md5(f"image {number} {side} {view}")
            path = root / "images" / study / f"{image}.dicom"
            _write(path, 10_000 + len(lines), side, study, image, PatientID=None)
            lines.append(
                f"{study},{study},{image},{side},{view},3518,2800,BI-RADS {birads},"
                "DENSITY C,training"
            )
    (root / "breast-level_annotations.csv").write_text("\n".join(lines))
    return root


def _write(
    path: Path, seed: int, side: str, study: str, uid: str, **elements: object
) -> None:
    pixels = dicom_files.phantom(seed=seed)
    if side == "R":
        pixels = np.ascontiguousarray(pixels[:, ::-1])
    content = dicom_files.image(
        pixels,
        SOPInstanceUID=uid,
        StudyInstanceUID=study,
        **(_NO_HEADER | elements),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
