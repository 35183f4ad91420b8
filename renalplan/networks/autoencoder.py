"""The denoising autoencoder whose encoder gives DenseBiasNet its prior anatomy features.

Stage 1 of the deep priori anatomy strategy: without any label, the autoencoder learns to restore
images from which voxels were dropped. Its encoder, frozen, then describes the anatomy at four
resolutions to the segmentation network (`renalplan.networks.densebiasnet`). Tensors are
(B, C, Z, Y, X), with the spatial axes in the plan's order.

Sources:
    [He2020] Dense biased networks with deep priori anatomy and hard region adaptation, Medical
        Image Analysis 63, Sec. 2.1.2 and Fig. 3. It gives neither widths, dropout rate, layers a
        stage nor skip connections: those here are ours.
    [Vincent2010] Stacked denoising autoencoders, JMLR 11: restoring the clean image from a
        corrupted one.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from renalplan.networks.blocks import ConvGroupNorm, initialise, pool, upsample
from renalplan.networks.convolution import Conv3d
from renalplan.networks.divisor import require_multiples

Triple = tuple[int, int, int]


class Encoder(nn.Module):
    """The plain analysis path: two convolutions a stage, max pooling between stages.

    Args:
        in_channels: Input channels C.
        widths: Channels of each stage, full resolution first, each a multiple of 4.

    Raises:
        ValueError: `widths` is empty, or one is no positive multiple of 4.
    """

    def __init__(self, in_channels: int, widths: Sequence[int] = (16, 32, 64, 128)) -> None:
        super().__init__()
        if not widths:
            raise ValueError("an encoder needs at least one stage, widths are empty")
        self.stages = nn.ModuleList(
            nn.Sequential(ConvGroupNorm(a, b), ConvGroupNorm(b, b))
            for a, b in pairwise((in_channels, *widths))
        )
        self.apply(initialise)

    def forward(self, x: Tensor) -> list[Tensor]:
        """The features F_f1, F_f2, ... of [He2020] Sec. 2.1.3: every stage's output, not pooled.

        Args:
            x: (B, in_channels, Z, Y, X).

        Returns:
            For stage s, counted from 0, (B, widths[s], Z/2^s, Y/2^s, X/2^s), rounded down.
        """
        features: list[Tensor] = []
        for stage in self.stages:
            x = stage(pool(x) if features else x)
            features.append(x)
        return features


class Autoencoder(nn.Module):
    """Restores an image from which voxels were dropped ([He2020] Sec. 2.1.2, [Vincent2010]).

    The decoder mirrors the encoder without skip connections, past which nothing would have to be
    learnt: the image itself would pass.

    Args:
        in_channels: Channels C of the image, restored all.
        widths: Channels of each stage, full resolution first, each a multiple of 4.
        dropout: Share of the input's values set to 0 while training; the others are scaled by
            1 / (1 - dropout), so 0 should be a meaningful value of the image, such as its lowest.

    Raises:
        ValueError: the widths are not as above, or `dropout` lies outside 0 to 1.
    """

    def __init__(
        self,
        in_channels: int,
        widths: Sequence[int] = (16, 32, 64, 128),
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.encoder = Encoder(in_channels, widths)
        # from the code upwards
        self.decoder = nn.ModuleList(
            nn.Sequential(ConvGroupNorm(a, b), ConvGroupNorm(b, b))
            for a, b in pairwise(reversed(widths))
        )
        self.output = Conv3d(widths[0], in_channels, 1)
        self.apply(initialise)

    @property
    def divisor(self) -> Triple:
        """What each spatial axis of the input must be divisible by."""
        step = 2 ** len(self.decoder)
        return step, step, step

    def forward(self, x: Tensor) -> Tensor:
        """The restored image, of the input's shape and unbounded; compare it with the clean input.

        Args:
            x: (B, in_channels, Z, Y, X), each spatial axis a multiple of `divisor`.

        Raises:
            ValueError: the size is no multiple of `divisor`.
        """
        require_multiples(x.shape[2:], self.divisor, "the input of Autoencoder")
        x = self.encoder(self.dropout(x))[-1]
        for stage in self.decoder:
            x = stage(upsample(x))
        result: Tensor = self.output(x)
        return result
