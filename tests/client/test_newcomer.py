"""A site outside the roster receives the shared part as announced, or nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.approval import approve
from client.newcomer import Newcomer
from client.shared_part import last_received
from client.site import read_site
from client.worker import Worker
from common.checkpoint import read_tensors
from common.compose import mammofed_version
from common.contract import fingerprint, tensor_hash
from common.models import build_model
from common.plan import Plan
from common.records import Code, Kind, Refusal, Request
from common.sharing import contract
from tests.support.hospitals import populations, small_plan, small_stage
from tests.support.mammo_client import client, make_hospital
from tests.support.runs import MACHINE, approve_everywhere, sessions_of

PLAN = small_plan(sites=("south", "east"))
TRUNK = "backbone.stem.0.weight"


def offer_of(plan: Plan, round_: int = 2) -> Request:
    """Make an offer as the coordinator does, of weights that are drawn here."""
    stage = plan.stages[plan.stage_at(round_)]
    rule = contract(build_model(stage.model, plan.seed), stage)
    layout = rule.layout_of(rule.shared)
    random = np.random.default_rng(0)
    shared = {
        spec.key: random.normal(size=spec.shape).astype(spec.dtype) for spec in layout
    }
    fields = {
        "plan": plan.hash,
        "run": "run-1a2b",
        "round": round_,
        "shared_hash": tensor_hash(shared, shared),
        "fingerprint": fingerprint(layout, stage.name, stage.model.name),
    }
    return Request("offer", fields, shared)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    approve(tmp_path / "state", PLAN)
    return tmp_path / "state"


def kept(state: Path) -> list[Path]:
    return list((state / "models").rglob("*")) if (state / "models").exists() else []


def test_what_is_offered_is_kept_bit_for_bit_and_confirmed_by_its_hash(
    state: Path,
) -> None:
    offer = offer_of(PLAN)
    reply = Newcomer("north", PLAN, state).answer(offer)
    digest = offer.fields["shared_hash"]
    assert reply.fields == {"site": "north", "round": 2, "shared_hash": digest}
    assert not reply.shared
    folder = state / "models" / "small" / "2"
    tensors, metadata = read_tensors(folder / "shared.safetensors")
    assert tensors.keys() == offer.shared.keys() and metadata["tensors"] == digest
    assert all(np.array_equal(tensors[key], offer.shared[key]) for key in tensors)
    part = json.loads((folder / "shared.json").read_bytes())
    assert part["missing"] == ["norm_affine", "norm_stats", "head"]
    assert part["plan_hash"] == PLAN.hash and part["tensors"] == digest
    card = (folder / "SHARED_PART.md").read_text()
    for words in ("no model yet", "BatchNorm statistics", "head", "`adapt`", digest):
        assert str(words) in card
    assert all(p.stat().st_mode & 0o077 == 0 for p in (folder, *folder.iterdir()))
    again = Newcomer("north", PLAN, state).answer(offer)
    assert again == reply


def changed(**fields: Any) -> Callable[[Request], Request]:
    return lambda offer: replace(offer, fields={**offer.fields, **fields})


def with_trunk(change: Callable[[np.ndarray], np.ndarray]) -> Callable[..., Request]:
    return lambda offer: replace(
        offer, shared={**offer.shared, TRUNK: change(offer.shared[TRUNK])}
    )


def one_bit(array: np.ndarray) -> np.ndarray:
    moved = array.copy()
    moved.view(np.uint32).flat[0] ^= 1
    return moved


def announced(offer: Request) -> Request:
    """Announce whatever is sent."""
    digest = tensor_hash(offer.shared, offer.shared)
    return replace(offer, fields={**offer.fields, "shared_hash": digest})


SPOILT: dict[str, tuple[Callable[[Request], Request], Code]] = {
    "a tampered tensor": (with_trunk(one_bit), Code.SHARED_HASH),
    "another hash": (changed(shared_hash="0" * 64), Code.SHARED_HASH),
    "another contract": (changed(fingerprint="0" * 64), Code.FINGERPRINT),
    "another shape": (with_trunk(lambda a: a[:1]), Code.FINGERPRINT),
    "another type": (with_trunk(lambda a: a.astype(np.float64)), Code.FINGERPRINT),
    "not finite": (with_trunk(lambda a: np.full_like(a, np.inf)), Code.NOT_FINITE),
    "another plan": (changed(plan="0" * 64), Code.PLAN_NOT_APPROVED),
    "no such round": (changed(round=4), Code.REQUEST),
    "the start": (changed(round=0), Code.REQUEST),
    "a key more": (
        lambda o: replace(o, shared={**o.shared, "planted": np.zeros(1, np.float32)}),
        Code.FINGERPRINT,
    ),
    "a key fewer": (
        lambda o: replace(o, shared={k: v for k, v in o.shared.items() if k != TRUNK}),
        Code.FINGERPRINT,
    ),
}


@pytest.mark.parametrize("kind", SPOILT)
def test_anything_else_is_refused_and_nothing_is_kept(kind: str, state: Path) -> None:
    spoil, code = SPOILT[kind]
    spoilt = spoil(offer_of(PLAN))
    if code in (Code.FINGERPRINT, Code.NOT_FINITE):
        spoilt = announced(spoilt)  # the hash would tell too
    with pytest.raises(Refusal) as caught:
        Newcomer("north", PLAN, state).answer(spoilt)
    assert caught.value.code == code and not kept(state)


def test_without_its_approval_nothing_is_received(tmp_path: Path) -> None:
    with pytest.raises(Refusal) as caught:
        Newcomer("north", PLAN, tmp_path).answer(offer_of(PLAN))
    assert caught.value.code == Code.PLAN_NOT_APPROVED and not kept(tmp_path)


@pytest.mark.parametrize("kind", ["handshake", "train", "close"])
def test_it_takes_no_part_in_training(kind: Kind, state: Path) -> None:
    asked = replace(offer_of(PLAN), kind=kind)
    with pytest.raises(Refusal) as caught:
        Newcomer("north", PLAN, state).answer(asked)
    assert caught.value.code == Code.ROSTER and not kept(state)


def test_a_site_of_the_roster_is_not_given_it(tmp_path: Path) -> None:
    approve_everywhere(PLAN, tmp_path)
    connect = sessions_of(PLAN, populations(PLAN), tmp_path, MACHINE, synthetic=True)
    with pytest.raises(Refusal) as caught:
        connect({"site": "south"}).answer(offer_of(PLAN))
    assert caught.value.code == Code.ROSTER


def test_shared_tensors_that_stood_still_belong_to_it(tmp_path: Path) -> None:
    """They never travel in training: a site of the roster has them from its start."""
    head_only = small_stage(
        "head", 2, sharing="fedavg", trainable=("head",), norm_mode="frozen"
    )
    plan = small_plan(small_stage("all", 1, sharing="fedavg"), head_only)
    approve(tmp_path, plan)
    Newcomer("north", plan, tmp_path).answer(offer_of(plan, 3))
    tensors, _ = read_tensors(tmp_path / "models/small/3/shared.safetensors")
    assert {TRUNK, "heads.malignancy.weight"} < tensors.keys()


def test_the_worker_needs_no_image_for_it_and_status_tells_it(tmp_path: Path) -> None:
    hospital = make_hospital(tmp_path, images=1)
    plan = replace(PLAN, version=mammofed_version())
    site = read_site(hospital, "north")
    approve(site.state_folder, plan)
    assert "shared part" not in client(hospital, "status")[1]
    worker = Worker(site, hospital / "policy.yaml")
    answer = worker._answer(offer_of(plan))
    assert not isinstance(answer, Refusal) and answer.fields["site"] == "north"
    said = client(hospital, "status")[1]
    digest = str(answer.fields["shared_hash"])
    assert "shared part of plan small, round 2, " in said and digest[:12] in said
    assert "lacks norm_affine, norm_stats, head" in said
    facts = json.loads(client(hospital, "status", "--json")[1])
    assert facts["shared_part"]["tensors"] == digest
    found = last_received(site.state_folder)
    assert found is not None and found[0].plan_hash == plan.hash
