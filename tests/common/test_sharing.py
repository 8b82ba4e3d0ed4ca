"""The sharing contract over every backbone, preset and free combination."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from common import plan
from common.contract import tensor_hash
from common.models import MODELS, MammographyModel, build_model
from common.parts import PARTS, PRESETS
from common.sharing import (
    assign_parts,
    contract,
    load_exactly,
    set_trainable,
)

LETTERS = ["".join(letters) for letters in itertools.product("sl", repeat=4)]
BATCH_NORM = [name for name in MODELS if name not in ("convnext_tiny", "swin_v2_t")]


@cache
def model_of(name: str) -> MammographyModel:
    """Build each model once; tests that change one build their own."""
    return build_model(plan.Model(name=name), seed=0)


def stage_of(name: str = "resnet_tiny", **changes: object) -> plan.Stage:
    stage = plan.Stage(name="only", rounds=1, model=plan.Model(name=name))
    return replace(stage, **changes)  # type: ignore[arg-type]


def tensors_of(*modules: nn.Module) -> set[int]:
    return {
        id(tensor)
        for module in modules
        for tensor in (*module.parameters(), *module.buffers())
    }


class Trap(nn.Module):
    """Names that lie: the norms are not called so, and a convolution is."""

    head_prefix = "head."

    def __init__(self) -> None:
        super().__init__()
        self.bn_like = nn.Conv2d(1, 4, 1)
        self.norm_free = nn.BatchNorm2d(4)
        self.downsample = nn.Sequential(nn.Conv2d(4, 4, 1), nn.SyncBatchNorm(4))
        self.gn = nn.Conv2d(4, 4, 1)
        self.mixer = nn.ModuleList(
            [
                nn.GroupNorm(2, 4),
                nn.InstanceNorm2d(4, affine=True, track_running_stats=True),
                nn.LayerNorm(4),
                FrozenBatchNorm2d(4),
            ]
        )
        self.header = nn.Linear(4, 4)
        self.head = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 1))
        self.register_buffer("window", torch.ones(3))


@pytest.mark.parametrize("name", MODELS)
def test_parts_partition_the_state_dict(name: str) -> None:
    model = model_of(name)
    parts = assign_parts(model)
    assert list(parts) == list(model.state_dict())
    assert set(parts.values()) <= {*PARTS, "constant"}
    for letters in [*LETTERS, *PRESETS]:
        made = contract(model, stage_of(name, sharing=letters))
        kinds = [made.sent, made.fixed, made.local, made.constant]
        keys = [key for kind in kinds for key in kind]
        assert sorted(keys) == sorted(model.state_dict())
        assert all(list(kind) == sorted(kind) for kind in kinds)
        assert [spec.key for spec in made.layout] == sorted(keys)


@pytest.mark.parametrize("letters", LETTERS)
@pytest.mark.parametrize("name", MODELS)
def test_letters_decide_what_is_shared(name: str, letters: str) -> None:
    model = model_of(name)
    parts = assign_parts(model)
    shared = dict(zip(PARTS, letters, strict=True))
    made = contract(model, stage_of(name, sharing=letters))
    for key, tensor in model.state_dict().items():
        part = parts[key]
        expected = (
            part != "constant" and shared[part] == "s" and tensor.is_floating_point()
        )
        assert (key in made.shared) == expected, key
    assert made.fixed == ()
    assert made.federated == bool(made.sent)


@pytest.mark.parametrize(
    ("name", "sharing", "shared", "local"),
    [
        ("resnet50", "fedbn_head", 53, 267),
        ("resnet50", "ssll", 159, 161),
        ("densenet121", "fedbn_head", 120, 607),
        ("densenet121", "ssll", 362, 365),
        ("resnet18", "fedbn_head", 20, 102),
        ("resnet18", "fedavg", 102, 20),
        ("efficientnet_b0", "fedbn_head", 113, 247),
        ("resnet_small", "fedbn_head", 12, 62),
    ],
)
def test_counts_are_pinned(name: str, sharing: str, shared: int, local: int) -> None:
    made = contract(model_of(name), stage_of(name, sharing=sharing))
    assert (len(made.shared), len(made.local)) == (shared, local)


@pytest.mark.parametrize("name", MODELS)
def test_default_sends_no_norm_and_no_head(name: str) -> None:
    """Found by a walk of its own: by class name and identity, not by tensor name."""
    model = model_of(name)
    norms = [
        module
        for module in model.modules()
        if type(module).__name__ in ("BatchNorm2d", "LayerNorm", "LayerNorm2d")
    ]
    private = tensors_of(*norms, model.heads)
    state = model.state_dict(keep_vars=True)
    made = contract(model, stage_of(name))
    assert norms
    assert made.sent
    assert not private & {id(state[key]) for key in made.shared}
    assert private <= {id(state[key]) for key in made.local}


@pytest.mark.parametrize("name", MODELS)
def test_counters_are_never_shared(name: str) -> None:
    made = contract(model_of(name), stage_of(name, sharing="fedavg"))
    counters = [spec.key for spec in made.layout if spec.dtype == "int64"]
    assert not set(counters) & set(made.shared)
    assert bool(set(counters) & set(made.local)) == (name in BATCH_NORM)


def test_window_tables_of_a_swin_are_constant() -> None:
    made = contract(model_of("swin_v2_t"), stage_of("swin_v2_t"))
    assert len(made.constant) == 24
    assert all(".relative_" in key for key in made.constant)


def test_norms_are_found_by_type_whatever_their_name() -> None:
    parts = assign_parts(Trap())
    by_module = {key.rpartition(".")[0]: part for key, part in parts.items()}
    assert by_module["bn_like"] == by_module["gn"] == by_module["header"] == "trunk"
    assert by_module["downsample.0"] == "trunk"
    for norm in ("norm_free", "downsample.1", "mixer.1", "mixer.3"):
        assert parts[f"{norm}.weight"] == parts[f"{norm}.bias"] == "norm_affine"
        assert parts[f"{norm}.running_var"] == "norm_stats"
    assert parts["norm_free.num_batches_tracked"] == "norm_stats"
    assert parts["mixer.0.weight"] == parts["mixer.2.weight"] == "norm_affine"
    assert parts["window"] == "constant"


def test_norm_inside_the_head_belongs_to_the_head() -> None:
    parts = assign_parts(Trap())
    assert {part for key, part in parts.items() if key.startswith("head.")} == {"head"}
    made = contract(Trap(), stage_of(sharing="sssl"))
    assert "head.0.running_mean" in made.local


def test_parametrised_norm_is_still_a_norm() -> None:
    model = Trap()
    nn.utils.parametrizations.weight_norm(model.norm_free)
    parts = assign_parts(model)
    wrapped = [key for key in parts if key.startswith("norm_free.parametrizations.")]
    assert wrapped
    assert {parts[key] for key in wrapped} == {"norm_affine"}


def test_tied_parameter_is_assigned_under_each_name() -> None:
    model = Trap()
    model.gn = model.downsample[0]  # type: ignore[assignment]
    parts = assign_parts(model)
    assert parts["gn.weight"] == parts["downsample.0.weight"] == "trunk"


def test_model_without_declared_head_is_refused() -> None:
    with pytest.raises(ValueError, match="declares no head"):
        assign_parts(nn.Linear(1, 1))
    model = Trap()
    model.head_prefix = "heads."
    with pytest.raises(ValueError, match="starts with its head_prefix"):
        assign_parts(model)


def test_frozen_shared_tensors_are_fixed_not_sent() -> None:
    stage = stage_of(sharing="fedavg", trainable=("head",), norm_mode="frozen")
    made = contract(model_of("resnet_tiny"), stage)
    assert made.sent == made.trainable
    assert {key.split(".")[0] for key in made.sent} == {"heads"}
    assert all(key.startswith("backbone.") for key in made.fixed)


def test_statistics_are_sent_unless_frozen() -> None:
    stage = stage_of(sharing="llsl")
    made = contract(model_of("resnet_tiny"), stage)
    assert {key.rpartition(".")[2] for key in made.sent} == {
        "running_mean",
        "running_var",
    }
    frozen = contract(model_of("resnet_tiny"), replace(stage, norm_mode="frozen"))
    assert (frozen.sent, frozen.fixed) == ((), made.sent)


def test_frozen_batch_norm_layers_are_never_sent() -> None:
    made = contract(Trap(), stage_of(sharing="fedavg"))
    assert {key for key in made.fixed if key.startswith("mixer.3.")} == set(made.fixed)
    assert len(made.fixed) == 4


def test_bn_tuning_with_a_shared_trunk_is_called_local_training() -> None:
    stage = stage_of(sharing="fedbn_head", trainable=("norm_affine", "head"))
    made = contract(model_of("resnet_tiny"), stage)
    assert not made.federated
    assert any("local training" in warning for warning in made.warnings)


@pytest.mark.parametrize(
    ("sharing", "said"),
    [("fedavg", ()), ("fedbn", ("published FedBN",)), ("silobn", ("third letter",))],
)
def test_layer_norm_is_not_sold_as_fedbn(sharing: str, said: tuple[str, ...]) -> None:
    name = "convnext_tiny"
    made = contract(model_of(name), stage_of(name, sharing=sharing))
    assert len(made.warnings) == len(said)
    assert all(text in made.warnings[0] for text in said)


def test_reestimating_without_statistics_is_refused() -> None:
    stage = stage_of("convnext_tiny", trainable=(), norm_mode="reestimate")
    with pytest.raises(ValueError, match="no running statistics"):
        contract(model_of("convnext_tiny"), stage)


def test_training_a_part_without_parameters_is_refused() -> None:
    model = Trap()
    for name in ("norm_free", "downsample", "mixer"):
        delattr(model, name)
    with pytest.raises(ValueError, match="no such parameter"):
        contract(model, stage_of())


def test_only_trainable_parameters_get_gradients() -> None:
    model = build_model(plan.Model(name="resnet_tiny"), 0)
    made = contract(model, stage_of(trainable=("head",), norm_mode="frozen"))
    set_trainable(model, made.trainable)
    model(torch.rand(2, 1, 32, 32)).sum().backward()
    moved = {name for name, p in model.named_parameters() if p.grad is not None}
    assert moved == {"heads.malignancy.weight", "heads.malignancy.bias"}


def received() -> tuple[MammographyModel, dict[str, Tensor], tuple[str, ...]]:
    model = build_model(plan.Model(name="resnet_tiny"), 0)
    other = build_model(plan.Model(name="resnet_tiny"), 1).state_dict()
    keys = contract(model, stage_of()).shared
    return model, {key: other[key] for key in keys}, keys


def test_load_exactly_copies_in_place_and_nothing_else() -> None:
    model, tensors, expected = received()
    model = model.to(memory_format=torch.channels_last)
    state = model.state_dict()
    before = {key: tensor.clone() for key, tensor in state.items()}
    addresses = {key: tensor.data_ptr() for key, tensor in state.items()}
    load_exactly(model, tensors, expected)
    after = model.state_dict()
    for key in after:
        assert torch.equal(after[key], tensors.get(key, before[key])), key
        assert after[key].data_ptr() == addresses[key]
        assert after[key].stride() == before[key].stride()


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda t, k: t.pop(k), "missing"),
        (lambda t, k: t.update(surprise=torch.ones(1)), "surprise: unknown"),
        (lambda t, k: t.update({"heads.malignancy.bias": torch.ones(1)}), "not expec"),
        (lambda t, k: t.update({k: t[k][:1]}), r"float32 \(1, 16, 3, 3\), the model"),
        (lambda t, k: t.update({k: t[k].double()}), "is float64"),
    ],
    ids=["missing", "unknown", "not expected", "wrong shape", "wrong dtype"],
)
def test_load_exactly_refuses_and_leaves_the_model(
    break_it: Callable[[dict[str, Tensor], str], object], said: str
) -> None:
    model, tensors, expected = received()
    before = tensor_hash(model.state_dict(), model.state_dict())
    break_it(tensors, "backbone.stages.0.0.conv1.weight")
    with pytest.raises(ValueError, match=said):
        load_exactly(model, tensors, expected)
    assert tensor_hash(model.state_dict(), model.state_dict()) == before
