"""What the networks of one research group share: its convolutions, poolings and upsampling.

Sources:
    [He2020] Dense biased networks with deep priori anatomy and hard region adaptation, Medical
        Image Analysis 63, section 2.2: convolution, group norm, ReLU.
    [He2015] Delving deep into rectifiers: initial weights.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from renalplan.networks.convolution import Conv3d

CHANNELS_PER_GROUP = 4  # of every group norm, as in the code of [He2020]


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
            Conv3d(inputs, outputs, 3, padding=1),
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
    """Normal weights [He2015] and zero biases, for `nn.Module.apply`.

    The papers are silent; the default of [He2020]'s framework was Glorot's. He's fits what follows, a
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
