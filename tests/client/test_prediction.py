"""Which model scores, and where the files go meanwhile."""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from client.approval import approve
from client.data.manifest import empty_row, manifest_frame
from client.prediction import (
    PredictionError,
    choose_model,
    device_of,
    left_out,
    lent_folder,
    load_model,
)
from common.lock import FolderBusyError
from common.plan import Preprocessing
from tests.support.kept_models import PLAN, keep_model

CPU = torch.device("cpu")
OTHER = replace(PLAN, id="other", seed=4)


def _write_in_order(*folders: Path) -> None:
    for second, folder in enumerate(folders):
        os.utime(folder / "model.json", (second, second))


def test_a_model_of_the_approved_plan_comes_first(tmp_path: Path) -> None:
    approve(tmp_path, PLAN)
    first, _ = keep_model(tmp_path, PLAN, 1)
    chosen, _ = keep_model(tmp_path, PLAN, 2)
    last, _ = keep_model(tmp_path, PLAN, 3, role="last")
    newest, _ = keep_model(tmp_path, OTHER, 9)
    _write_in_order(first, chosen, last, newest)
    assert choose_model(tmp_path) == chosen


@pytest.mark.parametrize("approved", [True, False])
def test_else_the_newest_selected_one_is_taken(tmp_path: Path, approved: bool) -> None:
    if approved:
        approve(tmp_path, replace(PLAN, seed=77))
    old, _ = keep_model(tmp_path, PLAN, 2)
    new, _ = keep_model(tmp_path, OTHER, 1)
    last, _ = keep_model(tmp_path, OTHER, 3, role="last")
    _write_in_order(old, new, last)
    assert choose_model(tmp_path) == new
    _write_in_order(new, old, last)
    assert choose_model(tmp_path) == old


def test_the_hash_is_that_of_the_model_card(tmp_path: Path) -> None:
    folder, content_hash = keep_model(tmp_path)
    finished = load_model(folder, CPU)
    assert finished.hash == content_hash
    assert finished.hash in (folder / "MODEL_CARD.md").read_text()
    assert finished.preprocessing == PLAN.preprocessing
    assert not finished.model.training


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"plan": "small"}'])
def test_a_model_that_cannot_be_read_is_a_sentence(
    tmp_path: Path, content: str
) -> None:
    folder, _ = keep_model(tmp_path)
    (folder / "model.json").write_text(content)
    with pytest.raises(PredictionError, match="damaged or of another version"):
        choose_model(tmp_path)


@pytest.mark.parametrize("part", ["preprocessing", "model"])
def test_a_description_that_is_none_is_a_sentence(tmp_path: Path, part: str) -> None:
    unknown = {"name": "resnet_tiny", "head": "linear", "rows": 0}
    folder, _ = keep_model(tmp_path, **{part: unknown})
    with pytest.raises(PredictionError, match="another version"):
        load_model(folder, CPU)


@pytest.mark.parametrize(
    ("thresholds", "unit", "expected"),
    [
        ({"north": 0.25}, "breast", 0.25),
        ({"north": None}, "breast", None),
        ({"south": 0.5, "north": 0.25}, "breast", 0.25),
        ({"origin": 0.75}, "breast", 0.75),
        ({"south": 0.5, "west": 0.25}, "breast", None),
        ({"north": 0.25}, "image", None),
    ],
)
def test_the_operating_point_is_that_of_the_site(
    thresholds: dict[str, float | None],
    unit: str,
    expected: float | None,
    tmp_path: Path,
) -> None:
    folder, _ = keep_model(tmp_path, site="origin", thresholds=thresholds, unit=unit)
    assert load_model(folder, CPU).threshold("north") == expected


def test_the_device_is_that_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for there, setting, expected in (
        (True, "auto", "cuda"),
        (True, "cuda", "cuda"),
        (True, "cpu", "cpu"),
        (False, "auto", "cpu"),
    ):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert device_of(setting, 2).type == expected
        assert torch.get_num_threads() == 2
    with pytest.raises(PredictionError, match="finds no GPU"):
        device_of("cuda", None)


def test_one_process_scores_at_a_time(tmp_path: Path) -> None:
    state, root = tmp_path / "state", tmp_path / "new"
    with lent_folder(state, root) as folder:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        (folder / "images.u16").touch()
        with pytest.raises(FolderBusyError), lent_folder(state, root):
            pass
        assert (folder / "images.u16").exists()
    assert not folder.exists()


def _manifest(**changes: object) -> pd.DataFrame:
    rows = []
    for number in range(4):
        row = {
            "row_id": f"{number:032x}",
            "dataset": "ours",
            "site": "north",
            "modality_kind": "FFDM",
            "repeat": number,
            "status": "ok",
        }
        rows.append(empty_row() | row | changes)
    return manifest_frame(rows)


def test_images_that_a_model_is_not_for_are_told_by_kind(tmp_path: Path) -> None:
    every = load_model(keep_model(tmp_path)[0], CPU)
    best = replace(every, preprocessing=Preprocessing(repeats="best"))
    assert left_out(_manifest(), every) == []
    assert left_out(_manifest(), best) == [
        "3 files repeat a view: not scored, the model reads one."
    ]
    film = _manifest(modality_kind="SFM")
    told = "4 files are SFM: not scored, the model reads FFDM and DBT."
    both = Preprocessing(modalities=("FFDM", "DBT"))
    assert left_out(film, replace(every, preprocessing=both)) == [told]
    assert len(left_out(film, best)) == 1
    raw = _manifest(status="excluded", reason="X_PROCESSING")
    (told,) = left_out(raw, best)
    assert told.startswith("4 files are raw, for processing")
    assert left_out(_manifest(status="excluded", reason="X_SPOT"), best) == []


def test_images_of_a_vendor_without_norms_are_told_by_vendor(tmp_path: Path) -> None:
    """`ims` was at the site, but its images went with those of `ge`."""
    vendors = {"ge": "ge", "hologic": "hologic", "ims": "ge"}
    finished = load_model(keep_model(tmp_path, norm_domains=vendors)[0], CPU)
    known = pd.concat([_manifest(vendor="ge"), _manifest(vendor="hologic")])
    assert left_out(known, finished) == []
    strange = pd.concat([known, _manifest(vendor="ims"), _manifest()])
    ending = "not scored, the model has BatchNorm statistics of ge, hologic."
    assert left_out(strange, finished) == [
        f"4 files are of vendor ims: {ending}",
        f"4 files are of vendor unknown: {ending}",
    ]
    assert finished.fits(strange).tolist() == 8 * [True] + 8 * [False]
    film = _manifest(vendor="ims", modality_kind="SFM")
    assert len(left_out(film, finished)) == 1  # told once, as another kind
