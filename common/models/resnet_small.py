"""A small residual network: the CPU form of every experiment.

Convolution, BatchNorm and residual blocks as in He et al. 2016 (arXiv 1512.03385),
narrower, and with a 5x5 stem. At 128 x 64 pixels it trains about ten times as fast as
resnet18. The stem reads every pixel and pools by maximum, so that a calcification of
one pixel survives the reduction by four.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

# name: (widths, blocks) of the stages
DEFAULTS: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "resnet_small": ((16, 32, 64, 128), (1, 1, 1, 1)),
    "resnet_tiny": ((16, 32, 32), (1, 1, 1)),
}
MINIMUM_WIDTH = 16


class SmallResNet(nn.Module):
    """Stem, stages of BasicBlocks, and the mean over what is left of the image.

    The stem reduces rows and columns by 4, every stage after the first by 2.

    Parameters
    ----------
    widths : channels of each stage
    blocks : BasicBlocks of each stage, same length
    channels : of the image

    Raises
    ------
    ValueError
        If the first stage has fewer than 16 channels, or the lengths differ.
    """

    def __init__(
        self, widths: Sequence[int], blocks: Sequence[int], channels: int
    ) -> None:
        super().__init__()
        _check_shape(widths, blocks)
        self.stem = nn.Sequential(
            nn.Conv2d(channels, widths[0], 5, stride=2, padding=2, bias=False),
            nn.BatchNorm2d(widths[0]),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        inputs = (widths[0], *widths[:-1])
        self.stages = nn.Sequential(
            *(
                _stage(before, width, count, stride=1 if index == 0 else 2)
                for index, (before, width, count) in enumerate(
                    zip(inputs, widths, blocks, strict=True)
                )
            )
        )
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.feature_count = widths[-1]
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def forward(self, images: Tensor) -> Tensor:
        """Map images (batch, channels, rows, columns) to (batch, widths[-1])."""
        features: Tensor = self.pool(self.stages(self.stem(images)))
        return features


def _stage(before: int, width: int, count: int, stride: int) -> nn.Sequential:
    shortcut = None
    if stride != 1 or before != width:
        shortcut = nn.Sequential(
            nn.Conv2d(before, width, 1, stride=stride, bias=False),
            nn.BatchNorm2d(width),
        )
    first = BasicBlock(before, width, stride, shortcut)
    return nn.Sequential(first, *(BasicBlock(width, width) for _ in range(count - 1)))


def _check_shape(widths: Sequence[int], blocks: Sequence[int]) -> None:
    if not widths or len(widths) != len(blocks):
        raise ValueError(
            f"model.widths has {len(widths)} stages and model.blocks {len(blocks)}; "
            "give one number of each per stage"
        )
    if widths[0] < MINIMUM_WIDTH:
        raise ValueError(
            f"model.widths starts with {widths[0]} channels; torch on CPU was seen to "
            f"corrupt the heap below {MINIMUM_WIDTH} in channels-last. "
            f"Use {MINIMUM_WIDTH} or more"
        )
