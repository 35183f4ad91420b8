"""SC-UNet: a 3-D U-Net that also draws the outlines of what it segments.

Tensors are (B, C, Z, Y, X), with the spatial axes in the plan's order.

Sources:
    [BiSC] BiSC-UNet, section 2.1 and figure 2: three groups down, two shared groups up, a third
        group up for the labels and one more for each outline. Widths, norm and upsampling are not
        given there; widths 16 to 128, group norm over four channels and trilinear upsampling are
        those of the same group's DenseBiasNet code.
    [Cicek2016] 3D U-Net, MICCAI, section 2: what [BiSC] calls "same as 3D-Unet".
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from renalplan.networks.blocks import CHANNELS_PER_GROUP, ConvGroupNorm, initialise, pool, upsample
from renalplan.networks.convolution import Conv3d
from renalplan.networks.divisor import require_multiples

EDGE_CLASSES = 2  # background, edge


class SCUNet(nn.Module):
    """One encoder, and full-resolution branches for the labels and for every edge [BiSC, fig. 2].

    Attributes:
        encoder: The groups that end in a max-pooling, full resolution first.
        bottom: The group below the last pooling.
        decoder: The two shared upsampling groups, from the bottom upwards.
        branches: The third upsampling group with its head: first of the labels, then of each edge.

    Args:
        in_channels: Input channels C.
        num_classes: Output channels of the labels' branch, one a class or region, at least 1.
        edges: Branches that learn an edge; None is `num_classes - 1`, an edge for each class but
            background. With label regions there is no background: say how many.
        widths: Channels at full, 1/2, 1/4 and 1/8 resolution, multiples of 4.

    Raises:
        ValueError: an argument is out of range, or `widths` has not four entries.
    """

    divisor = (8, 8, 8)  # what each spatial axis of the input must be divisible by

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        edges: int | None = None,
        widths: Sequence[int] = (16, 32, 64, 128),
    ) -> None:
        super().__init__()
        edges = num_classes - 1 if edges is None else edges
        _check(in_channels, num_classes, edges, widths)
        full, half, quarter, eighth = widths
        self.encoder = nn.ModuleList(
            [_group(in_channels, full), _group(full, half), _group(half, quarter)]
        )
        self.bottom = _group(quarter, eighth)
        self.decoder = nn.ModuleList(
            [_group(eighth + quarter, quarter), _group(quarter + half, half)]
        )
        self.branches = nn.ModuleList(
            nn.Sequential(_group(half + full, full), Conv3d(full, outputs, 1))
            for outputs in (num_classes, *[EDGE_CLASSES] * edges)
        )
        self.apply(initialise)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Logits (B, num_classes, Z, Y, X); while training a list that begins with them.

        The rest of the list are the logits (B, 2, Z, Y, X) of background and edge, an entry for
        each edge. In evaluation mode the branches of the edges are not computed.

        Args:
            x: (B, in_channels, Z, Y, X), each spatial axis a multiple of 8.

        Raises:
            ValueError: an axis is not a multiple of 8.
        """
        require_multiples(x.shape[2:], self.divisor, "the input of SCUNet")
        skips = []
        for group in self.encoder:
            x = group(x)
            skips.append(x)
            x = pool(x)
        x = self.bottom(x)
        for group in self.decoder:
            x = group(_joined(x, skips.pop()))
        # Upsampling has no weights, so every branch would compute this very tensor from its own
        # skip; each weighs the skip in its own first convolution.
        x = _joined(x, skips.pop())
        if not self.training:
            labels: Tensor = self.branches[0](x)
            return labels
        return [branch(x) for branch in self.branches]


def _group(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(ConvGroupNorm(inputs, outputs), ConvGroupNorm(outputs, outputs))


def _joined(x: Tensor, skip: Tensor) -> Tensor:
    """Twice the size of `x`, then the channels of `skip`."""
    return torch.cat((upsample(x), skip), dim=1)


def _check(in_channels: int, num_classes: int, edges: int, widths: Sequence[int]) -> None:
    for name, value, least in (
        ("in_channels", in_channels, 1),
        ("num_classes", num_classes, 1),
        ("edges", edges, 0),
    ):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, it is {value}")
    if len(widths) != 4:
        raise ValueError(f"SCUNet has 4 resolutions, widths are {list(widths)}")
    if any(width < 1 or width % CHANNELS_PER_GROUP for width in widths):
        raise ValueError(
            f"widths must be multiples of {CHANNELS_PER_GROUP}, they are {list(widths)}"
        )
