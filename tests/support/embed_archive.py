"""A miniature of EMBED with the layout, names and quirks of the published archive."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from tests.support import dicom_files

SERVER = "/mnt/NAS2/mammo/anon_dicom"
PATIENT, EXAM = "10000001", "4410000000000017"
Row = dict[str, str]


class Embed:
    """A miniature of the archive; `write` makes its tables."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.images: list[Row] = []
        self.findings: list[Row] = []

    def image(
        self,
        side: str,
        view: str = "CC",
        *,
        patient: str = PATIENT,
        exam: str = EXAM,
        elements: dict[str, Any] | None = None,
        **columns: str,
    ) -> str:
        """Write an image and its row; return the name of its file."""
        number = len(self.images) + 1
        uid = f"1.2.826.0.1.{number}"
        place = f"cohort_1/{patient}/{exam}/{uid}.dcm"
        given = {
            "SOPInstanceUID": uid,
            "StudyInstanceUID": f"1.2.3.{exam}",
            "PatientID": "of the header",
            "StudyDate": f"19{90 + number % 10}0101",
            "ImageLaterality": side or None,
            "ViewPosition": view or None,
        }
        path = self.root / "images" / place
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = dicom_files.phantom(seed=number)
        path.write_bytes(dicom_files.image(pixels, **given | (elements or {})))
        row = {
            "empi_anon": patient,
            "acc_anon": exam,
            "study_date_anon": "2013-05-01",
            "anon_dicom_path": f"{SERVER}/{place}",
            "FinalImageType": "2D",
            "ImageLateralityFinal": side,
            "ViewPosition": view,
            "spot_mag": "",
            "num_roi": "0",
            "ROI_coords": "()",
            "match_level": "",
            "SRC_DST": "",
            "SeriesDescription": "",
            "StudyDescription": "MG Screening Bilateral",
        }
        self.images.append(row | columns)
        return path.name

    def finding(
        self,
        side: str,
        asses: str = "N",
        severity: str = "",
        bside: str = "",
        *,
        exam: str = EXAM,
        **columns: str,
    ) -> None:
        """Add a finding; codes are padded as in the published table."""
        row = {
            "empi_anon": PATIENT,
            "acc_anon": exam,
            "study_date_anon": "2013-05-04",
            "desc": "MG Screening Bilateral",
            "tissueden": "2.0",
            "asses": asses,
            "numfind": str(len(self.findings) + 1),
            "side": side,
            "bside": bside,
            "path_severity": severity,
            "RACE_DESC": "African American",
            "ETHNIC_GROUP_DESC": "Non-Hispanic",
        }
        row |= columns
        self.findings.append({name: f"{value}  " for name, value in row.items()})

    def write(self, tail: str = "_reduced") -> None:
        """Write both tables."""
        folder = self.root / "tables"
        folder.mkdir(exist_ok=True)
        for kind, rows in (("clinical", self.findings), ("metadata", self.images)):
            path = folder / f"EMBED_OpenData_{kind}{tail}.csv"
            with path.open("w", newline="", encoding="utf-8") as stream:
                writer = csv.DictWriter(stream, list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)
