"""DenseBiasNet: a small network in which every layer sees a few maps of every earlier layer.

Fourteen convolutions over four resolutions, down and up again. A layer reads the whole maps of the
layer before it and, of all earlier ones, maps compressed to a handful; these are its only long
connections, there is no concatenation of whole maps across the two paths. Optionally the frozen
encoder of an autoencoder adds its features to the way down. Tensors are (B, C, Z, Y, X), with the
spatial axes in the plan's order.

Sources:
    [He2020] Dense biased networks with deep priori anatomy and hard region adaptation, Medical
        Image Analysis 63: Eq. 1 and Fig. 4-5 the network, Sec. 2.1.3 the prior features.
    [Code] github.com/YutingHe-list/DenseBiasNet-pytorch: the widths, which the paper leaves out,
        and groups of four channels. With them and two classes the network has 1.422, 1.527 and
        1.739 million parameters for 1, 2 and 4 bias maps, 8-9 % above the paper's Table 3
        (1.301, 1.405, 1.612), which neither its text nor its code reproduces.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from math import floor
from typing import Self

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from renalplan.networks.autoencoder import Encoder
from renalplan.networks.blocks import ConvGroupNorm, initialise, pool, upsample
from renalplan.networks.convolution import Conv3d
from renalplan.networks.divisor import require_multiples

Triple = tuple[int, int, int]
WIDTHS = (16, 16, 32, 32, 64, 64, 128, 128, 64, 64, 32, 32, 16, 16)  # of the layers [Code]
LEVELS = (0, 0, 1, 1, 2, 2, 3, 3, 2, 2, 1, 1, 0, 0)  # how often each layer's input was halved
PRIOR_LAYERS = (1, 3, 5, 7)  # the second of each stage on the way down [He2020, Sec. 2.1.3]


class Copies:
    """One layer's compressed maps, at each resolution its receivers ask for.

    A copy is made from its neighbour the first time it is asked for, shared by the receivers at
    its resolution, and forgotten as soon as no later one needs it or a copy made from it.

    Args:
        maps: (B, m, Z, Y, X), the compressed maps at the layer's own resolution.
        level: That resolution, in halvings.
        receivers: The levels of all layers that will ask, in their order.
    """

    def __init__(self, maps: Tensor, level: int, receivers: Sequence[int]) -> None:
        self._level = level
        self._made = {level: maps}
        self._waiting = list(receivers)

    def take(self) -> Tensor:
        """The copy for the next receiver; the caller holds the last reference to one now done."""
        level = self._waiting.pop(0)
        step = 1 if level > self._level else -1
        for here in range(self._nearest(level), level, step):
            self._made[here + step] = (pool if step > 0 else upsample)(self._made[here])
        taken = self._made[level]
        needed = {self._nearest(later) for later in self._waiting}
        self._made = {here: copy for here, copy in self._made.items() if here in needed}
        return taken

    def _nearest(self, level: int) -> int:
        """Of the copies made between the layer's own level and this one, the one closest to it."""
        low, high = sorted((level, self._level))
        return min((n for n in self._made if low <= n <= high), key=lambda n: abs(n - level))


