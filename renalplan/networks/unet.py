"""The U-Net of the nnU-Net family, plain or with a residual encoder, built from JSON arguments.

One class serves 3-D, anisotropic and 2-D plans: convolutions are always 3-D, and a 2-D network is
one whose first axis has kernels, strides and a patch of 1. Tensors are (B, C, Z, Y, X), with the
spatial axes in the plan's order.

Sources:
    [Isensee2021] nnU-Net, Nature Methods 18: instance norm, leaky ReLU, transposed convolutions.
    [Isensee2024] nnU-Net Revisited, MICCAI: the residual encoder.
    [He2015] Delving deep into rectifiers: initial weights. [He2019] Bag of tricks: the skip that
        pools before it projects.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from renalplan.networks.convolution import Conv3d

Axes = Sequence[int]  # one value along each of (z, y, x)
Triple = tuple[int, int, int]
SLOPE = 0.01  # of the leaky ReLU, and of the initialisation that fits it [Isensee2021]


class ConvNorm(nn.Sequential):
    """Convolution, instance norm and, unless `activate` is false, a leaky ReLU."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: Axes,
        stride: Axes = (1, 1, 1),
        *,
        bias: bool = True,
        activate: bool = True,
    ) -> None:
        size = triple(kernel)
        padding = triple([(k - 1) // 2 for k in kernel])
        layers: list[nn.Module] = [
            Conv3d(inputs, outputs, size, triple(stride), padding, bias=bias),
            nn.InstanceNorm3d(outputs, eps=1e-5, affine=True),
        ]
        if activate:
            layers.append(nn.LeakyReLU(SLOPE, inplace=True))
        super().__init__(*layers)

    @property
    def norm(self) -> nn.Module:
        """The instance norm."""
        return self[1]


class ResidualBlock(nn.Module):
    """Two convolutions around a skip that average-pools by the stride and projects to the width."""

    def __init__(self, inputs: int, outputs: int, kernel: Axes, stride: Axes) -> None:
        super().__init__()
        self.first = ConvNorm(inputs, outputs, kernel, stride)
        self.second = ConvNorm(outputs, outputs, kernel, activate=False)
        self.skip = nn.Sequential()
        if max(stride) > 1:
            self.skip.append(nn.AvgPool3d(triple(stride)))
        if inputs != outputs:
            self.skip.append(ConvNorm(inputs, outputs, (1, 1, 1), bias=False, activate=False))
        self.activation = nn.LeakyReLU(SLOPE, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, Z, Y, X) -> (B, outputs, Z/stride, Y/stride, X/stride)."""
        result: Tensor = self.activation(self.second(self.first(x)) + self.skip(x))
        return result


class UNet(nn.Module):
    """Encoder and decoder with skip connections, and logits at every decoder resolution.

    Args:
        in_channels: Input channels C.
        heads: Output channels, one a class or region.
        features: Channels of each stage, full resolution first; its length is the stage count.
        strides: For each stage the (z, y, x) strides it enters with; the first are (1, 1, 1).
        kernels: For each stage the (z, y, x) kernel, odd.
        kind: `plain` stacks convolutions in the encoder, `residual` residual blocks.
        blocks: Residual blocks of each encoder stage; only for `residual`.
        convs_per_stage: Convolutions of each decoder stage, and of each plain encoder stage.
        deep_supervision: In training, return the logits of every decoder stage.
        dims: 3, or 2 for a network that never looks along the first axis.

    Raises:
        ValueError: the lists do not fit each other, or `dims` is 2 with a first axis above 1.
    """

    def __init__(
        self,
        in_channels: int,
        heads: int,
        features: Sequence[int],
        strides: Sequence[Axes],
        kernels: Sequence[Axes],
        kind: Literal["plain", "residual"] = "plain",
        blocks: Sequence[int] | None = None,
        convs_per_stage: int = 2,
        deep_supervision: bool = True,
        dims: int = 3,
    ) -> None:
        super().__init__()
        _check(features, strides, kernels, kind, blocks, dims)
        self.deep_supervision = deep_supervision
        self.strides = tuple(triple(stride) for stride in strides)
        if kind == "residual":
            assert blocks is not None
            self.stem: nn.Module = ConvNorm(in_channels, features[0], kernels[0])
            self.encoder = _residual_encoder(features, strides, kernels, blocks)
        else:
            self.stem = nn.Identity()
            self.encoder = _plain_encoder(in_channels, features, strides, kernels, convs_per_stage)
        # from the bottleneck upwards
        self.upsamplers = nn.ModuleList()
        self.decoder = nn.ModuleList()
        self.outputs = nn.ModuleList()
        for stage in range(len(features) - 1, 0, -1):
            below, here, step = features[stage], features[stage - 1], triple(strides[stage])
            self.upsamplers.append(nn.ConvTranspose3d(below, here, step, step))
            self.decoder.append(_convolutions(2 * here, here, kernels[stage - 1], convs_per_stage))
            self.outputs.append(Conv3d(here, heads, 1))
        self.apply(initialise)

    @property
    def divisor(self) -> Triple:
        """What each spatial axis of the input must be divisible by."""
        z, y, x = 1, 1, 1
        for a, b, c in self.strides:
            z, y, x = z * a, y * b, x * c
        return z, y, x

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Logits (B, heads, Z, Y, X); while training with deep supervision a list of them.

        The list runs from full resolution downwards, one entry a decoder stage; the bottleneck has
        none.

        Args:
            x: (B, in_channels, Z, Y, X), each spatial axis a multiple of `divisor`.
        """
        skips = []
        x = self.stem(x)
        for stage in self.encoder:
            x = stage(x)
            skips.append(x)
        several = self.training and self.deep_supervision
        logits: list[Tensor] = []
        x = skips.pop()
        last = len(self.decoder) - 1
        for number, (upsample, stage, output) in enumerate(
            zip(self.upsamplers, self.decoder, self.outputs, strict=True)
        ):
            x = stage(torch.cat((upsample(x), skips.pop()), dim=1))
            if several or number == last:
                logits.append(output(x))
        return logits[::-1] if several else logits[-1]


def triple(values: Axes) -> Triple:
    """Three values, as PyTorch's layers want them."""
    z, y, x = values
    return z, y, x


def _convolutions(inputs: int, outputs: int, kernel: Axes, count: int) -> nn.Sequential:
    widths = [inputs, *[outputs] * count]
    return nn.Sequential(*(ConvNorm(a, b, kernel) for a, b in pairwise(widths)))


def _plain_encoder(
    in_channels: int,
    features: Sequence[int],
    strides: Sequence[Axes],
    kernels: Sequence[Axes],
    convs_per_stage: int,
) -> nn.ModuleList:
    stages = nn.ModuleList()
    inputs = in_channels
    for width, stride, kernel in zip(features, strides, kernels, strict=True):
        first = ConvNorm(inputs, width, kernel, stride)
        stages.append(
            nn.Sequential(first, *_convolutions(width, width, kernel, convs_per_stage - 1))
        )
        inputs = width
    return stages


def _residual_encoder(
    features: Sequence[int],
    strides: Sequence[Axes],
    kernels: Sequence[Axes],
    blocks: Sequence[int],
) -> nn.ModuleList:
    stages = nn.ModuleList()
    inputs = features[0]  # the stem's width
    for width, stride, kernel, count in zip(features, strides, kernels, blocks, strict=True):
        first = ResidualBlock(inputs, width, kernel, stride)
        rest = (ResidualBlock(width, width, kernel, (1, 1, 1)) for _ in range(count - 1))
        stages.append(nn.Sequential(first, *rest))
        inputs = width
    return stages


def initialise(module: nn.Module) -> None:
    """[He2015] for convolutions; a residual block starts as its skip alone [Isensee2024]."""
    if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
        nn.init.kaiming_normal_(module.weight, a=SLOPE)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, ResidualBlock):
        # modules are visited children first, so this comes after the norm's own reset
        for parameter in module.second.norm.parameters():
            nn.init.zeros_(parameter)


def _check(
    features: Sequence[int],
    strides: Sequence[Axes],
    kernels: Sequence[Axes],
    kind: str,
    blocks: Sequence[int] | None,
    dims: int,
) -> None:
    if kind not in ("plain", "residual"):
        raise ValueError(f"kind must be 'plain' or 'residual', it is {kind!r}")
    if len(features) < 2:
        raise ValueError(f"a U-Net needs at least 2 stages, features are {list(features)}")
    lists: dict[str, Sequence] = {"strides": strides, "kernels": kernels}
    if kind == "residual":
        lists["blocks"] = blocks or ()
    for name, values in lists.items():
        if len(values) != len(features):
            raise ValueError(f"{name} has {len(values)} entries for {len(features)} stages")
    if any(k % 2 == 0 for kernel in kernels for k in kernel):
        raise ValueError(f"kernels must be odd, they are {list(kernels)}")
    if dims == 2 and any(values[0] != 1 for values in (*strides, *kernels)):
        raise ValueError("a network of 2 dimensions needs kernels and strides of 1 on axis 0")
