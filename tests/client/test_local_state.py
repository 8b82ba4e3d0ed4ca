"""A site's generations: whole, verified, private, of the right plan."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from client.local_state import (
    Generation,
    LocalState,
    Used,
    last_counted,
    used_rounds,
)
from common.records import Code, Refusal

PARTS = {"bn.weight": "norm_affine", "bn.num_batches_tracked": "norm_stats"}


def generation(round_: int) -> Generation:
    tensors = {
        "bn.weight": np.full(4, round_, np.float32),
        "bn.num_batches_tracked": np.asarray(round_, np.int64),
    }
    moments = {"w/exp_avg": np.ones(2, np.float32)}
    residual = {"trunk.weight": np.full(3, round_ / 8, np.float32)}
    spreads = {"trunk.weight": 0.1 * round_}
    return Generation(round_, "base", tensors, moments, residual, spreads)


def reopened(folder: Path, plan: str = "p" * 64, snapshot: str = "s") -> LocalState:
    return LocalState(folder, "run", plan, snapshot)


def test_a_generation_survives_the_process(tmp_path: Path) -> None:
    reopened(tmp_path).write(generation(3), PARTS)
    read = reopened(tmp_path).read(3)
    assert read.base_hash == "base"
    assert read.tensors.keys() == PARTS.keys()
    assert np.array_equal(read.tensors["bn.weight"], np.full(4, 3, np.float32))
    assert read.tensors["bn.num_batches_tracked"].shape == ()
    assert read.tensors["bn.num_batches_tracked"] == 3
    assert np.array_equal(read.optimizer["w/exp_avg"], np.ones(2, np.float32))
    assert read.residual.keys() == read.spreads.keys() == {"trunk.weight"}
    assert np.array_equal(read.residual["trunk.weight"], np.full(3, 0.375, np.float32))
    assert read.spreads["trunk.weight"] == 0.1 * 3


def test_only_the_owner_may_read_it(tmp_path: Path) -> None:
    reopened(tmp_path).write(generation(1), PARTS)
    file = next(tmp_path.rglob("round-*.safetensors"))
    assert file.stat().st_mode & 0o077 == 0


def test_an_older_round_is_read_after_a_newer_one_was_written(tmp_path: Path) -> None:
    state = reopened(tmp_path)
    state.write(generation(1), PARTS)
    state.write(generation(2), PARTS)
    assert state.read(1).tensors["bn.weight"][0] == 1.0


def test_one_flipped_bit_is_noticed(tmp_path: Path) -> None:
    reopened(tmp_path).write(generation(1), PARTS)
    file = next(tmp_path.rglob("round-*.safetensors"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))
    with pytest.raises(Refusal) as caught:
        reopened(tmp_path).read(1)
    assert caught.value.code == Code.LOCAL_STATE


def test_a_missing_round_and_another_plan_are_refused(tmp_path: Path) -> None:
    reopened(tmp_path).write(generation(1), PARTS)
    for state, round_ in ((reopened(tmp_path), 2), (reopened(tmp_path, "q" * 64), 1)):
        with pytest.raises(Refusal) as caught:
            state.read(round_)
        assert caught.value.code == Code.LOCAL_STATE


def test_only_the_named_rounds_are_kept(tmp_path: Path) -> None:
    state = reopened(tmp_path)
    for round_ in (1, 2, 3):
        state.write(generation(round_), PARTS)
    state.keep_only({1, 3})
    assert reopened(tmp_path).read(1).round == 1
    with pytest.raises(Refusal):
        reopened(tmp_path).read(2)


def test_fixed_tensors_are_kept_by_stage(tmp_path: Path) -> None:
    reopened(tmp_path).write_fixed("head", {"trunk.weight": np.ones(3, np.float32)})
    assert reopened(tmp_path).read_fixed("head").keys() == {"trunk.weight"}
    assert reopened(tmp_path).read_fixed("other") == {}


def test_rounds_are_listed_by_the_images_that_they_used(tmp_path: Path) -> None:
    state = reopened(tmp_path)
    state.write(generation(1), PARTS)
    state.write(generation(2), PARTS)
    later = reopened(tmp_path, snapshot="t")
    later.write(generation(3), PARTS)
    later.write(generation(4), PARTS)
    later.keep_only({4})
    assert used_rounds(tmp_path) == [
        Used("run", "p" * 12, 1, 2, "s"),
        Used("run", "p" * 12, 3, 4, "t"),
    ]
    assert used_rounds(tmp_path / "nowhere") == []


def test_the_last_counted_round_survives_the_process(tmp_path: Path) -> None:
    assert last_counted(tmp_path) is None
    state = reopened(tmp_path)
    for round_ in (0, 1, 2, 2):
        state.note_counted(round_)
    found = last_counted(tmp_path)
    assert found is not None
    assert (found.run, found.plan, found.round) == ("run", "p" * 12, 2)
    reopened(tmp_path).note_counted(1)  # the coordinator went back to its checkpoint
    found = last_counted(tmp_path)
    assert found is not None and found.round == 1
    reopened(tmp_path).keep_only(())
    assert last_counted(tmp_path) == found
    (file,) = tmp_path.rglob("counted.json")
    assert file.stat().st_mode & 0o077 == 0
