"""What really crosses the wire in a round, for every backbone."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
from flwr.app import ArrayRecord, Message
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from common.checkpoint import read_tensors
from common.models import build_model
from common.norms import find_norms
from common.packing import unpack_tensors
from common.plan import Model, Preprocessing, Work
from common.records import REPLY_FIELDS
from simulations.grid import InProcessGrid
from tests.support.hospitals import small_plan, small_stage, two_vendors_and_one
from tests.support.runs import play

BACKBONES = ["resnet18", "resnet50", "densenet121", "efficientnet_b0", "resnet_small"]


class SpyingGrid(InProcessGrid):
    """Keeps the content of every message in both directions."""

    seen: list[Message] = []  # noqa: RUF012  reset by each test

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        asked = list(messages)
        SpyingGrid.seen += asked
        return super().push_messages(asked)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        replies = list(super().pull_messages(message_ids))
        SpyingGrid.seen += replies
        return replies


def local_names(model: nn.Module) -> set[str]:
    """Walk the modules: everything of a BatchNorm, and the last linear layer."""
    names = set()
    last_linear = ""
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm):
            names |= {f"{name}.{key}" for key in module.state_dict()}
        if isinstance(module, nn.Linear):
            last_linear = name
    return names | {f"{last_linear}.weight", f"{last_linear}.bias"}


@pytest.mark.parametrize("backbone", BACKBONES)
def test_no_batchnorm_and_no_head_tensor_crosses_the_wire(
    backbone: str, tmp_path: Path
) -> None:
    stage = small_stage(
        rounds=2,
        sharing="fedbn_head",
        model=Model(backbone),
        work=Work("steps", 1, 4),
    )
    SpyingGrid.seen = []
    plan = small_plan(
        stage,
        sites=("alpha", "beta"),
        preprocessing=Preprocessing(rows=64, columns=64),
    )
    play(plan, tmp_path, grid_type=SpyingGrid)
    travelled = {
        key
        for message in SpyingGrid.seen
        for record in message.content.values()
        if isinstance(record, ArrayRecord)
        for key in unpack_tensors(record)
    }
    model = build_model(Model(backbone), seed=0)
    forbidden = local_names(model)
    assert len(forbidden) > 2
    assert not travelled & forbidden
    assert travelled == {k for k, _ in model.named_parameters()} - forbidden


def test_no_tensor_of_any_vendors_norms_crosses_the_wire(tmp_path: Path) -> None:
    SpyingGrid.seen = []
    stage = small_stage(rounds=2, norm_domain="vendor")
    plan = small_plan(stage, sites=("alpha", "beta"))
    hospitals = two_vendors_and_one()
    outcome = play(plan, tmp_path, grid_type=SpyingGrid, hospitals=hospitals)
    assert outcome.status == "complete"
    travelled = {
        key
        for message in SpyingGrid.seen
        for record in message.content.values()
        if isinstance(record, ArrayRecord)
        for key in unpack_tensors(record)
    }
    model = build_model(Model("resnet_tiny"), seed=0)
    assert travelled == {k for k, _ in model.named_parameters()} - local_names(model)
    (state,) = (tmp_path / "sites/alpha/state").glob("*/*/round-00002.safetensors")
    norms = {
        f"{name}.{vendor}.{tensor}"
        for name, norm in find_norms(model)
        for vendor in ("ge", "hologic")
        for tensor in norm.state_dict()
    }
    kept = [key.partition("/") for key in read_tensors(state)[0]]
    assert {key for part, _, key in kept if part.startswith("norm_")} == norms


def test_replies_hold_the_allowed_fields_and_nothing_else(tmp_path: Path) -> None:
    SpyingGrid.seen = []
    play(small_plan(), tmp_path, grid_type=SpyingGrid)
    kinds = {"query.handshake": "handshake", "train.round": "train"}
    replies = [m for m in SpyingGrid.seen if m.metadata.reply_to_message_id]
    assert replies
    for reply in replies:
        kind = kinds.get(reply.metadata.message_type, "close")
        records = reply.content
        assert set(records) == {"shared", "fields"}
        assert set(records["fields"]) == set(REPLY_FIELDS[kind])  # type: ignore
