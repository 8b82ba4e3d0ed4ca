"""The archive: complete, repeatable, resumable, never mixed."""

import json
from pathlib import Path

import pandas as pd
import pydicom
import pytest

from common.canonical import sha256_of_file
from simulations.synthetic import generate as module
from simulations.synthetic.generate import generate
from simulations.synthetic.profiles import FEDERATION

SITES = FEDERATION[:2]


def make(root: Path, **changes) -> None:
    arguments = {
        "seed": 1,
        "patients_per_site": 6,
        "rows": 64,
        "columns": 64,
        "sites": SITES,
        "workers": 1,
    }
    generate(root, **{**arguments, **changes})


def content(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): sha256_of_file(path) for path in files}


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("archive")
    make(root)
    return root


def test_tables_agree_with_the_files(archive):
    for profile in SITES:
        truth = pd.read_csv(archive / profile.site / "truth.csv")
        files = list((archive / profile.site).glob("P*/*.dcm"))
        assert len(files) == len(truth)
        for row in truth.itertuples():
            name = f"{row.laterality}_{row.view}.dcm"
            path = archive / profile.site / row.patient_id / name
            ds = pydicom.dcmread(path, stop_before_pixels=True)
            assert ds.SOPInstanceUID == row.sop_instance_uid
            assert (ds.PatientID, ds.ImageLaterality) == (
                row.patient_id,
                row.laterality,
            )
            assert int(ds.PatientAge[:3]) == row.age_years


def test_findings_are_listed_once_per_view(archive):
    for profile in SITES:
        folder = archive / profile.site
        truth = pd.read_csv(folder / "truth.csv")
        findings = pd.read_csv(folder / "findings.csv")
        keys = ["patient_id", "laterality", "view"]
        listed = findings.groupby(keys).size()
        expected = truth.set_index(keys)["findings"]
        assert listed.reindex(expected.index, fill_value=0).equals(expected)
        malignant = findings[findings.pathology == "malignant"][keys]
        labels = truth.set_index(keys).pathology
        assert (labels.loc[list(map(tuple, malignant.values))] == "malignant").all()


def test_site_json_names_its_origin(archive):
    content = json.loads((archive / "north" / "site.json").read_text())
    assert content["synthetic"] is True
    assert content["seed"] == 1
    assert content["generator_version"] == module.GENERATOR_VERSION
    assert len(bytes.fromhex(content["secret"])) == 32
    other = json.loads((archive / "harbour" / "site.json").read_text())
    assert other["secret"] != content["secret"]


def test_number_of_workers_does_not_matter(archive, tmp_path):
    make(tmp_path, workers=2)
    assert content(tmp_path) == content(archive)


def test_interrupted_generation_resumes(archive, tmp_path):
    class StoppedError(Exception):
        pass

    def stop(site: str, done: int, total: int) -> None:
        if site == "harbour" and done:
            raise StoppedError

    with pytest.raises(StoppedError):
        make(tmp_path, progress=stop)
    assert not (tmp_path / "harbour").exists()
    partial = tmp_path / ".harbour.partial"
    leftover = partial / ".P0005.123"  # what a killed worker leaves behind
    leftover.mkdir()
    (leftover / "L_CC.dcm").touch()
    written = partial / "P0000" / "L_CC.dcm"
    before = written.stat().st_mtime_ns
    make(tmp_path)
    resumed = tmp_path / "harbour" / "P0000" / "L_CC.dcm"
    assert resumed.stat().st_mtime_ns == before
    assert content(tmp_path) == content(archive)


def test_complete_site_is_left_alone(archive):
    calls = []
    make(archive, progress=lambda *call: calls.append(call))
    assert calls == []


@pytest.mark.parametrize(
    "change",
    [{"seed": 2}, {"patients_per_site": 7}, {"rows": 128}, {"columns": 80}],
    ids=lambda change: next(iter(change)),
)
def test_other_parameters_are_refused(archive, change):
    before = content(archive)
    with pytest.raises(ValueError, match=r"other .*Choose another archive folder"):
        make(archive, **change)
    assert content(archive) == before


def test_partial_folder_with_other_parameters_is_refused(tmp_path):
    def stop(site: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(tmp_path, progress=stop)
    with pytest.raises(ValueError, match="other seed"):
        make(tmp_path, seed=2)


def test_matrix_too_narrow_for_a_breast_is_refused(tmp_path):
    with pytest.raises(ValueError, match="512 rows x 128 columns"):
        make(tmp_path, rows=512, columns=128)
    assert not list(tmp_path.iterdir())
