"""FDFE: the fine decoding feature extractor of CPNet, a 3-D U-Net that ends in features.

Tensors are (B, C, Z, Y, X), with the spatial axes in the plan's order.

Sources:
    [CPNet] Cycle Prototype Network, section 2.3 and figure 2c: blocks of two 3x3x3 convolutions, each
        followed by a group norm, 2x2x2 pooling, skip connections between blocks of one size. Widths,
        depth and upsampling are not given; they are those of the same group's other networks.
    [PANet] K. Wang et al., PANet: few-shot image semantic segmentation with prototype alignment,
        ICCV 2019: an encoder alone, whose last layer has no ReLU, so that features point anywhere.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from renalplan.networks.autoencoder import Encoder
from renalplan.networks.blocks import ConvGroupNorm, initialise, pool, upsample
from renalplan.networks.divisor import require_multiples

Triple = tuple[int, int, int]


class FDFE(nn.Module):
    """An image -> a feature vector a voxel, to be compared with the prototypes of classes.

    Attributes:
        features: Length F of a feature vector.
        stride: Image voxels that a feature voxel spans along each axis; 1 with the decoder.

    Args:
        in_channels: Input channels C.
        widths: Channels at full, 1/2, 1/4 … resolution, each a multiple of 4.
        features: F with the decoder, a multiple of 4: the width of its last block.
        decoding: False leaves out the decoder and its skip connections, as [PANet] does: features
            are then those of the coarsest resolution, F is its width.

    Raises:
        ValueError: an argument is out of range, or there are fewer than two widths.
    """

    def __init__(
        self,
        in_channels: int,
        widths: Sequence[int] = (16, 32, 64, 128),
        features: int = 32,
        *,
        decoding: bool = True,
    ) -> None:
        super().__init__()
        if in_channels < 1:
            raise ValueError(f"in_channels must be at least 1, it is {in_channels}")
        if len(widths) < 2:
            raise ValueError(f"FDFE needs two resolutions or more, widths are {list(widths)}")
        *finer, coarsest = widths
        self.encoder = Encoder(in_channels, finer)
        self.bottom = _block(finer[-1], coarsest, last=not decoding)
        self.decoder = nn.ModuleList()
        self.features = coarsest
        self.stride = 2 ** len(finer)
        if decoding:
            upwards = [*reversed(finer[1:]), features]
            self.decoder.extend(
                _block(below + skip, width, last=place == len(finer) - 1)
                for place, (below, skip, width) in enumerate(
                    zip([coarsest, *upwards[:-1]], reversed(finer), upwards, strict=True)
                )
            )
            self.features, self.stride = features, 1
        self.divisor: Triple = (2 ** len(finer),) * 3
        self.apply(initialise)

    def forward(self, x: Tensor) -> Tensor:
        """Feature vectors (B, F, Z/stride, Y/stride, X/stride), of either sign.

        Args:
            x: (B, in_channels, Z, Y, X), each spatial axis a multiple of `divisor`.

        Raises:
            ValueError: the size is no multiple of `divisor`.
        """
        require_multiples(x.shape[2:], self.divisor, "the input of FDFE")
        skips = self.encoder(x)
        result: Tensor = self.bottom(pool(skips[-1]))
        for block in self.decoder:
            result = block(torch.cat((upsample(result), skips.pop()), dim=1))
        return result


def _block(inputs: int, outputs: int, *, last: bool) -> nn.Sequential:
    """Two convolutions with group norm; the network's last one has no ReLU [PANet].

    Cosines then reach from -1 to 1 instead of from 0 to 1.
    """
    convolution, norm, relu = ConvGroupNorm(outputs, outputs)
    ending = (convolution, norm) if last else (convolution, norm, relu)
    return nn.Sequential(ConvGroupNorm(inputs, outputs), nn.Sequential(*ending))
