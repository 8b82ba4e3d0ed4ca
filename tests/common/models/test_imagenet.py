"""ImageNet weights from a local file; the download itself needs the internet."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor

from common import plan
from common.contract import tensor_hash
from common.models import MammographyModel, build_model
from common.models.imagenet import load_imagenet


def write(tmp_path: Path, state: dict[str, Tensor]) -> Path:
    save_file(state, tmp_path / "weights.safetensors")
    return tmp_path / "weights.safetensors"


def content(model: MammographyModel) -> str:
    return tensor_hash(model.state_dict(), model.state_dict())


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "efficientnet_b0"])
def test_features_equal_those_of_torchvision(name: str, tmp_path: Path) -> None:
    torch.manual_seed(3)
    theirs = torchvision.models.get_model(name, weights=None).eval()
    model = build_model(plan.Model(name=name), 0).eval()
    head = {key: tensor.clone() for key, tensor in model.heads.state_dict().items()}
    load_imagenet(model, write(tmp_path, theirs.state_dict()))
    classifier = "classifier.1" if name == "efficientnet_b0" else None
    theirs.set_submodule(
        classifier or ("fc" if name == "resnet18" else "classifier"),
        torch.nn.Identity(),
    )
    images = torch.rand(2, 1, 64, 64)
    with torch.inference_mode():
        expected = theirs(images.expand(-1, 3, -1, -1))
        torch.testing.assert_close(
            model.features(images), expected, rtol=1e-3, atol=1e-4
        )
    assert all(torch.equal(head[k], t) for k, t in model.heads.state_dict().items())


def test_names_and_counters_of_old_files_are_understood(tmp_path: Path) -> None:
    theirs = torchvision.models.densenet121(weights=None).state_dict()
    old = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))([12]\.)", r"\1.\2", key): tensor
        for key, tensor in theirs.items()
        if not key.endswith("num_batches_tracked")
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    model = build_model(plan.Model(name="densenet121", channels=3), 0)
    load_imagenet(model, write(tmp_path, old))
    ours = model.backbone.state_dict()
    assert all(torch.equal(tensor, theirs[key]) for key, tensor in ours.items())


def test_file_of_another_model_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    model = build_model(plan.Model(name="resnet18"), 0)
    before = content(model)
    file = write(tmp_path, {"conv1.weight": torch.ones(64, 3, 7, 7)})
    with pytest.raises(ValueError, match=r"bn1\.weight: missing"):
        load_imagenet(model, file)
    assert content(model) == before


def test_pickle_is_refused(tmp_path: Path) -> None:
    model = build_model(plan.Model(name="resnet18"), 0)
    with pytest.raises(ValueError, match=r"expected \.safetensors"):
        load_imagenet(model, tmp_path / "resnet18.pth")


def test_small_models_have_no_imagenet_weights() -> None:
    model = build_model(plan.Model(name="resnet_tiny"), 0)
    with pytest.raises(ValueError, match="no ImageNet weights for resnet_tiny"):
        load_imagenet(model)
