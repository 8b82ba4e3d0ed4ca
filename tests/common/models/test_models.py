"""Models are built from their description and the seed, and from nothing else."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
import torchvision

from common import plan
from common.contract import tensor_hash
from common.models import CLASSIFIERS, MODELS, MammographyModel, build_model


@cache
def model_of(name: str) -> MammographyModel:
    return build_model(plan.Model(name=name), seed=0)


def content(model: MammographyModel, prefix: str = "") -> str:
    state = model.state_dict()
    return tensor_hash(state, [key for key in state if key.startswith(prefix)])


@pytest.mark.parametrize("name", MODELS)
def test_maps_grey_images_to_logits(name: str) -> None:
    model = model_of(name).eval()
    with torch.inference_mode():
        assert model(torch.rand(2, 1, 64, 64)).shape == (2, 1)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_backbone_keeps_the_names_of_torchvision(name: str) -> None:
    """Against torchvision's own model; a pretrained file fits by name."""
    with torch.device("meta"):
        theirs = torchvision.models.get_model(name, weights=None).state_dict()
    ours = model_of(name).backbone.state_dict()
    assert set(theirs) - set(ours) == {
        f"{CLASSIFIERS[name]}.weight",
        f"{CLASSIFIERS[name]}.bias",
    }
    assert set(ours) <= set(theirs)


@pytest.mark.parametrize("name", ["resnet_tiny", "resnet18"])
def test_same_seed_same_weights_and_another_seed_others(name: str) -> None:
    spec = plan.Model(name=name)
    torch.manual_seed(1)
    first = build_model(spec, 7)
    torch.rand(3)
    assert content(build_model(spec, 7)) == content(first)
    other = build_model(spec, 8)
    assert content(other, "backbone.") != content(first, "backbone.")
    assert content(other, "heads.") != content(first, "heads.")


def test_global_random_state_is_untouched() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    build_model(plan.Model(name="resnet_tiny"), 7)
    assert torch.equal(torch.get_rng_state(), before)


def test_default_device_is_ignored() -> None:
    with torch.device("meta"):
        model = build_model(plan.Model(name="resnet_tiny"), 7)
    assert {p.device.type for p in model.parameters()} == {"cpu"}


def test_another_head_leaves_the_backbone_and_differs_itself() -> None:
    spec = plan.Model(name="resnet_tiny")
    first, second = (build_model(replace(spec, head=h), 7) for h in ("a", "b"))
    assert second.head_prefix == "heads.b."
    assert content(first, "backbone.") == content(second, "backbone.")
    kernels = [m.state_dict()[f"{m.head_prefix}weight"] for m in (first, second)]
    assert not torch.equal(*kernels)


def test_a_head_starts_alike_on_another_backbone_of_equal_width() -> None:
    small = build_model(plan.Model(name="resnet_small", widths=(16,), blocks=(1,)), 7)
    tiny = build_model(plan.Model(name="resnet_tiny", widths=(16,), blocks=(2,)), 7)
    assert content(small, "heads.") == content(tiny, "heads.")


@pytest.mark.parametrize("name", ["resnet18", "densenet121"])
def test_one_channel_equals_three_channels_of_the_same_grey(name: str) -> None:
    grey = model_of(name).eval()
    colour = build_model(plan.Model(name=name, channels=3), seed=0).eval()
    images = torch.rand(2, 1, 64, 64)
    with torch.inference_mode():
        expected = colour(images.expand(-1, 3, -1, -1))
        torch.testing.assert_close(grey(images), expected, rtol=1e-3, atol=1e-4)


def test_unknown_name_and_misplaced_widths_are_refused() -> None:
    with pytest.raises(ValueError, match="'vgg' is unknown; use one of resnet_small"):
        build_model(plan.Model(name="vgg"), 0)
    with pytest.raises(ValueError, match="resnet18 has a fixed shape"):
        build_model(plan.Model(name="resnet18", widths=(16,)), 0)
