"""A volume larger than the network: overlapping windows, Gaussian weights, optional mirroring."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import combinations, product
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from renalplan.geometry import Shape

Progress = Callable[[int, int], None]  # windows done, windows in all


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


def windows(shape: Shape, patch: Shape, step: float) -> list[tuple[slice, slice, slice]]:
    """All windows over a volume that is at least as large as the patch."""
    starts = [window_starts(n, p, step) for n, p in zip(shape, patch, strict=True)]
    return [
        tuple(slice(s, s + p) for s, p in zip(corner, patch, strict=True))  # type: ignore[misc]
        for corner in product(*starts)
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


class WindowPredictor:
    """Runs one network over a volume.

    Attributes:
        network: (B, C, *patch) -> (B, heads, *patch) logits, in evaluation mode.
        patch: Window size along the plan's axes.
        heads: Number of outputs.
        step: Window distance as a share of the patch.
        mirror_axes: Axes to mirror over (test-time augmentation); empty for none.
        swap: For the axis that runs from right to left: how the heads change places when it is
            mirrored, so that a left kidney stays left.
        left_right_axis: Which axis that is.
    """

    def __init__(
        self,
        network: nn.Module,
        patch: Shape,
        heads: int,
        *,
        step: float = 0.5,
        mirror_axes: tuple[int, ...] = (),
        swap: tuple[int, ...] | None = None,
        left_right_axis: int = 2,
        device: torch.device | None = None,
        batch: int = 1,
    ) -> None:
        self.device = device or torch.device("cpu")
        # about twice as fast on CPUs, and what tensor cores want on GPUs
        self.network = to_channels_last(network).to(self.device)
        self.patch = patch
        self.heads = heads
        self.step = step
        self.subsets = mirror_subsets(mirror_axes)
        self.swap = swap
        self.left_right_axis = left_right_axis
        self.batch = batch

    @torch.no_grad()
    def __call__(self, image: Tensor, progress: Progress | None = None) -> Tensor:
        """(C, z, y, x) float32 -> (heads, z, y, x) float32 logits on the host."""
        padded, inner = _pad_to(image, self.patch)
        shape: Shape = tuple(padded.shape[1:])  # type: ignore[assignment]
        total = torch.zeros((self.heads, *shape), dtype=torch.float32)
        weight_sum = torch.zeros(shape, dtype=torch.float32)
        weights = gaussian_weights(self.patch)
        places = windows(shape, self.patch, self.step)
        for done, group in _groups(places, self.batch):
            inputs = torch.stack([padded[(slice(None), *place)] for place in group])
            logits = self._forward(inputs.to(self.device)).float().cpu()
            for place, part in zip(group, logits, strict=True):
                total[(slice(None), *place)] += part * weights
                weight_sum[place] += weights
            if progress:
                progress(done, len(places))
        total /= weight_sum
        return total[(slice(None), *inner)]

    def _forward(self, inputs: Tensor) -> Tensor:
        """Mean logits over the mirrored passes."""
        kind = self.device.type
        with torch.autocast(kind, enabled=kind == "cuda"):
            result: Tensor | None = None
            for subset in self.subsets:
                axes = [2 + axis for axis in subset]
                logits = self.network(inputs.flip(axes) if axes else inputs)
                logits = logits.flip(axes) if axes else logits
                if self.swap is not None and self.left_right_axis in subset:
                    logits = logits[:, list(self.swap)]
                result = logits if result is None else result + logits
        assert result is not None, "the empty subset is always there"
        return result / len(self.subsets)


def to_channels_last(network: nn.Module) -> nn.Module:
    """Lay a 3-D network's weights out channels last; PyTorch's stubs do not know the argument."""
    module: Any = network
    return module.to(memory_format=torch.channels_last_3d)


def _groups(
    places: list[tuple[slice, slice, slice]], size: int
) -> Iterator[tuple[int, list[tuple[slice, slice, slice]]]]:
    for start in range(0, len(places), size):
        group = places[start : start + size]
        yield start + len(group), group


def _pad_to(image: Tensor, patch: Shape) -> tuple[Tensor, tuple[slice, slice, slice]]:
    """Zero-pad on both sides up to the patch; also where the image lies inside."""
    missing = [max(0, p - n) for n, p in zip(image.shape[1:], patch, strict=True)]
    before = [m // 2 for m in missing]
    pads: list[int] = []
    for m, b in zip(reversed(missing), reversed(before), strict=True):
        pads += [b, m - b]
    inner = tuple(slice(b, b + n) for b, n in zip(before, image.shape[1:], strict=True))
    padded = torch.nn.functional.pad(image, pads) if any(missing) else image
    return padded, inner  # type: ignore[return-value]
