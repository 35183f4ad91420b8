"""The entropy of probabilities, in bits."""

from __future__ import annotations

from math import log

import torch
from torch import Tensor


def entropy(probabilities: Tensor, *, exclusive: bool, heads: int = 0) -> Tensor:
    """How undecided probabilities are: 0 if certain, log2 of the number of classes at most.

    Args:
        probabilities: Any shape with an axis of heads.
        exclusive: The heads' probabilities sum to one; else each is a question of its own, and the
            mean over the heads is given (at most 1 bit).
        heads: Which axis is the heads'; it stays with length 1.
    """
    if exclusive:
        bits = -torch.special.xlogy(probabilities, probabilities).sum(heads, keepdim=True)
    else:
        rest = 1 - probabilities
        both = torch.special.xlogy(probabilities, probabilities) + torch.special.xlogy(rest, rest)
        bits = -both.mean(heads, keepdim=True)
    return (bits / log(2)).clamp_min(0)
