"""A copy of every norm layer for each vendor: names, values, contract, words."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from common import plan
from common.handshake import federation_fingerprint
from common.models import MODELS, build_model
from common.models.check import check_models
from common.models.transitions import next_local, next_shared
from common.norm_domains import DomainNorm, copied_names, split_norms, switch_of
from common.norms import NORM_TYPES, set_norm_mode
from common.parts import PRESETS
from common.plan import PlanError, plan_from_json, plan_to_json
from common.plan_words import describe_plan
from common.sharing import assign_parts, contract
from tests.support.hospitals import small_plan, small_stage

VENDORS = ("hologic", "ge")


def stage_of(name: str, **changes: object) -> plan.Stage:
    return small_stage(model=plan.Model(name), **changes)


@pytest.mark.parametrize("name", MODELS)
def test_only_the_names_of_norms_change(name: str) -> None:
    """Norms are found here by walking the modules of a model without copies."""
    model = build_model(plan.Model(name), 0)
    before = model.state_dict()
    norms = {
        f"{where}.{key}"
        for where, module in model.named_modules()
        if isinstance(module, NORM_TYPES)
        for key in module.state_dict()
    }
    split_norms(model, VENDORS)
    after, copies = model.state_dict(), copied_names(model)
    assert norms and before.keys() - norms == after.keys() - copies.keys()
    assert sorted(copies.values()) == sorted([*norms, *norms])
    assert all(torch.equal(after[key], before[copies[key]]) for key in copies)
    parts, plain = assign_parts(model), assign_parts(build_model(model.spec, 0))
    assert all(parts[key] == plain[source] for key, source in copies.items())


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("sharing", ["fedbn_head", "fedbn"])
def test_what_travels_is_what_the_coordinator_expects(name: str, sharing: str) -> None:
    stage = stage_of(name, sharing=sharing, norm_domain="vendor")
    plain = contract(build_model(stage.model, 0), stage)
    model = build_model(stage.model, 0)
    split_norms(model, VENDORS)
    site = contract(model, stage)
    assert (site.sent, site.fixed) == (plain.sent, plain.fixed)
    assert site.constant == plain.constant
    assert site.fingerprint == plain.fingerprint
    assert not set(site.copies) & set(site.shared)
    assert set(site.copies) <= set(site.local) and not plain.copies
    assert federation_fingerprint([plain]) == federation_fingerprint(
        [contract(build_model(stage.model, 0), replace(stage, norm_domain="site"))]
    )


def test_a_batch_goes_through_the_norms_of_its_domain() -> None:
    model = build_model(plan.Model("resnet_tiny"), 0)
    alone = {}
    for number, vendor in enumerate(VENDORS):
        alone[vendor] = copy.deepcopy(model)
        for module in alone[vendor].modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean += number + 1.0
    split_norms(model, VENDORS)
    for key, source in copied_names(model).items():
        vendor = key.removesuffix(source.rpartition(".")[2]).split(".")[-2]
        model.state_dict()[key].copy_(alone[vendor].state_dict()[source])
    images = torch.rand(3, 1, 32, 16)
    for vendor in VENDORS:
        switch_of(model).domain = vendor
        found = model.eval()(images)
        assert torch.equal(found, alone[vendor].eval()(images))


def test_a_batch_of_nobody_knows_which_domain_is_refused() -> None:
    model = build_model(plan.Model("resnet_tiny"), 0)
    split_norms(model, VENDORS)
    with pytest.raises(RuntimeError, match="before its domain"):
        model(torch.rand(2, 1, 32, 16))


def test_the_norm_mode_reaches_every_copy() -> None:
    model = build_model(plan.Model("resnet_tiny"), 0)
    split_norms(model, VENDORS)
    model.train()
    set_norm_mode(model, "frozen")
    copies = [n for m in model.modules() if isinstance(m, DomainNorm) for n in m]
    assert len(copies) > 2
    assert not any(
        norm.training
        for module in model.modules()
        if isinstance(module, DomainNorm)
        for norm in module.values()
    )


class TwoNames(nn.Module):
    """One norm under two names, and another one in the head."""

    head_prefix = "head."

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.BatchNorm2d(2)
        self.second = self.first
        self.head = nn.Sequential(nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 1))


def test_a_layer_with_two_names_stays_one_and_the_heads_norm_stays() -> None:
    model = TwoNames()
    split_norms(model, VENDORS)
    assert isinstance(model.first, DomainNorm) and model.first is model.second
    assert list(model.first) == ["ge", "hologic"]
    assert isinstance(model.head[0], nn.BatchNorm2d)
    assert "head.0.weight" in model.state_dict()


@pytest.mark.parametrize("sharing", [*PRESETS, "slsl", "ssll"])
def test_norms_by_vendor_need_both_parts_local(sharing: str) -> None:
    local = sharing in ("fedbn", "fedbn_head", "local")
    if local:
        assert small_stage(sharing=sharing, norm_domain="vendor").norm_domain
        return
    with pytest.raises(ValueError, match=f"sharing={sharing} averages some"):
        small_stage(sharing=sharing, norm_domain="vendor")


def test_the_plan_of_a_message_is_checked_too() -> None:
    good = plan_to_json(small_plan(small_stage(norm_domain="vendor")))
    assert plan_from_json(good).stages[0].norm_domain == "vendor"
    with pytest.raises(PlanError, match="such as fedbn_head"):
        plan_from_json(good.replace(b'"fedbn_head"', b'"silobn"'))


def test_there_is_no_way_back_to_one_norm() -> None:
    stages = small_stage("one"), small_stage("two", norm_domain="vendor")
    assert small_plan(*stages).rounds == 6
    with pytest.raises(ValueError, match="stage one has norm_domain=site after stage"):
        small_plan(*reversed(stages))


def test_a_model_without_norms_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def bare(spec: plan.Model, seed: int) -> nn.Module:
        model = build_model(spec, seed)
        for name, module in list(model.named_modules()):
            if isinstance(module, NORM_TYPES):
                model.set_submodule(name, nn.Identity())
        return model

    monkeypatch.setattr("common.models.check.build_model", bare)
    stage = small_stage(norm_domain="vendor", trainable=("trunk", "head"))
    with pytest.raises(PlanError, match="resnet_tiny has no norm layers"):
        check_models(small_plan(stage))
    check_models(small_plan(replace(stage, norm_domain="site")))


def test_the_words_say_that_each_vendor_has_norms_of_its_own() -> None:
    said = "BatchNorm of its own for each vendor"
    assert said in "\n".join(
        describe_plan(small_plan(small_stage(norm_domain="vendor")))
    )
    assert said not in "\n".join(describe_plan(small_plan()))


@pytest.mark.parametrize("before", ["fedbn_head", "fedavg"])
def test_every_vendor_starts_from_the_sites_one_norm(before: str) -> None:
    """Local ones carry on, 2; shared ones start from the value received last, 1."""
    stage = small_stage("new", norm_domain="vendor")
    model = build_model(stage.model, 0)
    old = contract(model, small_stage("old", sharing=before))
    split_norms(model, VENDORS)
    new = contract(model, stage)
    initial = {spec.key: torch.tensor(0.0) for spec in new.layout}
    shared = {key: torch.tensor(1.0) for key in old.shared}
    local = {key: torch.tensor(2.0) for key in old.local}
    found = next_local(local, shared, initial, old, new)
    assert set(found) == set(new.local)
    for key, source in new.copies.items():
        assert float(found[key]) == (1.0 if source in old.shared else 2.0)
    assert {float(v) for v in next_shared(shared, initial, old, new).values()} == {1.0}
    kept = {key: torch.tensor(3.0) for key in new.local}
    again = next_local(kept, shared, initial, new, replace(new, stage=stage))
    assert {float(again[key]) for key in new.copies} == {3.0}
