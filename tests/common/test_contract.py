"""The hashes that both ends compare: of what tensors look like, and what they hold."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from common import plan
from common.contract import tensor_hash
from common.models import build_model
from common.sharing import contract

SPEC = plan.Model(name="resnet_tiny")


def fingerprint_of(stage: plan.Stage, seed: int = 0) -> str:
    return contract(build_model(stage.model, seed), stage).fingerprint


def test_fingerprint_follows_layout_stage_and_model_not_values() -> None:
    stage = plan.Stage(name="one", rounds=1, model=SPEC)
    base = fingerprint_of(stage)
    assert fingerprint_of(stage, seed=1) == base
    others = [
        replace(stage, name="later"),
        replace(stage, sharing="fedavg"),
        replace(stage, model=replace(SPEC, channels=3)),
        replace(stage, model=replace(SPEC, name="resnet_small")),
    ]
    assert len({base, *map(fingerprint_of, others)}) == 5


def test_same_layout_under_another_model_name_has_another_fingerprint() -> None:
    alike = {"widths": (16, 32), "blocks": (1, 1)}
    names = ("resnet_small", "resnet_tiny")
    models = [plan.Model(name=name, **alike) for name in names]  # type: ignore[arg-type]
    stages = [plan.Stage(name="one", rounds=1, model=model) for model in models]
    first, second = (contract(build_model(s.model, 0), s) for s in stages)
    assert first.layout == second.layout
    assert first.fingerprint != second.fingerprint


def test_tensor_hash_sees_values_but_not_memory_format() -> None:
    one = {"a": torch.arange(24.0).reshape(1, 2, 3, 4), "b": torch.ones(2)}
    same = {"b": torch.ones(2), "a": one["a"].to(memory_format=torch.channels_last)}
    assert tensor_hash(one, ["a", "b"]) == tensor_hash(same, ["b", "a"])
    assert tensor_hash(one, ["a"]) != tensor_hash({"a": one["a"] + 1}, ["a"])
    assert tensor_hash(one, ["a"]) != tensor_hash({"b": one["a"]}, ["b"])
    assert tensor_hash(one, ["a"]) != tensor_hash({"a": one["a"].mT}, ["a"])


def test_tensor_hash_is_the_same_for_numpy_and_torch() -> None:
    arrays = {"a": np.ones((2, 2), np.float32), "n": np.array(3)}
    tensors = {key: torch.from_numpy(array) for key, array in arrays.items()}
    assert tensor_hash(arrays, arrays) == tensor_hash(tensors, tensors)


def test_tensor_hash_of_a_missing_tensor_raises() -> None:
    with pytest.raises(KeyError):
        tensor_hash({}, ["a"])
