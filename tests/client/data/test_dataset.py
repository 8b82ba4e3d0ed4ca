"""Batches, parts and labels of a site."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from client.data.dataset import (
    TEST,
    TRAIN,
    VALIDATION,
    build_dataset,
    draw_batches,
    in_order,
)
from client.data.site_data import import_site, prepare_site
from common.plan import Preprocessing, Target, Work
from common.records import Code, Refusal
from tests.support.hospitals import MemorySnapshot, small_plan

ROWS = np.arange(100, 123)


def test_an_epoch_sees_every_image_once() -> None:
    batches = draw_batches(ROWS, Work("epochs", 1, 5, drop_last=False), seed=1)
    assert [len(batch) for batch in batches] == [5, 5, 5, 5, 3]
    assert sorted(np.concatenate(batches)) == ROWS.tolist()


def test_every_epoch_has_its_own_order_and_drops_its_own_rest() -> None:
    batches = draw_batches(ROWS, Work("epochs", 2, 5), seed=1)
    assert [len(batch) for batch in batches] == [5] * 8
    first, second = np.concatenate(batches[:4]), np.concatenate(batches[4:])
    assert len(set(first)) == len(set(second)) == 20
    assert first.tolist() != second.tolist()


def test_steps_run_through_as_many_epochs_as_they_need() -> None:
    batches = draw_batches(ROWS, Work("steps", 7, 5), seed=1)
    assert len(batches) == 7


def test_the_same_seed_draws_the_same() -> None:
    one, same, other = (draw_batches(ROWS, Work("epochs", 1, 5), s) for s in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_a_part_smaller_than_a_batch_still_trains() -> None:
    batches = draw_batches(ROWS[:3], Work("steps", 2, 16), seed=1)
    assert [sorted(batch) for batch in batches] == [[100, 101, 102]] * 2


def test_in_order_keeps_the_order_and_the_rest() -> None:
    assert [b.tolist() for b in in_order(ROWS[:5], 2)] == [
        [100, 101],
        [102, 103],
        [104],
    ]


def test_a_patient_is_in_one_part_and_parts_cover_all() -> None:
    dataset = build_dataset({"alpha": MemorySnapshot("alpha")}, small_plan())
    parts = dataset.rows.groupby("patient_key")["part"].nunique()
    assert (parts == 1).all()
    counted = sum(len(dataset.select(part)) for part in (TRAIN, VALIDATION, TEST))
    assert counted == len(dataset.rows)


def test_pooled_images_come_from_the_right_hospital_in_the_order_asked() -> None:
    snapshots = {name: MemorySnapshot(name) for name in ("alpha", "beta")}
    dataset = build_dataset(snapshots, small_plan())
    size = len(snapshots["alpha"].rows)
    asked = np.array([size + 3, 2, size, 7])
    expected = [
        snapshots["beta"].read(np.array([3]))[0],
        snapshots["alpha"].read(np.array([2]))[0],
        snapshots["beta"].read(np.array([0]))[0],
        snapshots["alpha"].read(np.array([7]))[0],
    ]
    assert np.array_equal(dataset.pixels(asked), np.stack(expected))
    assert dataset.rows["population"].iloc[asked].tolist() == ["beta", "alpha"] * 2


def test_unlabelled_images_neither_train_nor_count() -> None:
    snapshot = MemorySnapshot("alpha")
    breast = snapshot.rows["breast_key"].iloc[0]
    unknown = snapshot.rows["breast_key"] == breast
    snapshot.rows.loc[unknown, "cancer_pathology"] = None
    dataset = build_dataset({"alpha": snapshot}, small_plan())
    part = dataset.rows["part"].iloc[0]
    gone = len(dataset.select(part, labelled=False)) - len(dataset.select(part))
    assert gone == 2


def test_data_that_cannot_express_the_target_is_refused() -> None:
    plan = replace(small_plan(), target=Target(label_sources=("registry",)))
    with pytest.raises(Refusal) as caught:
        build_dataset({"alpha": MemorySnapshot("alpha")}, plan)
    assert caught.value.code == Code.TARGET


def test_an_image_that_is_not_prepared_speaks_for_its_breast() -> None:
    snapshot = MemorySnapshot("alpha")
    healthy = snapshot.rows[snapshot.rows["cancer_pathology"] == 0].head(1)
    breast = healthy["breast_key"].iloc[0]
    snapshot.beside = healthy.assign(cancer_pathology=1, reason="Q_TRUNCATED")
    rows = build_dataset({"alpha": snapshot}, small_plan()).rows
    assert set(rows.loc[rows["breast_key"] == breast, "target"]) == {1}
    assert set(rows["target"]) == {0, 1}


def test_a_broken_malignant_view_makes_the_other_view_positive(
    tmp_path: Path, dicom: ModuleType, small: Preprocessing
) -> None:
    root, site = tmp_path / "archive", tmp_path / "site"
    root.mkdir()
    lines = ["uid,cancer"]
    for number in range(40):
        patient, view = divmod(number, 2)
        content = dicom.image(
            dicom.phantom(seed=number),
            SOPInstanceUID=f"1.2.3.{number}",
            PatientID=f"P{patient}",
            StudyInstanceUID=f"1.2.4.{patient}",
            ViewPosition="CC" if view else "MLO",
        )
        sick = patient % 2 == 0 and not view
        (root / f"{number}").write_bytes(content[:-500] if sick else content)
        lines.append(f"1.2.3.{number},{int(sick)}")
    (root / "labels.csv").write_text("\n".join(lines))
    table = {
        "file": "labels.csv",
        "key": "uid",
        "columns": {"cancer_pathology": "cancer"},
        "level": "image",
        "source": "pathology",
    }
    options = {"dataset": "ours", "join": "sop_instance_uid", "table": table}
    import_site("hospital", root, site, "alpha", options)
    snapshot = prepare_site(site, root, small)
    assert len(snapshot) == 30 and len(snapshot.beside) == 10
    rows = build_dataset({"alpha": snapshot}, small_plan(), required=()).rows
    of_patient = rows.groupby("patient_key")["target"].agg(set)
    assert sorted(map(sorted, of_patient)) == [[0]] * 10 + [[1]] * 10
