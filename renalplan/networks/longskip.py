"""A 3-D fully convolutional network with one long skip, for dense patches.

Features go down to the coarsest resolution and up again; only the finest ones are handed over, from
the first block straight to the last.

Sources:
    [C2F] the coarse-to-fine system for KiTS19 of the group, section 2.1: "3D FCN with a long skip
        connection". Widths, depth and norm are not given there; they are ours.
    [Isensee2021] nnU-Net, Nature Methods 18: instance norm, leaky ReLU, transposed convolutions.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from renalplan.networks.convolution import Conv3d
from renalplan.networks.unet import Axes, ConvNorm, initialise, triple

KERNEL = (3, 3, 3)


class LongSkipFCN(nn.Module):
    """(B, in_channels, Z, Y, X) -> logits (B, heads, Z, Y, X).

    Args:
        in_channels: Input channels.
        heads: Output channels.
        features: Width of each resolution, full resolution first; two or more.
        strides: For each resolution but the first, the (z, y, x) strides it enters with.

    Raises:
        ValueError: the lists do not fit each other.
    """

    def __init__(
        self, in_channels: int, heads: int, features: Sequence[int], strides: Sequence[Axes]
    ) -> None:
        super().__init__()
        if len(features) < 2 or len(strides) != len(features) - 1:
            raise ValueError(
                f"features {list(features)} and strides {list(strides)} do not fit: two widths or "
                "more, and a stride for each but the first"
            )
        first = features[0]
        self.first = nn.Sequential(
            ConvNorm(in_channels, first, KERNEL), ConvNorm(first, first, KERNEL)
        )
        self.down = nn.ModuleList(
            nn.Sequential(ConvNorm(above, here, KERNEL, stride), ConvNorm(here, here, KERNEL))
            for (above, here), stride in zip(pairwise(features), strides, strict=True)
        )
        self.up = nn.ModuleList(
            nn.Sequential(
                nn.ConvTranspose3d(below, here, triple(stride), triple(stride)),
                ConvNorm(here, here, KERNEL),
            )
            for (here, below), stride in reversed(
                list(zip(pairwise(features), strides, strict=True))
            )
        )
        self.last = nn.Sequential(
            ConvNorm(2 * first, first, KERNEL), ConvNorm(first, first, KERNEL)
        )
        self.head = Conv3d(first, heads, 1)
        self.apply(initialise)

    def forward(self, image: Tensor) -> Tensor:
        """See the class; each spatial axis must be a multiple of the product of its strides."""
        skip = x = self.first(image)
        for block in self.down:
            x = block(x)
        for block in self.up:
            x = block(x)
        logits: Tensor = self.head(self.last(torch.cat((x, skip), dim=1)))
        return logits
