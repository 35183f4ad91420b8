"""Cycle prototype learning: support labels segment a query, whose prediction segments the supports.

Sources:
    [CPNet] Cycle Prototype Network, section 2.1, figure 2a and equation 1.
    [PANet] K. Wang et al., PANet, ICCV 2019, section 3.4: prototype alignment, the reverse pass with
        hard labels.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from renalplan.geometry import Shape
from renalplan.labels import LabelScheme
from renalplan.networks.prototypes import SCALE, cosine_classify, enlarge, masked_average_pooling
from renalplan.trainers.losses import CrossEntropy, TargetEncoder, VoxelLoss
from renalplan.trainers.losses.batch_sums import summed_by

SMALLEST_SHARE = 1e-3  # of the query: a class predicted on less has no prototype worth the name
NEVER = -1e4  # a logit whose softmax is 0, finite so that 0 times its logarithm is 0
Reverse = Literal["soft", "hard"]


class CycleLoss(nn.Module):
    """theta * L_query + L_support of an episode [CPNet, Eq. 1].

    Forward: the supports' labels pool a prototype for each structure, and one of background, which
    is the mean over the supports of what lies around their foreground; the query is classified by
    cosine similarity and compared with its (pseudo) labels. Reverse: the query's prediction pools
    prototypes of its own, by which the supports are classified and compared with their labels.
    Both comparisons are voxel-wise cross-entropy, as in the paper, or another voxel-wise loss.

    Attributes:
        scheme: What the labels mean; K structures, so K + 1 classes.
        margin: How far around foreground background is pooled, voxels along each axis.
        theta: Weight of the query's loss.
        reverse: `soft` pools with the query's probabilities, which lets gradients pass [CPNet];
            `hard` with its decisions [PANet].
        compare: The loss of both.
        scale: See `cosine_classify`.
    """

    def __init__(
        self,
        scheme: LabelScheme,
        margin: Shape,
        *,
        theta: float = 1.0,
        reverse: Reverse = "soft",
        loss: VoxelLoss | None = None,
        scale: float = SCALE,
    ) -> None:
        super().__init__()
        self.encoder = TargetEncoder(scheme)
        self.compare = loss or CrossEntropy()
        self.margin = margin
        self.theta = theta
        self.reverse = reverse
        self.scale = scale

    def forward(self, extractor: nn.Module, episode: dict[str, Tensor]) -> Tensor:
        """Scalar loss of an episode, see `EpisodeSource.batch`."""
        supports = len(episode["support_image"])
        features = extractor(torch.cat([episode["support_image"], episode["image"]]))
        support_features, query_features = features[:supports], features[supports:]
        target, _ = self.encoder(episode["support_labels"])
        prototypes = self.prototypes(support_features, target)
        logits = self._classify(query_features, prototypes, episode["image"])
        query_loss = self.compare(logits, *self.encoder(episode["labels"]))
        reverse_losses = [
            self._reverse(features_of, logits_of, support_features, target)
            for features_of, logits_of in zip(query_features, logits, strict=True)
        ]
        total: Tensor = self.theta * query_loss + torch.stack(reverse_losses).mean()
        return total

    def predict(self, extractor: nn.Module, episode: dict[str, Tensor]) -> Tensor:
        """Logits (B, K + 1, *patch) of the queries: the forward process alone."""
        target, _ = self.encoder(episode["support_labels"])
        prototypes = self.prototypes(extractor(episode["support_image"]), target)
        return self._classify(extractor(episode["image"]), prototypes, episode["image"])

    def prototypes(self, features: Tensor, target: Tensor) -> Tensor:
        """Prototypes (K + 1, F), background first.

        Args:
            features: (K, F, ...) of the supports; the k-th one gives the k-th structure's.
            target: (K, K + 1, *patch), one-hot; 0 in all classes where the label is not known.
        """
        masks = self._pooled_from(target, target[:, 1:].amax(1, keepdim=True))
        pooled = masked_average_pooling(features, masks)
        own = torch.arange(len(features), device=features.device)
        return torch.cat([pooled[:, 0].mean(0, keepdim=True), pooled[own, own + 1]])

    def _reverse(
        self,
        features: Tensor,
        logits: Tensor,
        support_features: Tensor,
        target: Tensor,
    ) -> Tensor:
        """L_support: the supports by the prototypes of one query (F, ...), (K + 1, *patch)."""
        probabilities = logits.softmax(0)[None]
        decided = F.one_hot(logits.argmax(0), len(logits)).movedim(-1, 0)[None].to(logits.dtype)
        masks = decided if self.reverse == "hard" else probabilities
        present = masks.mean(dim=(0, 2, 3, 4)) >= SMALLEST_SHARE
        foreground = decided[:, 1:].amax(1, keepdim=True)
        pooled = masked_average_pooling(features[None], self._pooled_from(masks, foreground))
        classified = self._classify(support_features, pooled[0], target)
        classified = classified.masked_fill(~present.view(1, -1, 1, 1, 1), NEVER)
        # what has no prototype in the query cannot be found again: its voxels are left out, as are
        # those whose label is not known
        counted = (target * present.view(1, -1, 1, 1, 1)).sum(1, keepdim=True)
        with summed_by(None):  # all the supports are here, whatever part of the queries is
            loss: Tensor = self.compare(classified, target, counted)
        return loss

    def _pooled_from(self, masks: Tensor, foreground: Tensor) -> Tensor:
        """Class masks whose background is only what lies around foreground, if there is any.

        Far from the kidneys there is fat, bone and air, whose mean resembles nothing.
        """
        around = foreground
        for axis, reach in enumerate(self.margin):
            size, padding = [1, 1, 1], [0, 0, 0]
            size[axis], padding[axis] = 2 * reach + 1, reach
            around = F.max_pool3d(around, tuple(size), stride=1, padding=tuple(padding))
        there = foreground.amax(dim=(2, 3, 4), keepdim=True)
        around = around * there + (1 - there)
        return torch.cat([masks[:, :1] * around, masks[:, 1:]], dim=1)

    def _classify(self, features: Tensor, prototypes: Tensor, like: Tensor) -> Tensor:
        return enlarge(cosine_classify(features, prototypes, self.scale), like.shape[2:])