class DenseBiasNet(nn.Module):
    """The dense biased network of [He2020]: F_l = H_l(F_{l-1}, Conv(F_{l-2}), ..., Conv(F_0)).

    H_l is a 3x3x3 convolution, group norm and ReLU. Conv, the compression, is one 1x1x1
    convolution a layer, shared by all later layers and brought to their resolution by repeated
    max pooling or trilinear upsampling (Eq. 1).

    To use prior features, load a trained autoencoder's encoder:
    `network.prior_encoder.load_state_dict(autoencoder.encoder.state_dict())`. It is frozen, and
    saved with the network.

    Args:
        in_channels: Input channels C.
        num_classes: Output channels K, background included.
        bias_maps: Compressed maps of each layer, m in Eq. 1: a number, or a share of the layer's
            channels like "0.1r", rounded down to at least 1.
        priors: Widths of the prior encoder's four stages; None for a network without.
        prior_channels: The prior encoder reads this many of the first input channels; None for all.
        checkpointing: For the gradients keep of each layer only its output, and compute the rest
            again: 37 % of the bytes kept (41 % with priors) for a third to half more time.

    Raises:
        ValueError: `bias_maps` is no such number or share, `priors` are not four positive multiples
            of 4, or `prior_channels` is outside 1 to `in_channels` or given without `priors`.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        bias_maps: int | str = 4,
        priors: Sequence[int] | None = None,
        *,
        prior_channels: int | None = None,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        _check(in_channels, priors, prior_channels)
        self.checkpointing = checkpointing
        self.prior_channels = prior_channels or in_channels
        compressed = [bias_map_count(bias_maps, width) for width in WIDTHS]
        extra = dict(zip(PRIOR_LAYERS, priors or (), strict=False))
        self.layers = nn.ModuleList()
        whole = in_channels
        for number, width in enumerate(WIDTHS):
            short = sum(compressed[: max(0, number - 1)])  # of the layers 0 to number - 2
            self.layers.append(ConvGroupNorm(whole + short + extra.get(number, 0), width))
            whole = width
        # One a layer, as the parameter counts above have it. Those of the last two layers are idle
        # (Eq. 1 has no layer that would read them) and never get a gradient.
        self.compress = nn.ModuleList(
            Conv3d(width, maps, 1) for width, maps in zip(WIDTHS, compressed, strict=True)
        )
        self.head = Conv3d(whole, num_classes, 1)
        self.prior_encoder: Encoder | None = None
        if priors is not None:
            self.prior_encoder = Encoder(self.prior_channels, priors).eval().requires_grad_(False)
        self.apply(initialise)

    @property
    def divisor(self) -> Triple:
        """What each spatial axis of the input must be divisible by."""
        step = 2 ** max(LEVELS)
        return step, step, step

    def train(self, mode: bool = True) -> Self:
        """As any module's, but the prior encoder stays in evaluation."""
        super().train(mode)
        if self.prior_encoder is not None:
            self.prior_encoder.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, num_classes, Z, Y, X).

        Args:
            x: (B, in_channels, Z, Y, X), each spatial axis a multiple of `divisor`; not corrupted,
                for the prior features describe the clean image.

        Raises:
            ValueError: the size is no multiple of `divisor`.
        """
        require_multiples(x.shape[2:], self.divisor, "the input of DenseBiasNet")
        features = self._prior_features(x)
        sources: list[Copies] = []
        last = len(LEVELS) - 1
        whole = x
        for number in range(len(LEVELS)):
            # in the order of Eq. 1, the nearest layer first
            parts = [whole, *(source.take() for source in reversed(sources))]
            if features and number in PRIOR_LAYERS:
                parts.append(features.pop(0))
            if 0 < number < last:  # only now: this layer reads the one before it whole
                maps = self.compress[number - 1](whole)
                sources.append(Copies(maps, LEVELS[number - 1], LEVELS[number + 1 :]))
                del maps
            del whole  # from here the list alone holds what this layer reads
            whole = self._layer(number, parts)
        logits: Tensor = self.head(whole)
        return logits

    def _prior_features(self, x: Tensor) -> list[Tensor]:
        if self.prior_encoder is None:
            return []
        with torch.no_grad():
            features: list[Tensor] = self.prior_encoder(x[:, : self.prior_channels])
        return features

    def _layer(self, number: int, parts: list[Tensor]) -> Tensor:
        """F_l of [He2020] Eq. 1; `parts` is what it reads, whole maps first, and is emptied."""
        if not (self.checkpointing and torch.is_grad_enabled()):
            return self._join_and_convolve(number, parts)
        result: Tensor = checkpoint(
            lambda *again: self._join_and_convolve(number, list(again)),
            *parts,  # one by one: the checkpoint overlooks tensors inside a list
            use_reentrant=False,
            preserve_rng_state=False,  # nothing in a layer is random
        )
        return result

    def _join_and_convolve(self, number: int, parts: list[Tensor]) -> Tensor:
        change = LEVELS[number] - LEVELS[max(0, number - 1)]
        if change:
            parts[0] = (pool if change > 0 else upsample)(parts[0])
        joined = torch.cat(parts, dim=1)
        parts.clear()  # without gradients this frees them before the convolution needs its memory
        result: Tensor = self.layers[number](joined)
        return result


def bias_map_count(value: int | str, width: int) -> int:
    """m_i of [He2020] Eq. 1 for a layer of this width."""
    if isinstance(value, str) and re.fullmatch(r"\d*\.?\d+r", value):
        share = Fraction(value[:-1])  # exact, where 0.29 * 100 rounds down to 28
        if 0 < share <= 1:
            return max(1, floor(share * width))
    elif isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    raise ValueError(
        "bias_maps must be a whole number of at least 1, or a share of the channels above 0 and "
        f"up to 1 like '0.1r', it is {value!r}"
    )


def _check(in_channels: int, priors: Sequence[int] | None, prior_channels: int | None) -> None:
    if priors is None:
        if prior_channels is not None:
            raise ValueError(f"prior_channels is {prior_channels}, but priors is None")
        return
    if len(priors) != len(PRIOR_LAYERS):
        raise ValueError(f"priors must be {len(PRIOR_LAYERS)} widths, they are {list(priors)}")
    if prior_channels is not None and not 1 <= prior_channels <= in_channels:
        raise ValueError(
            f"prior_channels must lie between 1 and the {in_channels} input channels, it is "
            f"{prior_channels}"
        )
