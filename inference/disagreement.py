"""How far several networks contradict each other, voxel by voxel.

Sources:
    [Lakshminarayanan2017] Simple and scalable predictive uncertainty estimation using deep
        ensembles, NeurIPS. [Depeweg2018] Decomposition of uncertainty, ICML: the entropy of the mean
        is the mean entropy (noise in the image) plus the mutual information (what the networks do not
        agree about); the latter is given here, in bits.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from renalplan.entropy import entropy


def disagreement(logits: Sequence[Tensor], *, exclusive: bool) -> Tensor:
    """The mutual information of class and network, in bits: 0 where all say the same.

    Args:
        logits: One tensor (B, heads, Z, Y, X) a network.
        exclusive: Softmax over the heads; else a sigmoid each, and the mean over heads.

    Returns:
        (B, 1, Z, Y, X), never negative.
    """
    each = [part.softmax(1) if exclusive else part.sigmoid() for part in logits]
    mean = torch.stack(each).mean(0)
    inner = torch.stack([entropy(part, exclusive=exclusive, heads=1) for part in each]).mean(0)
    return (entropy(mean, exclusive=exclusive, heads=1) - inner).clamp_min(0)
