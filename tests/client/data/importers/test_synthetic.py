"""The synthetic archive: truth of the breast, by SOP instance UID."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest

from client.data.importers import ImporterError
from client.data.manifest import read_linkage, read_manifest
from client.data.pseudonyms import Pseudonymiser
from client.data.site_data import import_site

SECRET = bytes(range(32))


@pytest.fixture
def root(tmp_path: Path, dicom: ModuleType) -> Path:
    root = tmp_path / "north"
    lines = ["patient_id,sop_instance_uid,laterality,view,density,pathology,"
             "findings,age_years"]  # fmt: skip
    for number, truth in enumerate(("malignant", "benign", "normal")):
        folder = root / f"P{number}"
        folder.mkdir(parents=True)
        uid = f"1.2.7.{number}"
        content = dicom.image(
            dicom.phantom(seed=number), SOPInstanceUID=uid, PatientID=f"P{number}"
        )
        (folder / "L_CC.dcm").write_bytes(content)
        lines.append(f"P{number},{uid},L,CC,{'ABC'[number]},{truth},1,{60 + number}")
    (root / "truth.csv").write_text("\n".join(lines))
    (root / "findings.csv").write_text("patient_id\n")
    (root / "site.json").write_text(json.dumps({"secret": SECRET.hex()}))
    return root


def test_truth_becomes_facts_of_the_breast(root: Path, tmp_path: Path) -> None:
    summary = import_site("synthetic", root, tmp_path / "site", "north")
    assert summary.counts["files"] == summary.counts["ok"] == 3
    rows = read_manifest(tmp_path / "site").merge(
        read_linkage(tmp_path / "site"), on="row_id"
    )
    rows = rows.sort_values("sop_instance_uid")
    assert list(rows["cancer_pathology"]) == [1, 0, 0]
    assert list(rows["pathology_class"]) == ["malignant", "benign", "normal"]
    assert list(rows["density"]) == ["A", "B", "C"]
    assert list(rows["age_years"]) == [60, 61, 62]
    assert set(rows["label_level"]) == {"breast"}
    assert set(rows["label_source"]) == {"pathology"}


def test_secret_comes_from_the_archive_so_that_splits_reproduce(
    root: Path, tmp_path: Path
) -> None:
    import_site("synthetic", root, tmp_path / "site", "north")
    expected = {Pseudonymiser(SECRET).patient(f"P{number}") for number in range(3)}
    assert set(read_manifest(tmp_path / "site")["patient_key"]) == expected
    assert "synthetic" in (tmp_path / "site" / "secret.key").read_text()


def test_folder_that_is_no_synthetic_site_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImporterError, match="mammo-sim synth"):
        import_site("synthetic", tmp_path, tmp_path / "site", "north")
