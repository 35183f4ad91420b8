"""Classes by prototypes: each voxel belongs to the class whose mean feature vector it resembles most.

Sources:
    [CPNet] Cycle Prototype Network, section 2.1: masked average pooling M, cosine classification CS.
    [PANet] K. Wang et al., PANet, ICCV 2019, equations 1 to 3: their formulas and the scale 20.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from renalplan.networks.fdfe import FDFE

SCALE = 20.0  # [PANet] found it to work best; [CPNet] gives none
SMALLEST_MASS = 1e-5  # added to a mask's size, so that an empty one gives a zero vector


def masked_average_pooling(features: Tensor, masks: Tensor) -> Tensor:
    """Prototypes: the mean feature vector of each class [PANet, Eq. 1].

    t_c = sum_x y_c(x) f(x) / (sum_x y_c(x) + 1e-5), the sums running over one volume. Weights
    between 0 and 1 are allowed. Where features are coarser than masks, each feature voxel weighs
    as much as its share of the mask.

    Args:
        features: (B, F, Z, Y, X).
        masks: (B, C, Z * s, Y * s, X * s) for a whole number s, not negative.

    Returns:
        (B, C, F) float32; a zero vector where a mask is empty.

    Raises:
        ValueError: shapes that do not fit together.
    """
    strides = {m / n for m, n in zip(masks.shape[2:], features.shape[2:], strict=True)}
    if masks.shape[0] != features.shape[0] or len(strides) > 1 or not min(strides).is_integer():
        raise ValueError(
            f"masks of shape {tuple(masks.shape)} do not fit features of {tuple(features.shape)}."
        )
    stride = int(strides.pop())
    weights = F.avg_pool3d(masks.float(), stride) if stride > 1 else masks.float()
    with in_single_precision(features):  # sums over a volume overflow halves
        sums = torch.einsum("bfzyx,bczyx->bcf", features.float(), weights)
    return sums / (weights.sum(dim=(2, 3, 4))[..., None] + SMALLEST_MASS)


def cosine_classify(features: Tensor, prototypes: Tensor, scale: float = SCALE) -> Tensor:
    """Logits whose softmax is the class probability: scale * cos(f(x), t_c) [PANet, Eq. 2].

    Args:
        features: (B, F, Z, Y, X).
        prototypes: (C, F), the same for the whole batch, or (B, C, F).
        scale: Sharpness of the softmax.

    Returns:
        (B, C, Z, Y, X) float32 within -scale … scale.
    """
    if prototypes.dim() == 2:
        prototypes = prototypes.expand(features.shape[0], -1, -1)
    return _compare(features, F.normalize(prototypes.float(), dim=2), scale)


class PrototypeNetwork(nn.Module):
    """A feature extractor with the prototypes it classifies by: what CPNet predicts with.

    Several draws of support images gave several sets of prototypes; their logits are averaged, which
    is one comparison with the mean of the unit vectors.

    Attributes:
        extractor: Image -> feature vectors.
        prototypes: (draws, C, F), background first.

    Args:
        in_channels: Input channels.
        classes: C, background included.
        draws: How many sets of prototypes.
        widths: See `FDFE`.
        features: See `FDFE`.
        decoding: See `FDFE`.
        scale: See `cosine_classify`.
    """

    prototypes: Tensor

    def __init__(
        self,
        in_channels: int,
        classes: int,
        *,
        draws: int = 1,
        widths: Sequence[int] = (16, 32, 64, 128),
        features: int = 32,
        decoding: bool = True,
        scale: float = SCALE,
    ) -> None:
        super().__init__()
        self.extractor = FDFE(in_channels, widths, features, decoding=decoding)
        self.scale = scale
        self.register_buffer("prototypes", torch.zeros(draws, classes, self.extractor.features))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, C, Z, Y, X) of images (B, in_channels, Z, Y, X)."""
        directions = F.normalize(self.prototypes.float(), dim=2).mean(0)
        logits = _compare(self.extractor(x), directions.expand(len(x), -1, -1), self.scale)
        return enlarge(logits, x.shape[2:])


def in_single_precision(values: Tensor) -> AbstractContextManager[object]:
    """Leave autocast; there is none on `meta`, where memory is counted."""
    if values.is_meta:
        return nullcontext()
    return torch.autocast(values.device.type, enabled=False)


def _compare(features: Tensor, directions: Tensor, scale: float) -> Tensor:
    """scale * f/|f| . d for features (B, F, Z, Y, X) and directions (B, C, F), in float32."""
    with in_single_precision(features):
        return scale * torch.einsum(
            "bfzyx,bcf->bczyx", F.normalize(features.float(), dim=1), directions
        )


def enlarge(logits: Tensor, size: Sequence[int]) -> Tensor:
    """Logits on the image's grid, where features are coarser: trilinear, as [PANet] in 2-D."""
    if logits.shape[2:] == torch.Size(size):
        return logits
    return F.interpolate(logits, size=tuple(size), mode="trilinear", align_corners=False)
