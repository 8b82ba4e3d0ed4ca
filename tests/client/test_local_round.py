"""What an objective has of its own stays at the site, and is there the next round."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from client import local_round
from client.training import train
from common.checkpoint import read_tensors
from common.compose import compose_tree
from common.compose import plan_of as plan_of_tree
from common.models import build_model
from common.plan import Model, Plan, Work
from common.records import Reply, Request
from server.participation import RunFailed
from tests.support.hospitals import (
    MemorySnapshot,
    small_plan,
    small_stage,
    two_vendors_and_one,
)
from tests.support.runs import model_tensors, play

SITES = ("alpha", "beta")
VENDORS = {s: {s: MemorySnapshot(s, vendors=("ge", "hologic"))} for s in SITES}
EVERYTHING: dict[str, dict[str, Any]] = {
    "ce": {},
    "supcon": {"queue": 8, "projector": (6, 4)},
    "dann": {"hidden": (4,), "weight": 0.1},
    "mmd": {"class_wise": True, "weight": 0.1},
}


def plan_of(*changes: dict[str, Any], sites: tuple[str, ...] = SITES) -> Plan:
    stages = [
        small_stage(f"stage_{number}", **{"rounds": 2, "domain": "vendor"} | change)
        for number, change in enumerate(changes)
    ]
    return small_plan(*stages, sites=sites)


def own(folder: Path, site: str, round_: int) -> dict[str, np.ndarray]:
    """Read the compartment ``objective`` of a generation."""
    (file,) = (folder / "sites" / site / "state").glob(f"*/*/round-{round_:05d}.*")
    return {
        name.removeprefix("objective/"): array
        for name, array in read_tensors(file)[0].items()
        if name.startswith("objective/")
    }


def test_nothing_of_an_objective_leaves_the_site(tmp_path: Path) -> None:
    sent: list[Reply] = []

    def watch(request: Request, reply: Reply) -> Reply:
        sent.append(reply)
        return reply

    play(
        plan_of({"objective": EVERYTHING}),
        tmp_path,
        spoil={"alpha": watch},
        hospitals=VENDORS,
    )
    kept = own(tmp_path, "alpha", 2)
    assert {name.split(".")[1] for name in kept} == {"supcon", "dann"}
    trained = [reply for reply in sent if reply.kind == "train"]
    assert len(trained) == 2
    for reply in trained:
        assert all(name.startswith("backbone.") for name in reply.shared)
        values = {array.tobytes() for array in reply.shared.values()}
        assert not values & {array.tobytes() for array in kept.values()}


def test_a_projector_learns_on_from_round_to_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once a stage is over nothing of it is left: the next one begins anew."""
    starts: list[dict[str, np.ndarray]] = []

    def watch(model: Any, optimizer: Any, objective: Any, *rest: Any, **named: Any):  # type: ignore[no-untyped-def]
        state = objective.state_dict()
        starts.append({key: one.numpy().copy() for key, one in state.items()})
        return train(model, optimizer, objective, *rest, **named)

    monkeypatch.setattr(local_round, "train", watch)
    alone = {"objective": {"supcon": {"projector": (6, 4), "queue": 8}}}
    kept: list[dict[str, np.ndarray]] = []

    def keep(request: Request, reply: Reply) -> Reply:
        if request.kind == "train":
            kept.append(own(tmp_path, "alpha", int(request.fields["round"])))
        return reply

    plan = plan_of(alone, alone, sites=("alpha",))
    play(plan, tmp_path, spoil={"alpha": keep}, hospitals={"alpha": VENDORS["alpha"]})
    first, second, third, fourth = starts
    assert not same(kept[0], first)
    assert same(kept[0], second)
    assert not same(kept[1], third)
    assert (third["terms.supcon.queued_labels"] == -1).all()
    assert same(kept[2], fourth)


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    assert one.keys() == other.keys()
    return all(np.array_equal(one[key], other[key]) for key in one)


def test_the_head_stands_still_where_it_is_not_trained(tmp_path: Path) -> None:
    stage = {"objective": {"supcon": {}}, "trainable": ("trunk", "norm_affine")}
    plan = plan_of(stage)
    play(plan, tmp_path, hospitals=VENDORS)
    start = build_model(plan.stages[0].model, plan.seed).state_dict()
    found = model_tensors(tmp_path, plan, "alpha", 2)
    for name, before in start.items():
        if name.endswith("weight"):
            still = np.array_equal(found[name], before.numpy())
            assert still == name.startswith("heads."), name


def test_a_balanced_sampler_is_corrected_for_in_the_scores(tmp_path: Path) -> None:
    plan = plan_of({"work": Work("steps", 2, 16, sampler="balanced")})
    play(plan, tmp_path, hospitals=VENDORS)
    scores = pd.read_parquet(
        tmp_path / "sites" / "alpha" / "scores" / "last" / "alpha.parquet"
    )
    assert (scores["train_odds"] == 1.0).all()
    assert (scores["site_odds"] < 0.5).all()


@pytest.mark.parametrize(
    ("objective", "said"),
    [
        ({"supcom": {}}, "OBJECTIVE"),
        ({"ce": {"pos_wieght": 1.0}}, "OBJECTIVE"),
        ({"ce": {}, "dann": {}}, "beta.*OBJECTIVE"),  # beta has one vendor only
    ],
)
def test_an_objective_that_a_site_cannot_serve_fails_at_the_handshake(
    objective: dict[str, dict[str, Any]], said: str, tmp_path: Path
) -> None:
    plan = plan_of({"objective": objective})
    asked: list[str] = []
    with pytest.raises(RunFailed, match=said):
        play(
            replace(plan, roster=replace(plan.roster, minimum_sites=2)),
            tmp_path,
            hear={"alpha": lambda request: asked.append(request.kind)},
            hospitals=two_vendors_and_one(),
        )
    assert "train" not in asked


@pytest.mark.parametrize("name", ["supcontr", "supcontr_ce"])
def test_contrastive_stages_leave_a_model_that_tells_classes(
    name: str, tmp_path: Path
) -> None:
    """Features are learnt without the head, which is then trained on them."""
    composed = plan_of_tree(compose_tree([f"stages={name}"]))
    stages = tuple(
        replace(
            stage, rounds=2, model=Model("resnet_tiny"), work=replace(work, amount=4)
        )
        for stage in composed.stages
        for work in [replace(stage.work, batch_size=16)]
    )
    plan = small_plan(*stages, sites=SITES)
    outcome = play(plan, tmp_path, hospitals=VENDORS)
    assert outcome.selected > 2, "no round without a trained head is the result"
    start = build_model(plan.stages[0].model, plan.seed).state_dict()
    found = model_tensors(tmp_path, plan, "alpha", 4)
    name_of_head = next(key for key in start if key.startswith("heads."))
    assert not np.array_equal(found[name_of_head], start[name_of_head].numpy())
    assert not own(tmp_path, "alpha", 4), "the projector is dropped"
