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
    [He2015] Delving deep into rectifiers: initial weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from renalplan.networks.divisor import require_multiples

Triple = tuple[int, int, int]
CHANNELS_PER_GROUP = 4  # of every group norm, as in the code [He2020] released


class ConvGroupNorm(nn.Sequential):
    """Convolution 3x3x3, group norm over groups of four channels, ReLU: the H_l of [He2020] Eq. 1.

    (B, inputs, Z, Y, X) -> (B, outputs, Z, Y, X).

    Raises:
        ValueError: `outputs` is no positive multiple of 4.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        if outputs < CHANNELS_PER_GROUP or outputs % CHANNELS_PER_GROUP:
            raise ValueError(
                f"a width must be a positive multiple of {CHANNELS_PER_GROUP}, the channels of a "
                f"group, it is {outputs}"
            )
        super().__init__(
            nn.Conv3d(inputs, outputs, 3, padding=1),
            nn.GroupNorm(outputs // CHANNELS_PER_GROUP, outputs),
            nn.ReLU(inplace=True),  # the norm keeps its input for the gradient, not its output
        )


def pool(x: Tensor) -> Tensor:
    """Half the size by the maximum: (B, C, Z, Y, X) -> (B, C, Z/2, Y/2, X/2)."""
    return F.max_pool3d(x, 2)


def upsample(x: Tensor) -> Tensor:
    """Twice the size, trilinear, corners on corners: (B, C, Z, Y, X) -> (B, C, 2Z, 2Y, 2X)."""
    return F.interpolate(x, scale_factor=2.0, mode="trilinear", align_corners=True)


def initialise(module: nn.Module) -> None:
    """He's normal weights and zero biases, for `nn.Module.apply`.

    [He2020] is silent, and its framework's default was Glorot's. He's fits what follows here, a
    ReLU; the group norm in between makes the outputs independent of the weights' scale, so that
    the choice sets little more than how far a first step turns them.
    """
    if isinstance(module, nn.Conv3d):
        # 1x1x1 convolutions have no ReLU behind them. With a gain of 1 their outputs have the mean
        # square of their inputs, so compressed maps enter a layer as strong as whole ones.
        linear = module.kernel_size == (1, 1, 1)
        nn.init.kaiming_normal_(module.weight, nonlinearity="linear" if linear else "relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)


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
        self.output = nn.Conv3d(widths[0], in_channels, 1)
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
