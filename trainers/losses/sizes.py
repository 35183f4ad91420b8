"""Cross-entropy where labels are certain, and bounds on a structure's size where they are not.

Sources:
    [Kervadec2019] H. Kervadec et al., Constrained-CNN losses for weakly supervised segmentation,
    Medical Image Analysis 54, 2019: partial cross-entropy plus a quadratic penalty on sizes outside
    bounds.
"""

from __future__ import annotations

from torch import Tensor, nn

from renalplan.trainers.losses.batch_sums import batch_sum
from renalplan.trainers.losses.voxels import comparable

CERTAIN, UNCERTAIN = 1, 2  # values of the voxel map; 0 is beyond the image


class SizeConstrainedCrossEntropy(nn.Module):
    """Partial cross-entropy + lambda (size outside [low V, high V])^2 / |Omega| [Kervadec2019].

    For two exclusive classes. S, a sample's predicted size, is the sum of its foreground probabilities;
    V is the size of the foreground in its target; |Omega| its number of voxels. The mean over
    samples counts. The cross-entropy is the mean over certain voxels of the batch.

    Attributes:
        low: Sizes below low * V are penalised.
        high: And sizes above high * V.
        penalty: lambda.

    Raises:
        ValueError: not 0 <= low <= high, or a penalty below 0.
    """

    def __init__(self, low: float = 0.9, high: float = 1.1, penalty: float = 0.01) -> None:
        if not 0 <= low <= high or penalty < 0:
            raise ValueError(
                f"size bounds need 0 <= low <= high and a penalty of at least 0; they are {low}, "
                f"{high} and {penalty}."
            )
        super().__init__()
        self.low, self.high, self.penalty = low, high, penalty

    def forward(
        self, logits: Tensor, target: Tensor, mask: Tensor | None, voxel_map: Tensor
    ) -> Tensor:
        """Scalar loss.

        Args:
            logits: (B, 2, Z, Y, X).
            target: (B, 2, Z, Y, X) 0 and 1, or (B, 1, Z, Y, X) class indices: of a size that is about right.
            mask: (B, 1, Z, Y, X), 0 where nothing counts; None if all does.
            voxel_map: (B, 1, Z, Y, X): `CERTAIN` where the target is to be believed, `UNCERTAIN`
                where only its size is, 0 where there is no voxel.

        Raises:
            ValueError: the inputs do not fit together, or there are not two classes.
        """
        voxels = comparable(logits, target, mask, exclusive=True)
        if voxels.target.shape[1] != 2 or voxel_map.shape != voxels.known.shape:
            raise ValueError(
                "sizes are of one structure: two channels and a map of (B, 1, Z, Y, X)."
            )
        certain = voxels.known * (voxel_map == CERTAIN)
        there = voxels.known * (voxel_map > 0)
        entropy = batch_sum((voxels.cross_entropy() * certain).sum())
        entropy = entropy / batch_sum(certain.sum()).clamp_min(1)
        axes = [1, 2, 3, 4]
        size = (voxels.probabilities()[:, 1:] * there).sum(axes)
        wanted = (voxels.target[:, 1:] * there).sum(axes)
        off = (self.low * wanted - size).relu() + (size - self.high * wanted).relu()
        return entropy + self.penalty * (off.square() / there.sum(axes).clamp_min(1)).mean()
