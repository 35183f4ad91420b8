"""Voxel-wise cross-entropy, the baseline that other losses are compared with."""

from __future__ import annotations

from torch import Tensor, nn

from renalplan.trainers.losses.voxels import comparable


class CrossEntropy(nn.Module):
    """Mean cross-entropy of the voxels that count; 0 if none does.

    Attributes:
        exclusive: True takes softmax over the channels and -log p of the true class; false, or a
            single channel, takes sigmoids and the mean binary cross-entropy over the channels.
    """

    def __init__(self, *, exclusive: bool = True) -> None:
        super().__init__()
        self.exclusive = exclusive

    def forward(self, logits: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        """Scalar loss.

        Args:
            logits: (B, K, Z, Y, X).
            target: (B, 1, Z, Y, X) integer class indices, or (B, K, Z, Y, X) floats 0 and 1.
            mask: (B, 1, Z, Y, X), 0 where nothing is known; None if all is known.

        Raises:
            ValueError: the inputs do not fit together, see `voxels.comparable`.
        """
        voxels = comparable(logits, target, mask, exclusive=self.exclusive)
        total = (voxels.cross_entropy() * voxels.known).sum()
        return total / voxels.entries().sum().clamp_min(1)
