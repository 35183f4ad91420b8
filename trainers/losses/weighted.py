"""Cross-entropy in which classes, and single voxels, weigh differently.

Sources:
    [Yang2020] G. Yang et al., Weakly-supervised convolutional neural networks of renal tumor
    segmentation in abdominal CTA images, BMC Medical Imaging 20, 37, 2020: Eq. 7 and 8.
"""

from __future__ import annotations

import torch
from torch import Tensor

from renalplan.trainers.losses.batch_sums import batch_sum
from renalplan.trainers.losses.voxels import VoxelLoss, Voxels, comparable


class VoxelWeightedCrossEntropy(VoxelLoss):
    """VWCE [Yang2020, Eq. 8]: -1/M sum_m v_m sum_c w_c y_mc log p_mc over the M voxels that count.

    Without voxel weights v this is the weighted cross-entropy of Eq. 7. M is a number of voxels, not
    the sum of their weights, as in the paper; it calls M "the number of samples", and a mean over voxels
    does not grow with the patch.

    Attributes:
        foreground: w of every class but the background.
        background: w of the background.
        largest: Voxel weights are divided by this; K + 1 makes the largest of Eq. 5 one.
        exclusive: True takes softmax over the channels, the first being the background. False, or
            a single channel, takes sigmoids: `foreground` weighs -y log p, `background`
            -(1 - y) log(1 - p), and M counts voxels times channels.

    Raises:
        ValueError: a weight below 0, `largest` not above 0.
    """

    def __init__(
        self,
        *,
        foreground: float = 1.0,
        background: float = 0.2,
        largest: float = 1.0,
        exclusive: bool = True,
    ) -> None:
        if min(foreground, background) < 0 or largest <= 0:
            raise ValueError(
                "class weights must not be below 0 and the largest voxel weight must be above 0; "
                f"they are {foreground}, {background} and {largest}."
            )
        super().__init__(exclusive=exclusive)
        self.foreground = foreground
        self.background = background
        self.largest = largest

    def forward(
        self,
        logits: Tensor,
        target: Tensor,
        mask: Tensor | None = None,
        voxel_weights: Tensor | None = None,
    ) -> Tensor:
        """Scalar loss.

        Args:
            logits: (B, K, Z, Y, X).
            target: (B, 1, Z, Y, X) integer class indices, or (B, K, Z, Y, X) floats 0 and 1.
            mask: (B, 1, Z, Y, X), 0 where nothing is known; None if all is known.
            voxel_weights: v, (B, 1, Z, Y, X), not below 0; where it is 0 there is no voxel (beyond
                the image), so that it does not count in M either. None weighs all alike.

        Raises:
            ValueError: the inputs do not fit together, see `voxels.comparable`.
        """
        voxels = comparable(logits, target, mask, exclusive=self.exclusive)
        if voxel_weights is None:
            return self.value(voxels)
        weights = checked_weights(voxel_weights, voxels)
        known = voxels.known * (weights > 0).to(weights)
        return self._mean(voxels, known, weights / self.largest)

    def value(self, voxels: Voxels) -> Tensor:
        """See `VoxelLoss.value`: Eq. 7."""
        return self._mean(voxels, voxels.known, torch.ones_like(voxels.known))

    def _mean(self, voxels: Voxels, known: Tensor, weights: Tensor) -> Tensor:
        if voxels.exclusive:
            classes = torch.full_like(voxels.target[:1, :, :1, :1, :1], self.foreground)
            classes[:, 0] = self.background
            terms, counted = classes * voxels.cross_entropy(), known
        else:
            target = voxels.target
            classes = target * self.foreground + (1 - target) * self.background
            terms, counted = classes * voxels.cross_entropy(), known.expand_as(target)
        total = batch_sum((terms * known * weights).sum())
        return total / batch_sum(counted.sum()).clamp_min(1)


def checked_weights(voxel_weights: Tensor, voxels: Voxels) -> Tensor:
    """Voxel weights in the logits' type.

    Raises:
        ValueError: another shape than (B, 1, Z, Y, X), or a value below 0.
    """
    if voxel_weights.shape != voxels.known.shape:
        raise ValueError(
            f"voxel weights must have the shape {tuple(voxels.known.shape)}, they have "
            f"{tuple(voxel_weights.shape)}."
        )
    if (voxel_weights < 0).any():
        raise ValueError("voxel weights must not be below 0.")
    return voxel_weights.to(voxels.known)
