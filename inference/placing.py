"""Where windows lie in a volume, what they weigh, and how they are mirrored."""

from __future__ import annotations

from functools import lru_cache
from itertools import combinations, product

import numpy as np
import torch
from torch import Tensor

from renalplan.geometry import Shape

Window = tuple[slice, slice, slice]


def window_starts(size: int, patch: int, step: float) -> list[int]:
    """Where windows begin along one axis: evenly spread, at most `step * patch` apart.

    Raises:
        ValueError: the axis is shorter than the patch or the step is not in (0, 1].
    """
    if size < patch or not 0 < step <= 1:
        raise ValueError(f"an axis of {size} voxels, a patch of {patch}, a step of {step}")
    count = int(np.ceil((size - patch) / max(1, patch * step))) + 1
    if count == 1:
        return [0]
    return [round(i * (size - patch) / (count - 1)) for i in range(count)]


def window_rows(shape: Shape, patch: Shape, step: float) -> list[tuple[int, list[Window]]]:
    """(start along the first axis, all windows that begin there), in order."""
    first, *others = (window_starts(n, p, step) for n, p in zip(shape, patch, strict=True))
    return [
        (
            start,
            [
                tuple(slice(s, s + p) for s, p in zip((start, *corner), patch, strict=True))  # type: ignore[misc]
                for corner in product(*others)
            ],
        )
        for start in first
    ]


@lru_cache(maxsize=8)
def gaussian_weights(patch: Shape) -> Tensor:
    """(patch) float32: a Gaussian of sigma patch/8, peak 1, never zero [Isensee2021]."""
    weights = torch.ones((1, 1, 1), dtype=torch.float64)
    for axis, size in enumerate(patch):
        centres = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
        line = torch.exp(-0.5 * (centres / (size / 8)) ** 2)
        weights = weights * line.reshape([-1 if a == axis else 1 for a in range(3)])
    weights = weights.float()
    # float16 accumulation elsewhere must not meet weights that round to nothing
    return weights.clamp_min(1e-4 * float(weights.max()))


def mirror_subsets(axes: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Every subset of the axes, the empty one first."""
    return [subset for n in range(len(axes) + 1) for subset in combinations(axes, n)]
