"""Real samples end decoded, excluded or quarantined, each with the right code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.encaps import encapsulate, generate_frames

from client.data.codes import Rejected
from client.data.dicom import read_picture
from client.data.labels import label
from client.data.manifest import read_linkage, read_manifest
from client.data.site_data import import_site, prepare_site
from client.data.snapshot import NothingToPrepareError
from common.plan import Preprocessing, Target
from tests.support.dicom_files import to_bytes


def _reasons(site: Path) -> dict[str, Any]:
    rows = read_manifest(site).merge(read_linkage(site), on="row_id")
    return dict(zip(rows["source_path"], rows["reason"].astype(object), strict=True))


def test_every_sample_has_its_code(real_data: Path, tmp_path: Path) -> None:
    import_site("hospital", real_data / "dicom", tmp_path, "s", {"dataset": "nema"})
    with pytest.raises(NothingToPrepareError, match="1 Q_FRAMES"):
        prepare_site(tmp_path, real_data / "dicom", Preprocessing(modalities=("DBT",)))
    assert _reasons(tmp_path) == {
        "MG1_J2KI.dcm": "X_SECONDARY_CAPTURE",
        "MG1_JPLY.dcm": "X_SECONDARY_CAPTURE",
        "jpeg2k_3d.dcm": "Q_FRAMES",
    }


def test_both_encodings_of_one_film_give_nearly_one_image(
    real_data: Path, tmp_path: Path
) -> None:
    options = {"dataset": "nema", "film": True}
    root = real_data / "dicom"
    import_site("hospital", root, tmp_path, "s", options)
    plan = Preprocessing(modalities=("SFM",))
    snapshot = prepare_site(tmp_path, root, plan)
    assert set(snapshot.index["decoder"]) == {"pylibjpeg-openjpeg", "dicomsdl"}
    one, other = snapshot.read(np.arange(2)).astype(float) / 65535
    assert np.abs(one - other).max() < 0.01 and one.std() > 0.1


def test_a_12_bit_jpeg_that_was_cut_off_is_quarantined(real_data: Path) -> None:
    ds = dcmread(real_data / "dicom" / "MG1_JPLY.dcm")
    frame = next(generate_frames(ds.PixelData, number_of_frames=1))
    ds.PixelData = encapsulate([frame[: len(frame) // 2]])
    with pytest.raises(Rejected, match="Q_CODESTREAM"):
        read_picture(to_bytes(ds))


def test_low_energy_images_turn_to_one_side(real_data: Path, tmp_path: Path) -> None:
    options = {
        "dataset": "cdd_cesm",
        "modality_kind": "CESM_LE",
        "allow_8bit": True,
        "smoke_test": True,
        "table": {
            "file": "labels.csv",
            "key": "file",
            "columns": {"laterality": "laterality", "cancer_pathology": "category"},
            "values": {
                "cancer_pathology": {
                    **{"malignant": 1, "mixed": 1},
                    **{"benign": 0, "normal": 0},
                }
            },
        },
    }
    root = real_data / "cdd-cesm"
    counts = import_site("image_folder", root, tmp_path, "s", options).counts
    assert counts["ok"] == counts["files"] == 163
    plan = Preprocessing(modalities=("CESM_LE",))
    snapshot = prepare_site(tmp_path, root, plan, workers=2)
    targets = label(snapshot.rows, Target(unit="image"))
    assert (int(targets.sum()), len(targets)) == (48, 163)
    assert (snapshot.index["flipped"] == (snapshot.rows["laterality"] == "R")).all()


def test_density_samples_are_read(real_data: Path, tmp_path: Path) -> None:
    options = {"dataset": "monai", "allow_8bit": True, "smoke_test": True}
    root = real_data / "monai-density"
    counts = import_site("image_folder", root, tmp_path, "s", options).counts
    assert (counts["ok"], counts["reason:X_NOT_IMAGE"]) == (16, 1)
