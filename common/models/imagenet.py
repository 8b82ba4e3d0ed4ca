"""Start from torchvision's ImageNet weights.

Two sources. A local file is safetensors with torchvision's own names, since a pickle
from a file is never opened. Without a file, torchvision's own download is used: its
content is checked against the hash in its name, and read with ``weights_only=True``.
That is the one place in mammofed where a model start opens a connection.
"""

from __future__ import annotations

import re
from pathlib import Path

import torchvision
from safetensors.torch import load_file
from torch import Tensor

from common.models import (
    CLASSIFIERS,
    MammographyModel,
    first_convolution,
    sum_over_channels,
)
from common.sharing import load_exactly

# torchvision's DenseNet files are older than its module names: norm.1 is norm1 now.
_OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")


def load_imagenet(model: MammographyModel, file: Path | None = None) -> None:
    """Load ImageNet weights into the backbone, in place; the head stays as it is.

    For one channel the first kernel is summed over red, green and blue: the result
    is that of the three-channel model on a grey image.

    Parameters
    ----------
    model : with a torchvision backbone
    file : safetensors with torchvision's names, its classifier included or not;
        None downloads torchvision's default weights, or takes them from its cache
        (``$TORCH_HOME/hub/checkpoints``)

    Raises
    ------
    ValueError
        If there are no such weights for this model, or the file's tensors are not
        those of its backbone; the model is then unchanged.
    """
    name = model.spec.name
    if name not in CLASSIFIERS:
        raise ValueError(
            f"There are no ImageNet weights for {name}; torchvision has them for "
            f"{', '.join(CLASSIFIERS)}. Use start.kind=random or checkpoint"
        )
    theirs = _download(name) if file is None else _read(file)
    backbone = _name_as_ours(theirs, CLASSIFIERS[name])
    ours = model.backbone.state_dict()
    for key in ours:
        if key.endswith("num_batches_tracked"):  # absent from old files, and unused
            backbone.setdefault(key, ours[key].new_zeros(()))
    if model.spec.channels == 1:
        stem = first_convolution(model.backbone)[0] + ".weight"
        if stem in backbone:
            backbone[stem] = sum_over_channels(backbone[stem])
    load_exactly(model.backbone, backbone, ours.keys())


def _read(file: Path) -> dict[str, Tensor]:
    if file.suffix != ".safetensors":
        raise ValueError(
            f"The ImageNet file ends in {file.suffix!r}, expected .safetensors: other "
            "formats can run code when opened. Convert the file on a trusted machine"
        )
    tensors: dict[str, Tensor] = load_file(file)
    return tensors


def _download(name: str) -> dict[str, Tensor]:
    weights = torchvision.models.get_model_weights(name).DEFAULT
    tensors: dict[str, Tensor] = weights.get_state_dict(
        progress=False, check_hash=True, weights_only=True
    )
    return tensors


def _name_as_ours(theirs: dict[str, Tensor], classifier: str) -> dict[str, Tensor]:
    return {
        _OLD_DENSENET.sub(r"\1\2", key): tensor
        for key, tensor in theirs.items()
        if not key.startswith(classifier + ".")
    }
