"""An archive written image by image, with a line of the label table each."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np

from client.data.check import Check, check_site
from client.data.site_data import import_site

TABLE = {
    "file": "labels.csv",
    "key": "uid",
    "columns": {
        "cancer_pathology": "cancer",
        "split_official": "split",
        "birads": "birads",
    },
    "level": "image",
}


class Export:
    """Write images one by one, with a line of the label table each."""

    def __init__(self, root: Path, dicom: ModuleType) -> None:
        self.root, self.dicom = root, dicom
        self.lines = ["uid,cancer,split,birads"]
        root.mkdir()

    def add(
        self,
        patient: str,
        side: str = "L",
        view: str = "CC",
        *,
        seed: int | None = None,
        mirrored: bool | None = None,
        border: tuple[int, int, int] = (0, 0, 0),
        cancer: str = "0",
        split: str = "",
        birads: str = "",
        **elements: object,
    ) -> None:
        number = len(self.lines)
        pixels = self.dicom.phantom(seed=number if seed is None else seed)
        if (side == "R") if mirrored is None else mirrored:
            pixels = np.ascontiguousarray(pixels[:, ::-1])
        above, below, beside = border
        pixels = np.pad(pixels, ((above, below), (0, beside)))
        uid = f"1.2.3.{number}"
        content = self.dicom.image(
            pixels,
            SOPInstanceUID=uid,
            PatientID=f"CANARY-{patient}",
            StudyInstanceUID=f"1.2.4.{patient}",
            ImageLaterality=side,
            ViewPosition=view,
            **elements,
        )
        (self.root / f"file{number:03d}").write_bytes(content)
        self.lines.append(f"{uid},{cancer},{split},{birads}")

    def check(self, folder: Path) -> Check:
        (self.root / "labels.csv").write_text("\n".join(self.lines))
        options = {"dataset": "ours", "join": "sop_instance_uid", "table": TABLE}
        import_site("hospital", self.root, folder, "ours", options)
        return check_site(folder, self.root)
