"""``predict`` as a person types it, and its scores beside those of the run."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pydicom
import pytest
import torch

from client import prediction
from client.approval import approve
from client.data.importers.files import decode_path
from client.data.manifest import read_linkage
from client.data.site_data import import_site, prepare_site
from common.plan import Preprocessing, Split
from simulations.federation import run_in_process
from simulations.synthetic.generate import generate
from simulations.synthetic.profiles import FEDERATION
from tests.support import dicom_files
from tests.support.hospitals import small_plan
from tests.support.kept_models import keep_model
from tests.support.mammo_client import (
    SETTINGS,
    SMALL,
    client,
    command,
    write_settings,
)
from tests.support.runs import MACHINE

SITES = ("north", "lakeside")
PATIENT = "ZQ7X MARIA"  # appears in the table, and in nothing that is said


def read(path: Path) -> pd.DataFrame:
    """Read a table of scores as a hospital does: identifiers are texts."""
    return pd.read_csv(path, dtype=dict.fromkeys(["patient", "exam", "study"], str))


def files_below(folder: Path) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in [folder, *folder.rglob("*")]}


def write_exam(folder: Path, number: int, **elements: Any) -> None:
    """Write both views of both breasts of a patient, each a file."""
    folder.mkdir(parents=True, exist_ok=True)
    for place, (side, view) in enumerate(
        [("L", "CC"), ("L", "MLO"), ("R", "CC"), ("R", "MLO")]
    ):
        content = dicom_files.image(
            dicom_files.phantom(seed=10 * number + place),
            **{
                "SOPInstanceUID": f"1.2.3.{number}.{place}",
                "StudyInstanceUID": f"1.2.3.{number}",
                "PatientID": f"{PATIENT} {number}",
                "AccessionNumber": f"A{number}",
                "ImageLaterality": side,
                "ViewPosition": view,
            }
            | elements,
        )
        (folder / f"{number}-{place}").write_bytes(content)


@pytest.fixture
def hospital(tmp_path: Path) -> Path:
    """A site with a model, and an export of three patients in ``new``."""
    write_settings(tmp_path, SETTINGS)
    keep_model(tmp_path / "data" / "federation")
    for number in (1, 2, 3):
        write_exam(tmp_path / "new" / f"folder {number}", number)
    return tmp_path


def predict(hospital: Path, *words: object) -> tuple[int, str]:
    return client(
        hospital, "predict", hospital / "new", "--out", hospital / "out.csv", *words
    )


def leaves_nothing(hospital: Path) -> bool:
    left = (hospital / "data" / "federation" / "predict").rglob("*")
    return {path.name for path in left} <= {".lock"}


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two hospitals of real files that have finished a run together."""
    root = tmp_path_factory.mktemp("finished")
    profiles = [profile for profile in FEDERATION if profile.site in SITES]
    generate(
        root / "archive",
        seed=5,
        patients_per_site=14,
        rows=128,
        columns=64,
        sites=profiles,
        workers=1,
    )
    plan = small_plan(sites=SITES, split=Split(0.4, 0.3, 0.3))
    populations = {}
    for site in SITES:
        archive, data = root / "archive" / site, root / "data" / site
        import_site("synthetic", archive, data, site)
        populations[site] = {site: prepare_site(data, archive, plan.preprocessing)}
        state = root / "run" / "sites" / site
        write_settings(
            root,
            f"site: {site}\nimporter: synthetic\narchive: ../archive/{site}\n"
            f"folder: ../data/{site}\nstate: {state}\nworkers: 1\n",
            site,
        )
        approve(state, plan)
    run_in_process(plan, populations, root / "run", MACHINE, synthetic=True)
    return root


