"""One image in whatever lossless encoding or polarity gives one row of the cache."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from client.data.site_data import import_site, prepare_site
from common.plan import Preprocessing
from tests.support.dicom_files import LOSSLESS

WINDOWS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "stored range": ({}, {}),
    "sigmoid": (
        {"WindowCenter": 2000, "WindowWidth": 1500, "VOILUTFunction": "SIGMOID"},
        {"WindowCenter": 2095, "WindowWidth": 1500, "VOILUTFunction": "SIGMOID"},
    ),
    # LINEAR lies half a value lower (PS3.3 C.11.2.1.2.1): its mirror is one higher.
    "linear": (
        {"WindowCenter": 2000, "WindowWidth": 1500},
        {"WindowCenter": 2096, "WindowWidth": 1500},
    ),
}


@pytest.mark.parametrize("window", WINDOWS)
def test_encodings_and_monochrome_twins_give_one_row(
    tmp_path: Path, dicom: ModuleType, window: str
) -> None:
    archive, site = tmp_path / "archive", tmp_path / "site"
    archive.mkdir()
    pixels = dicom.phantom(300, 200)
    usual, mirrored = WINDOWS[window]
    pairs = (
        (pixels, usual),
        (4095 - pixels, mirrored | {"PhotometricInterpretation": "MONOCHROME1"}),
    )
    for twin, (stored, elements) in enumerate(pairs):
        for number, syntax in enumerate(LOSSLESS):
            ds = dicom.dataset(
                stored.astype(np.uint16),
                SOPInstanceUID=f"1.2.3.{twin}.{number}",
                StudyInstanceUID=f"1.2.4.{twin}.{number}",
                PatientID=f"P{twin}{number}",
                **elements,
            )
            (archive / f"{twin}{number}").write_bytes(dicom.encoded(ds, syntax))
    import_site("hospital", archive, site, "s", {"dataset": "twins"})
    snapshot = prepare_site(site, archive, Preprocessing(rows=128, columns=64))
    rows = snapshot.read(np.arange(len(snapshot)))
    assert len(rows) == 2 * len(LOSSLESS)
    assert snapshot.index["image_sha256"].nunique() == 1
    assert (rows == rows[0]).all() and rows[0].std() > 0
