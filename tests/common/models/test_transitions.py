"""Between stages: which values carry on and which start again, at both ends."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from common import plan
from common.contract import Contract
from common.models import build_model
from common.models.transitions import check_transition, next_local, next_shared
from common.sharing import contract

SPEC = plan.Model(name="resnet_tiny")
State = dict[str, Tensor]


def made(sharing: str, model: plan.Model = SPEC) -> Contract:
    stage = plan.Stage(name="one", rounds=1, sharing=sharing, model=model)
    return contract(build_model(model, 0), stage)


def filled(keys: tuple[str, ...], value: float) -> State:
    return {key: torch.tensor(value) for key in keys}


def ends(old: Contract, new: Contract) -> tuple[State, State]:
    """Give both ends after old: coordinator 1, site's own 2, initial value 0."""
    initial = {spec.key: torch.tensor(0.0) for spec in new.layout}
    shared, local = filled(old.shared, 1.0), filled(old.local, 2.0)
    return next_shared(shared, initial, old, new), next_local(
        local, shared, initial, old, new
    )


def part(state: State, text: str) -> set[float]:
    return {float(tensor) for key, tensor in state.items() if text in key}


def test_same_contract_carries_everything_on() -> None:
    old = made("fedbn_head")
    shared, local = ends(old, old)
    assert (tuple(shared), tuple(local)) == (old.shared, old.local)
    assert part(shared, "") == {1.0}
    assert part(local, "") == {2.0}


def test_shared_that_becomes_local_starts_from_the_last_received() -> None:
    old, new = made("fedavg"), made("fedbn_head")
    shared, local = ends(old, new)
    assert set(shared) == set(new.shared)
    assert set(local) == set(new.local)
    assert part(local, "running_mean") == part(local, "heads.") == {1.0}
    assert part(local, "num_batches_tracked") == {2.0}


def test_local_that_becomes_shared_starts_from_the_initial_value() -> None:
    shared, local = ends(made("fedbn_head"), made("fedavg"))
    assert part(shared, "running_mean") == part(shared, "heads.") == {0.0}
    assert part(shared, "conv") == {1.0}
    assert part(local, "") == {2.0}  # only the counters are left


@pytest.mark.parametrize("sharing", ["fedavg", "fedbn_head"])
def test_new_head_starts_fresh_and_the_backbone_carries_on(sharing: str) -> None:
    old, new = made(sharing), made(sharing, replace(SPEC, head="density", outputs=4))
    shared, local = ends(old, new)
    heads = {**shared, **local}
    assert part(heads, "heads.density") == {0.0}
    assert part(heads, "heads.malignancy") == set()
    assert part(shared, "conv") == {1.0}


def test_new_head_is_the_same_at_every_end() -> None:
    density = replace(SPEC, head="density", outputs=4)
    first, second = (build_model(density, 5).state_dict() for _ in range(2))
    assert torch.equal(first["heads.density.weight"], second["heads.density.weight"])


def test_lost_tensor_is_an_error_never_a_fresh_start() -> None:
    old = made("fedbn_head")
    initial = {spec.key: torch.tensor(0.0) for spec in old.layout}
    shared, local = filled(old.shared, 1.0), filled(old.local, 2.0)
    del shared["backbone.stem.0.weight"]
    with pytest.raises(ValueError, match=r"no value of backbone\.stem\.0\.weight"):
        next_shared(shared, initial, old, old)
    del local["heads.malignancy.bias"]
    with pytest.raises(ValueError, match=r"no value of heads\.malignancy\.bias"):
        next_local(local, shared, initial, old, old)


@pytest.mark.parametrize(
    "change",
    [{"name": "resnet_small"}, {"widths": (16, 32, 64)}, {"channels": 3}],
)
def test_change_of_backbone_is_refused(change: dict[str, object]) -> None:
    new = replace(SPEC, **change)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="backbone cannot change within a run"):
        check_transition(SPEC, new)


def test_head_of_another_size_needs_another_name() -> None:
    with pytest.raises(ValueError, match="a name of its own"):
        check_transition(SPEC, replace(SPEC, outputs=4))
    check_transition(SPEC, replace(SPEC, outputs=4, head="density"))
