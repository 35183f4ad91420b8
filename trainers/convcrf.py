"""A convolutional conditional random field in 3-D: masks that follow the image's edges.

Sources:
    [Yang2020] G. Yang et al., Weakly-supervised convolutional neural networks of renal tumor
    segmentation in abdominal CTA images, BMC Medical Imaging 20, 37, 2020: Eq. 1 to 3.
    [Teichmann2018] M. Teichmann, R. Cipolla, Convolutional CRFs for semantic segmentation,
    arXiv:1805.04777: message passing, the kernels' normalisation, the weight of the unary term.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from renalplan.geometry import Spacing

Offset = tuple[int, int, int]
LEAST_PROBABILITY = 1e-6  # of a class before any message; its logarithm is finite


class ConvCRF3d(nn.Module):
    """Mean field of a CRF whose pairs lie within a Manhattan distance [Yang2020, Eq. 1 to 3].

    Energy: sum_i U(y_i) + sum_{i != j, |i - j|_1 <= D} mu(y_i, y_j) sum_k w_k g_k(i, j), with U the
    negative logarithm of the probabilities given, mu = 1 where labels differ (Potts), and kernels
    (Eq. 3, without its misprints; p a voxel's place in mm, I its intensities)

        appearance  exp(-|p_i - p_j|^2 / (2 a^2) - |I_i - I_j|^2 / (2 b^2))
        smoothness  exp(-|p_i - p_j|^2 / (2 c^2))

    each normalised symmetrically: g_ij / sqrt(n_i n_j) with n_i = sum_j g_ij. Every iteration
    computes Q = softmax((1 - m) log P + m G Q) [Teichmann2018], with G = sum_k w_k g_k, P the
    given probabilities and Q = P at first. Voxels beyond the border do not exist.

    The neighbourhood's offsets are gone through one at a time, two pairs for each, and no kernel is
    kept: beside input and output it holds some ten volumes, not one for each of the up to 342 neighbours.

    Attributes:
        appearance_mm: a.
        intensity: b, in the image's units.
        smoothness_mm: c.
        appearance_weight: w of the appearance kernel.
        smoothness_weight: w of the smoothness kernel.
        reach: D, voxels.
        window: Neighbours lie in a cube of so many voxels an edge besides; odd.
        message_weight: m, in [0, 1]; 0 gives the probabilities back.
        iterations: Of the mean field.
        blur: Messages are computed on voxels averaged by this factor and interpolated back
            [Teichmann2018], which reaches as much farther; 1 does not blur.

    Raises:
        ValueError: a width that is not above 0, an even window, a count below what makes sense.
    """

    def __init__(
        self,
        *,
        appearance_mm: float = 8.0,
        intensity: float = 0.05,
        smoothness_mm: float = 2.0,
        appearance_weight: float = 10.0,
        smoothness_weight: float = 3.0,
        reach: int = 5,
        window: int = 7,
        message_weight: float = 0.2,
        iterations: int = 5,
        blur: int = 1,
    ) -> None:
        super().__init__()
        if min(appearance_mm, intensity, smoothness_mm) <= 0:
            raise ValueError("appearance_mm, intensity and smoothness_mm must be above 0.")
        if window < 1 or window % 2 == 0:
            raise ValueError(f"window must be odd, it is {window}.")
        if reach < 0 or iterations < 0 or blur < 1 or not 0 <= message_weight <= 1:
            raise ValueError(
                "reach and iterations must be at least 0, blur at least 1 and message_weight "
                "between 0 and 1."
            )
        self.appearance_mm = appearance_mm
        self.intensity = intensity
        self.smoothness_mm = smoothness_mm
        self.appearance_weight = appearance_weight
        self.smoothness_weight = smoothness_weight
        self.reach = reach
        self.window = window
        self.message_weight = message_weight
        self.iterations = iterations
        self.blur = blur

    @torch.no_grad()
    def forward(
        self, probabilities: Tensor, image: Tensor, spacing: Spacing = (1.0, 1.0, 1.0)
    ) -> Tensor:
        """Probabilities after the last iteration.

        Args:
            probabilities: (B, K, Z, Y, X), of each class before any message; they sum to 1.
            image: (B, C, Z, Y, X) on the same device, by convention in [0, 1].
            spacing: mm along the last three axes.

        Returns:
            (B, K, Z, Y, X) float32 on the same device.

        Raises:
            ValueError: the two do not have the same batch and grid.
        """
        if probabilities.dim() != 5 or image.dim() != 5:
            raise ValueError("probabilities and image must be (B, channels, Z, Y, X).")
        if (probabilities.shape[0], *probabilities.shape[2:]) != (image.shape[0], *image.shape[2:]):
            raise ValueError(
                f"probabilities of {tuple(probabilities.shape)} and an image of "
                f"{tuple(image.shape)} do not lie on one grid."
            )
        unary = probabilities.float().clamp_min(LEAST_PROBABILITY).log()
        image = _averaged(image.float(), self.blur)
        z, y, x = (s * self.blur for s in spacing)
        pairs = _Pairs(self, image, (z, y, x))
        current = unary.softmax(1)
        for _ in range(self.iterations):
            message = _spread(pairs.message(_averaged(current, self.blur)), self.blur, unary)
            current = torch.softmax(
                (1 - self.message_weight) * unary + self.message_weight * message, 1
            )
        return current

    def offsets(self) -> Iterator[Offset]:
        """One of each pair of opposite neighbours within reach and window."""
        half = self.window // 2
        for z, y, x in product(range(-half, half + 1), repeat=3):
            if (z, y, x) > (0, 0, 0) and abs(z) + abs(y) + abs(x) <= self.reach:
                yield z, y, x


class _Pairs:
    """The merged kernel of one image, computed anew for each offset."""

    def __init__(self, crf: ConvCRF3d, image: Tensor, spacing: Spacing) -> None:
        self.crf, self.image, self.spacing = crf, image, spacing
        size = image.shape[2:]
        self.offsets = [
            offset
            for offset in crf.offsets()
            if all(abs(step) < n for step, n in zip(offset, size, strict=True))
        ]
        self.scales = self._scales()

    def _scales(self) -> tuple[Tensor, Tensor]:
        """1 / sqrt(n_i) of both kernels, (B, 1, Z, Y, X); 0 where a voxel has no neighbour."""
        sums = [torch.zeros_like(self.image[:, :1]) for _ in range(2)]
        for offset in self.offsets:
            here, there = _overlap(offset)
            for total, kernel in zip(sums, self._kernels(offset, here, there), strict=True):
                total[here] += kernel
                total[there] += kernel
        first, second = (torch.where(n > 0, n.clamp_min(1e-12).rsqrt(), 0) for n in sums)
        return first, second

    def _kernels(self, offset: Offset, here: Slices, there: Slices) -> tuple[Tensor, Tensor]:
        """Both kernels between every voxel and its neighbour at this offset."""
        crf = self.crf
        squared = sum((step * s) ** 2 for step, s in zip(offset, self.spacing, strict=True))
        difference = self.image[here] - self.image[there]
        exponent = difference.square().sum(1, keepdim=True)
        exponent.mul_(-0.5 / crf.intensity**2).sub_(0.5 * squared / crf.appearance_mm**2)
        smooth = torch.tensor(-0.5 * squared / crf.smoothness_mm**2).exp().to(exponent)
        return exponent.exp_(), smooth

    def message(self, current: Tensor) -> Tensor:
        """sum_j G_ij Q_j of (B, K, Z, Y, X)."""
        crf = self.crf
        appearance, smoothness = self.scales
        total = torch.zeros_like(current)
        for offset in self.offsets:
            here, there = _overlap(offset)
            similar, near = self._kernels(offset, here, there)
            merged = crf.appearance_weight * similar * appearance[here] * appearance[there]
            merged += crf.smoothness_weight * near * smoothness[here] * smoothness[there]
            total[here] += merged * current[there]
            total[there] += merged * current[here]
        return total


Slices = tuple[slice, ...]


def _overlap(offset: Offset) -> tuple[Slices, Slices]:
    """Voxels that have a neighbour at this offset, and these neighbours."""
    whole = (slice(None), slice(None))
    here = tuple(slice(max(0, -step), -step if step > 0 else None) for step in offset)
    there = tuple(slice(max(0, step), step if step < 0 else None) for step in offset)
    return (*whole, *here), (*whole, *there)


def _averaged(volume: Tensor, factor: int) -> Tensor:
    """Means over cubes of voxels; cubes cut by the border hold fewer."""
    if factor == 1:
        return volume
    z, y, x = (-size % factor for size in volume.shape[2:])
    sums, counts = (
        F.avg_pool3d(F.pad(v, (0, x, 0, y, 0, z)), factor)
        for v in (volume, torch.ones_like(volume[:1, :1]))
    )
    return sums / counts


def _spread(volume: Tensor, factor: int, like: Tensor) -> Tensor:
    """The way back, trilinear, cut to another tensor's size."""
    if factor == 1:
        return volume
    spread = F.interpolate(volume, scale_factor=factor, mode="trilinear", align_corners=False)
    z, y, x = like.shape[2:]
    return spread[..., :z, :y, :x]
