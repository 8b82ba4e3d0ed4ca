"""Models: a backbone that gives features, and a named linear head on top.

The names of tensors follow from that: ``backbone.<torchvision's own name>`` and
``heads.<head>.weight``, ``heads.<head>.bias``. Which of them travel is decided in
`common.sharing`, never here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torchvision
from torch import Tensor, nn

from common import plan
from common.models.resnet_small import DEFAULTS, SmallResNet
from common.seeds import derive_seed

# Where torchvision keeps the last linear layer, which our head replaces.
CLASSIFIERS = {
    "resnet18": "fc",
    "resnet50": "fc",
    "densenet121": "classifier",
    "efficientnet_b0": "classifier.1",
    "convnext_tiny": "classifier.2",
    "swin_v2_t": "head",
}
MODELS = (*DEFAULTS, *CLASSIFIERS)


class MammographyModel(nn.Module):
    """A backbone and one named head.

    Attributes
    ----------
    spec : the plan's description, with the head's name
    backbone : images to features, shape (batch, features)
    heads : one linear layer under ``spec.head``
    """

    def __init__(self, spec: plan.Model, backbone: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.spec = spec
        self.backbone = backbone
        self.heads = nn.ModuleDict({spec.head: head})

    @property
    def head_prefix(self) -> str:
        """Start of the names of the head's tensors, with the trailing dot."""
        return f"heads.{self.spec.head}."

    def features(self, images: Tensor) -> Tensor:
        """Compute features of scaled images.

        Parameters
        ----------
        images : float, shape (batch, channels, rows, columns), already
            ``(x - spec.mean) / spec.scale``

        Returns
        -------
        float, shape (batch, features)
        """
        features: Tensor = self.backbone(images)
        return features

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits, shape (batch, ``spec.outputs``); input as in `features`."""
        return self.classify(self.features(images))

    def classify(self, features: Tensor) -> Tensor:
        """Compute logits, shape (batch, ``spec.outputs``), of `features`."""
        logits: Tensor = self.heads[self.spec.head](features)
        return logits

    @property
    def feature_count(self) -> int:
        """Width of `features`."""
        head = self.heads[self.spec.head]
        assert isinstance(head, nn.Linear)
        return head.in_features


def build_model(spec: plan.Model, seed: int) -> MammographyModel:
    """Build a model on the CPU with random weights that depend on the arguments only.

    Backbone and head draw from seeds of their own, so a head of the same name and
    size starts alike at every site, whatever was built before. The global random
    state is neither read nor changed.

    A one-channel torchvision model computes what the three-channel one would on the
    same grey image in all channels: its first kernel is the sum over the channels.

    Parameters
    ----------
    spec : ``spec.name`` is one of `MODELS`
    seed : of the plan

    Raises
    ------
    ValueError
        If the name is unknown, or its widths or blocks are not possible.
    """
    if spec.name not in MODELS:
        known = ", ".join(MODELS)
        raise ValueError(f"model.name {spec.name!r} is unknown; use one of {known}")
    if spec.name not in DEFAULTS and (spec.widths or spec.blocks):
        raise ValueError(
            f"model.widths and model.blocks belong to {', '.join(DEFAULTS)}; "
            f"{spec.name} has a fixed shape, leave them empty"
        )
    with _seeded(derive_seed(seed, "backbone", spec.name)):
        backbone, features = _build_backbone(spec)
    with _seeded(derive_seed(seed, "head", spec.head)):
        head = nn.Linear(features, spec.outputs)
    return MammographyModel(spec, backbone, head)


def sum_over_channels(kernel: Tensor) -> Tensor:
    """Turn the first kernel of an RGB model into that of a grey one.

    Parameters
    ----------
    kernel : float, shape (filters, 3, rows, columns)

    Returns
    -------
    float, shape (filters, 1, rows, columns)
    """
    return kernel.detach().sum(dim=1, keepdim=True)


def first_convolution(backbone: nn.Module) -> tuple[str, nn.Conv2d]:
    """Find the convolution that sees the image, with its name in the backbone."""
    for name, module in backbone.named_modules():
        if isinstance(module, nn.Conv2d):
            return name, module
    raise ValueError("The backbone has no convolution, so it has no first one")


def _build_backbone(spec: plan.Model) -> tuple[nn.Module, int]:
    if spec.name in DEFAULTS:
        widths, blocks = DEFAULTS[spec.name]
        small = SmallResNet(spec.widths or widths, spec.blocks or blocks, spec.channels)
        return small, small.feature_count
    backbone: nn.Module = torchvision.models.get_model(spec.name, weights=None)
    classifier = backbone.get_submodule(CLASSIFIERS[spec.name])
    assert isinstance(classifier, nn.Linear)
    backbone.set_submodule(CLASSIFIERS[spec.name], nn.Identity())
    if spec.channels == 1:
        _, stem = first_convolution(backbone)
        stem.in_channels = 1
        stem.weight = nn.Parameter(sum_over_channels(stem.weight))
    return backbone, classifier.in_features


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Draw on the CPU from ``seed``; the random state outside stays as it was."""
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)
        yield