@pytest.mark.parametrize("site", SITES)
def test_scores_equal_those_of_the_sites_own_evaluation(
    site: str, finished_run: Path, tmp_path: Path
) -> None:
    """Grouped here by the identifiers in the original headers, not by pseudonyms."""
    root, out = finished_run, tmp_path / "scores.csv"
    archive = root / "archive" / site
    before = files_below(archive)
    words = ["--config-dir", root, "--site", site, "predict", archive, "--out", out]
    code, said = command(*words)
    assert code == 0 and "SYNTHETIC" in said and files_below(archive) == before

    kept = root / "run" / "sites" / site
    images = pd.read_parquet(kept / "scores" / "selected" / f"{site}.parquet")
    linkage = read_linkage(root / "data" / site).set_index("row_id")
    headers = [
        pydicom.dcmread(archive / decode_path(str(path)), stop_before_pixels=True)
        for path in linkage.loc[images["row_id"], "source_path"]
    ]
    images["patient"] = [header.PatientID for header in headers]
    images["study"] = [header.StudyInstanceUID for header in headers]
    images["laterality"] = [header.ImageLaterality for header in headers]
    keys = ["patient", "study", "laterality"]
    expected = images.groupby(keys)["score"].mean()

    table = read(out)
    breasts = table[table["level"] == "breast"].set_index(keys)["score"]
    difference = (breasts.loc[expected.index] - expected).abs().max()
    assert len(expected) >= 10 and expected.std() > 0
    assert difference < 1e-6
    everyone = {path.name for path in archive.iterdir() if path.is_dir()}
    assert set(table["patient"]) == everyone
    exams = table[table["level"] == "exam"].set_index("study")["score"]
    assert exams.to_dict() == breasts.groupby("study").max().to_dict()

    (info,) = [
        json.loads(path.read_bytes())
        for path in kept.glob("models/*/*/model.json")
        if json.loads(path.read_bytes())["role"] == "selected"
    ]
    assert (table["threshold"] == info["thresholds"][site]).all()
    above = table["score"] >= info["thresholds"][site]
    assert (table["above_threshold"] == above).all()
    card = kept / "models" / info["plan"] / str(info["round"]) / "MODEL_CARD.md"
    assert table["model"].nunique() == 1 and table["model"][0] in card.read_text()


def test_the_table_names_patients_and_what_is_said_does_not(hospital: Path) -> None:
    before = files_below(hospital / "new")
    code, said = predict(hospital)
    assert code == 0 and "6 breasts of 3 exams in" in said
    assert "plan small, round 2 (selected)" in said and "point: 0.5000" in said
    assert "Not a medical device; for research only." in said
    assert PATIENT not in said and "A1" not in said
    assert files_below(hospital / "new") == before and leaves_nothing(hospital)
    out = hospital / "out.csv"
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    table = read(out)
    assert list(table["level"]) == 3 * ["breast", "breast", "exam"]
    assert list(table["laterality"]) == 3 * ["L", "R", "L R"]
    assert list(table["images"]) == 3 * [2, 2, 4]
    assert list(table["exam"][::3]) == ["A1", "A2", "A3"]
    assert table["patient"][0] == f"{PATIENT} 1" and table["study"][0] == "1.2.3.1"
    assert set(table["note"]) == {"not a medical device; for research only"}


def test_a_table_is_replaced_only_by_force(hospital: Path) -> None:
    out = hospital / "out.csv"
    out.write_text("of yesterday")
    out.chmod(0o644)
    code, said = predict(hospital)
    assert code == 2 and "--force" in said and out.read_text() == "of yesterday"
    code, _ = predict(hospital, "--force")
    assert code == 0 and len(read(out)) == 9
    assert stat.S_IMODE(out.stat().st_mode) == 0o600


