"""What a site refuses to train from or to keep, and that training never looks so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from client.data.dataset import TRAIN, Loader, build_dataset
from client.local_round import Kept, loader_of, train_round
from client.local_state import LocalState
from client.resident import Resident
from client.sanity import FACTOR, require_sane
from common.contract import tensor_hash
from common.plan import Model, Optimizer, Plan, Preprocessing, Work
from common.records import Code, Refusal, Request, Value
from simulations.federation import approve_everywhere, sessions_of
from tests.support.hospitals import (
    MemorySnapshot,
    populations,
    small_plan,
    small_stage,
)
from tests.support.runs import MACHINE

STEM = "backbone.stem.0.weight"
SECOND = "backbone.stages.0.0.conv1.weight"
BACKBONES = ("resnet18", "densenet121", "efficientnet_b0", "convnext_tiny", "swin_v2_t")
Change = Callable[[Tensor], Tensor]

ABSURD: dict[str, tuple[str, Change, str]] = {
    "nan": (SECOND, lambda w: torch.full_like(w, torch.nan), "absurd values"),
    "infinity": (STEM, lambda w: torch.full_like(w, torch.inf), "absurd values"),
    "late": ("backbone.stages.2.0.conv2.weight", lambda w: w / 0.0, "absurd values"),
    "zeros": (STEM, torch.zeros_like, "one value everywhere"),
    "constant": (SECOND, lambda w: torch.full_like(w, 0.3), "one value everywhere"),
    "too_large": (STEM, lambda w: w * 2 * FACTOR, "spread"),
    "too_small": (SECOND, lambda w: w / (2 * FACTOR), "spread"),
    # What comes out is below zero everywhere, and the next layer sees zeros.
    "dead": (SECOND, lambda w: -w.abs(), "not tell images apart"),
}


@pytest.fixture(scope="module")
def resident() -> Resident:
    return Resident(small_plan(), torch.device("cpu"), None)


@pytest.fixture(scope="module")
def images() -> Tensor:
    dataset = build_dataset({"alpha": MemorySnapshot("alpha")}, small_plan())
    loader = Loader(dataset, torch.device("cpu"), 0.2, 0.2, 1)
    return next(loader.batches([dataset.select(TRAIN)[:8]]))[0]


def look(
    resident: Resident,
    images: Tensor,
    changed: dict[str, Tensor],
    reference: dict[str, float] | None = None,
) -> dict[str, float]:
    current, initial = resident.stage(0), resident.initial(0)
    tensors = {**initial, **changed}
    current.put(tensors)
    received = {key: tensors[key] for key in current.contract.sent}
    return require_sane(current, received, reference or {}, lambda: initial, images)


@pytest.mark.parametrize("kind", ABSURD)
def test_absurd_weights_are_refused(
    kind: str, resident: Resident, images: Tensor
) -> None:
    key, change, words = ABSURD[kind]
    with pytest.raises(Refusal, match=words) as caught:
        look(resident, images, {key: change(resident.initial(0)[key])})
    assert caught.value.code == Code.SANITY


def test_the_spread_is_held_to_what_was_accepted_last(
    resident: Resident, images: Tensor
) -> None:
    weight = resident.initial(0)[STEM]
    found = look(resident, images, {STEM: weight * FACTOR * 0.6})
    assert found.keys() == {STEM, SECOND, SECOND.replace("conv1", "conv2")}
    assert found[STEM] == pytest.approx(float(weight.std()) * FACTOR * 0.6)
    later = {STEM: weight * FACTOR * 6}
    assert look(resident, images, later, found)[STEM] > found[STEM]
    with pytest.raises(Refusal, match="spread"):
        look(resident, images, later)


def test_no_more_than_the_first_layers_is_computed_and_nothing_moves(
    resident: Resident, images: Tensor
) -> None:
    model = resident.stage(0).model
    seen: list[str] = []
    handles = [
        module.register_forward_hook(lambda *_, name=name: seen.append(name))
        for name, module in model.named_modules()
        if not list(module.children())
    ]
    state = torch.get_rng_state()
    look(resident, images, {})
    for handle in handles:
        handle.remove()
    assert seen[0] == "backbone.stem.0" and seen[-1] == "backbone.stages.0.0.conv2"
    assert torch.equal(torch.get_rng_state(), state)
    after = model.state_dict()
    assert all(torch.equal(after[k], v) for k, v in resident.initial(0).items())


def test_images_that_are_all_alike_are_not_held_against_the_weights(
    resident: Resident, images: Tensor
) -> None:
    look(resident, images[:1].expand(8, -1, -1, -1), {})


@pytest.mark.parametrize("name", BACKBONES)
def test_training_from_random_weights_is_never_refused(name: str) -> None:
    """Every start, and what each round makes of it, at a high rate."""
    stage = small_stage(
        rounds=3,
        model=Model(name),
        work=Work("steps", 2, 8),
        optimizer=Optimizer("adamw", 0.01),
    )
    size = Preprocessing(rows=64, columns=64)
    plan = small_plan(stage, sites=("alpha",), preprocessing=size)
    resident = Resident(plan, torch.device("cpu"), None)
    dataset = build_dataset(populations(plan)["alpha"], plan)
    rows = dataset.select(TRAIN)[:8]
    images = next(loader_of(resident, dataset, 0).batches([rows])).images
    current, tensors = resident.stage(0), resident.initial(0)
    spreads: dict[str, float] = {}
    for round_ in (1, 2, 3):
        current.put(tensors)
        received = {key: tensors[key] for key in current.contract.sent}
        now = require_sane(
            current, received, spreads, lambda: resident.initial(0), images
        )
        assert len(now) == (1 if name == "swin_v2_t" else 3)
        assert all(0.2 < now[key] / old < 5 for key, old in spreads.items())
        spreads = now
        train_round(resident, dataset, "alpha", 0, round_, Kept(), tensors)
        state = current.look(current.model.state_dict())
        tensors = {key: torch.from_numpy(array.copy()) for key, array in state.items()}


def requests(
    plan: Plan, folder: Path, changed: dict[str, Tensor]
) -> tuple[Request, Request]:
    """Write a coordinator's first and last question, with absurd weights."""
    resident = Resident(plan, torch.device("cpu"), None)
    rule = resident.stage(0).contract
    tensors = {**resident.initial(0), **changed}
    fields: dict[str, Value] = {
        "plan": plan.hash,
        "run": "run",
        "round": 1,
        "local_round": 0,
        "shared_hash": tensor_hash(tensors, rule.shared),
        "fingerprint": rule.fingerprint,
        "head": "",
    }
    sent = {key: tensors[key].numpy() for key in rule.sent}
    train = Request("train", {**fields, "base_round": 0, "keep_round": 0}, sent)
    return train, Request("close", {**fields, "role": "last"}, sent)


def test_a_site_neither_trains_from_absurd_weights_nor_keeps_them(
    tmp_path: Path,
) -> None:
    plan = small_plan()
    approve_everywhere(plan, tmp_path)
    connect = sessions_of(plan, populations(plan), tmp_path, MACHINE, synthetic=True)
    session = connect({"site": "alpha"})
    initial = Resident(plan, torch.device("cpu"), None).initial(0)
    own = tmp_path / "sites" / "alpha"
    for request in requests(plan, tmp_path, {STEM: torch.zeros_like(initial[STEM])}):
        with pytest.raises(Refusal) as caught:
            session.answer(request)
        assert caught.value.code == Code.SANITY
        assert not list(own.rglob("round-*.safetensors"))
        assert not (own / "models").exists()
        assert not (own / "scores").exists()
    reply = session.answer(requests(plan, tmp_path, {})[0])  # the same session goes on
    assert reply.kind == "train"
    kept = LocalState(own / "state", "run", plan.hash, "").read(1).spreads
    assert kept[STEM] == pytest.approx(float(np.std(initial[STEM].numpy())), rel=1e-2)
