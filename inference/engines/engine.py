"""One network, ready to run on patches of one size: whichever library computes it."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor


class Engine(ABC):
    """Calls a network without gradients.

    Attributes:
        device: Where inputs must lie and outputs do.
    """

    device: torch.device

    @abstractmethod
    def __call__(self, patches: Tensor) -> Tensor:
        """(B, C, *patch) float32 -> (B, heads, *patch) float32 logits, both on `device`."""