def test_nothing_is_written_among_the_files(
    hospital: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(hospital / "new")
    code, said = client(hospital, "predict", ".")
    assert code == 2 and "scores.csv would lie among" in said
    code, said = client(hospital, "predict", hospital / "data", "--out", "/dev/null/x")
    assert code == 2 and "/dev/null is no folder" in said
    out = hospital / "out.csv"
    code, said = client(hospital, "predict", hospital / "data", "--out", out)
    assert code == 2 and "keeps its state, lies among" in said and not out.exists()


def test_without_a_model_nothing_is_read(hospital: Path) -> None:
    state = hospital / "data" / "federation"
    (state / "models").rename(state / "elsewhere")
    code, said = predict(hospital)
    assert code == 2 and "No finished model in" in said and "reading" not in said
    code, said = predict(hospital, "--model", state)
    assert code == 2 and "it has no model.json" in said
    code, said = predict(hospital, "--model", state / "elsewhere" / "small" / "2")
    assert code == 0 and "round 2" in said


def test_a_damaged_model_is_refused(hospital: Path) -> None:
    (file,) = (hospital / "data" / "federation").rglob("model.safetensors")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    code, said = predict(hospital)
    assert code == 2 and "cannot be used (CheckpointError)" in said


def test_other_kinds_are_counted_and_not_scored(hospital: Path) -> None:
    new = hospital / "new"
    write_exam(new, 4, ImageType=["DERIVED", "PRIMARY", "TOMO", "GENERATED_2D"])
    write_exam(new, 5, PresentationIntentType="FOR PROCESSING")
    code, said = predict(hospital)
    assert code == 0 and "20 files" in said and "6 breasts of 3 exams" in said
    assert "4 files are SYNTH2D: not scored, the model reads FFDM." in said
    assert "4 files are raw, for processing" in said and "4 X_PROCESSING" in said


def test_a_vendor_that_the_model_has_no_norms_for_is_not_scored(
    hospital: Path,
) -> None:
    state = hospital / "data" / "federation"
    code, _ = predict(hospital)
    assert code == 0
    alone = read(hospital / "out.csv")["score"]
    # An untrained model: each vendor's norms are the same as without vendors.
    vendors = {vendor: vendor for vendor in ("ge", "hologic")}
    keep_model(state, norm_domains=vendors)
    write_exam(hospital / "new", 4, Manufacturer="SIEMENS")
    write_exam(hospital / "new", 5, Manufacturer="GE MEDICAL SYSTEMS")
    code, said = predict(hospital, "--force")
    assert code == 0 and "20 files" in said and "8 breasts of 4 exams" in said
    assert "4 files are of vendor siemens: not scored, the model has BatchNorm" in said
    table = read(hospital / "out.csv")
    assert set(table["exam"]) == {"A1", "A2", "A3", "A5"}
    assert np.abs(table["score"][:9] - alone).max() < 1e-6
    keep_model(state, norm_domains={"fuji": "fuji"})
    code, said = predict(hospital, "--force")
    assert code == 2 and "12 files are of vendor hologic" in said
    assert "Nothing to score: none of 20 files" in said and leaves_nothing(hospital)


def test_where_nothing_can_be_scored_the_reason_is_told(hospital: Path) -> None:
    synthetic = {"ImageType": ["DERIVED", "PRIMARY", "TOMO", "GENERATED_2D"]}
    for number in (1, 2, 3):
        write_exam(hospital / "new" / f"folder {number}", number, **synthetic)
    code, said = predict(hospital)
    assert code == 2 and "12 files are SYNTH2D" in said
    assert "Nothing to score: none of 12 files" in said
    assert not (hospital / "out.csv").exists() and leaves_nothing(hospital)
    (hospital / "empty").mkdir()
    words = ("--out", hospital / "out.csv")
    code, said = client(hospital, "predict", hospital / "empty", *words)
    assert code == 2 and "No image file below" in said
    code, said = client(hospital, "predict", hospital / "nowhere", *words)
    assert code == 2 and "No archive folder" in said and leaves_nothing(hospital)


def test_files_that_cannot_be_read_are_counted(hospital: Path) -> None:
    new = hospital / "new"
    cut = new / "folder 1" / "1-0"
    cut.write_bytes(cut.read_bytes()[:-900])
    (new / "letter.txt").write_text(f"Dear {PATIENT}")
    (new / "nothing").touch()
    code, said = predict(hospital)
    assert code == 0 and "14 files" in said and "11 ok" in said
    assert "1 Q_TRUNCATED" in said and "1 Q_NOT_DICOM" in said and "1 Q_EMPTY" in said
    table = read(hospital / "out.csv")
    assert list(table["views"][:3]) == ["MLO", "CC MLO", "CC MLO"]
    assert list(table["images"][:3]) == [1, 2, 3]


def _fails(*args: Any) -> None:
    raise RuntimeError(f"of {PATIENT}")


def _is_stopped(*args: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("end", "status", "told"),
    [(_fails, 1, "a bug of mammofed"), (_is_stopped, 130, "Nothing was written")],
)
def test_nothing_is_left_when_it_ends_early(
    hospital: Path,
    monkeypatch: pytest.MonkeyPatch,
    end: Callable[..., None],
    status: int,
    told: str,
) -> None:
    place = hospital / "data" / "federation" / "predict"
    seen = {}

    def score(*args: Any) -> None:
        for path in [place / "site", *(place / "site").glob("linkage.*")]:
            seen[path.name] = stat.S_IMODE(path.stat().st_mode)
        end()

    monkeypatch.setattr(prediction, "score_new", score)
    before = files_below(hospital / "new")
    code, said = predict(hospital)
    assert code == status and told in said and PATIENT not in said
    assert seen == {"site": 0o700, "linkage.parquet": 0o600, "linkage.json": 0o600}
    assert leaves_nothing(hospital) and not (hospital / "out.csv").exists()
    assert files_below(hospital / "new") == before


def test_what_a_killed_call_left_is_deleted(hospital: Path) -> None:
    left = hospital / "data" / "federation" / "predict" / "site" / "cache"
    left.mkdir(parents=True)
    (left / "images.u16").write_bytes(b"pixels")
    code, _ = predict(hospital)
    assert code == 0 and leaves_nothing(hospital)


def test_a_file_that_changes_meanwhile_is_noticed(
    hospital: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    score = prediction.score_new

    def change(*args: Any) -> Any:
        for path in (hospital / "new").rglob("*-*"):
            path.write_bytes(path.read_bytes() + bytes(2))
        return score(*args)

    monkeypatch.setattr(prediction, "score_new", change)
    code, said = predict(hospital)
    assert code == 2 and "A file has changed" in said and leaves_nothing(hospital)


def test_who_has_withdrawn_is_not_scored(hospital: Path) -> None:
    (hospital / "new").rename(hospital / "archive")
    assert client(hospital, "prepare", *SMALL)[0] == 0
    assert client(hospital, "withdraw", f"{PATIENT} 2", "--yes")[0] == 0
    (hospital / "archive").rename(hospital / "new")
    code, said = predict(hospital)
    assert code == 0 and "4 X_WITHDRAWN" in said
    assert set(read(hospital / "out.csv")["exam"]) == {"A1", "A3"}


def test_a_missing_gpu_is_told_before_anything_is_read(
    hospital: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_settings(hospital, SETTINGS + "device: cuda\n")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code, said = predict(hospital)
    assert code == 2 and "torch finds no GPU" in said and "reading" not in said


def test_a_model_from_elsewhere_says_so(hospital: Path) -> None:
    state = hospital / "other"
    keep_model(state, site="south", thresholds={"south": None})
    code, said = predict(hospital, "--model", state / "models" / "small" / "2")
    assert code == 0 and "nobody has measured it at north" in said
    assert "Operating point: none" in said
    table = read(hospital / "out.csv")
    assert table[["threshold", "above_threshold"]].isna().all(axis=None)


def test_images_are_prepared_as_the_model_wants(hospital: Path) -> None:
    """Another size of image gives other scores; the same one gives the same."""
    scores = []
    for rows in (32, 48, 32):
        wanted = vars(Preprocessing(rows=rows, columns=16))
        keep_model(hospital / "data" / "federation", preprocessing=wanted)
        assert predict(hospital, "--force")[0] == 0
        scores.append(read(hospital / "out.csv")["score"].to_numpy())
    assert np.array_equal(scores[0], scores[2])
    assert not np.allclose(scores[0], scores[1], atol=1e-4)
