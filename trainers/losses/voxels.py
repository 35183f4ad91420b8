"""What voxel-wise losses share: checked inputs, probabilities, the terms of cross-entropy, hard regions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Voxels:
    """Predictions and truth in one form, whatever form the target had.

    Attributes:
        logits: (B, K, Z, Y, X), float32 or float64.
        target: (B, K, Z, Y, X), 0 or 1.
        known: (B, 1, Z, Y, X), 1 where a voxel counts, else 0.
        exclusive: Whether channels are classes of one softmax instead of sigmoids.
    """

    logits: Tensor
    target: Tensor
    known: Tensor
    exclusive: bool

    def probabilities(self) -> Tensor:
        """(B, K, Z, Y, X)."""
        return self.logits.softmax(1) if self.exclusive else self.logits.sigmoid()

    def cross_entropy(self) -> Tensor:
        """(B, K, Z, Y, X): -y log p of each class; for sigmoids -(1 - y) log(1 - p) besides.

        From logits, not from log(p), which is infinite where a probability rounds to 0.
        """
        if self.exclusive:
            return -(self.logits.log_softmax(1) * self.target)
        return F.binary_cross_entropy_with_logits(self.logits, self.target, reduction="none")

    def hard(self, threshold: float) -> Tensor:
        """(B, K, Z, Y, X): 1 where |y - p| > threshold, else 0; 1 everywhere for threshold 0.

        A choice of voxels and no part of the loss: it has no gradient.
        """
        if threshold == 0:  # the whole image [He2020], also where p has rounded to y
            return torch.ones_like(self.target)
        error = (self.target - self.probabilities().detach()).abs()
        return (error > threshold).to(self.target.dtype)

    def entries(self) -> Tensor:
        """(B, K, Z, Y, X): 1 where cross-entropy has a term, else 0.

        Softmax: the true class of each voxel that counts. Sigmoids: every channel of it.
        """
        return self.target * self.known if self.exclusive else self.known.expand_as(self.target)


class VoxelLoss(nn.Module, ABC):
    """A loss of what is predicted at each voxel: checks its inputs and brings them into one form.

    Attributes:
        exclusive: True takes softmax over the channels; false, or a single channel, takes sigmoids.
    """

    def __init__(self, *, exclusive: bool) -> None:
        super().__init__()
        self.exclusive = exclusive

    def forward(self, logits: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        """Scalar loss.

        Args:
            logits: (B, K, Z, Y, X).
            target: (B, 1, Z, Y, X) integer class indices, or (B, K, Z, Y, X) floats 0 and 1.
            mask: (B, 1, Z, Y, X), 0 where nothing is known; None if all is known.

        Raises:
            ValueError: the inputs do not fit together, see `comparable`.
        """
        return self.value(comparable(logits, target, mask, exclusive=self.exclusive))

    @abstractmethod
    def value(self, voxels: Voxels) -> Tensor:
        """Scalar loss of checked predictions and truth."""


class HardRegionLoss(VoxelLoss):
    """A loss that looks only where a prediction is more than a threshold off.

    Attributes:
        threshold: T, in [0, 1): no |y - p| exceeds 1, so beyond it the loss would be nothing.
        exclusive: See `VoxelLoss`.

    Raises:
        ValueError: a threshold outside [0, 1).
    """

    def __init__(self, threshold: float, *, exclusive: bool) -> None:
        if not 0 <= threshold < 1:
            raise ValueError(f"the threshold must be at least 0 and below 1, it is {threshold}.")
        super().__init__(exclusive=exclusive)
        self.threshold = threshold


def comparable(logits: Tensor, target: Tensor, mask: Tensor | None, *, exclusive: bool) -> Voxels:
    """Check what a loss is given and bring it into one form.

    Args:
        logits: (B, K, Z, Y, X); anything below single precision is computed with in float32.
        target: Either (B, 1, Z, Y, X) integers, the index 0..K-1 of the one channel that is 1, or
            with a single channel its own value 0 or 1; or (B, K, Z, Y, X) floating point, 0 or 1.
            What stands where the mask is 0 does not matter.
        mask: (B, 1, Z, Y, X), 0 where nothing is known; None if all is known.
        exclusive: Softmax over the channels; a single channel is a sigmoid all the same.

    Raises:
        ValueError: a shape, type or value other than these; exclusive classes of which a voxel
            that counts has none or several.
    """
    if logits.dim() != 5:
        raise ValueError(f"logits must be (B, K, Z, Y, X), their shape is {tuple(logits.shape)}.")
    one = (logits.shape[0], 1, *logits.shape[2:])
    logits = logits if logits.dtype == torch.float64 else logits.float()
    if mask is not None and mask.shape != one:
        raise ValueError(f"the mask must have the shape {one}, it has {tuple(mask.shape)}.")
    known = torch.ones(one, dtype=torch.bool, device=logits.device) if mask is None else mask != 0
    exclusive = exclusive and logits.shape[1] > 1
    if target.is_floating_point() and target.shape == logits.shape:
        encoded = _checked(target.to(logits.dtype), known, exclusive)
    elif _holds_integers(target) and target.shape == one:
        encoded = _from_indices(target.long(), known, logits)
    else:
        raise ValueError(
            f"a target is either integer class indices of shape {one} or floating-point 0 and 1 of "
            f"shape {tuple(logits.shape)}; this one is {target.dtype} of {tuple(target.shape)}."
        )
    return Voxels(logits, encoded, known.to(logits.dtype), exclusive)


def _holds_integers(target: Tensor) -> bool:
    return not (target.is_floating_point() or target.is_complex() or target.dtype == torch.bool)


def _any(wrong: Tensor) -> bool:
    """Whether anything is; where memory is counted without values there is nothing to look at."""
    return not wrong.is_meta and bool(wrong.any())


def _checked(target: Tensor, known: Tensor, exclusive: bool) -> Tensor:
    if _any(known & (target != 0) & (target != 1)):
        raise ValueError("a floating-point target must hold nothing but 0 and 1.")
    target = target.masked_fill(~known, 0)
    if exclusive and _any(known & (target.sum(1, keepdim=True) != 1)):
        raise ValueError(
            "a target of exclusive classes must be 1 in exactly one channel of every voxel that "
            "counts; mask voxels of unknown class, and pass exclusive=False for regions."
        )
    return target


def _from_indices(index: Tensor, known: Tensor, logits: Tensor) -> Tensor:
    channels = logits.shape[1]
    last = max(channels - 1, 1)  # a single channel is binary
    if _any(known & ((index < 0) | (index > last))):
        raise ValueError(
            f"class indices must be 0 to {last} for {channels} channel(s) of logits; "
            "pass a mask that is 0 where the class is not known."
        )
    index = index.masked_fill(~known, 0)
    if channels == 1:
        return index.to(logits.dtype)
    return torch.zeros_like(logits).scatter_(1, index, 1).masked_fill(~known, 0)
