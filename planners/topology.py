"""Spacing and patch -> how often, along which axes and with which kernels a U-Net pools.

An axis far coarser than the others is neither pooled nor convolved across until pooling has made
the others as coarse.

Sources:
    [Isensee2021] nnU-Net, Nature Methods 18, supplement: the pooling rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

MIN_EDGE = 4  # smallest feature map edge that pooling may leave [Isensee2021]
SAME_SCALE = 2.0  # axes less than this factor apart are pooled and convolved together [Isensee2021]

Axes = tuple[int, ...]


@dataclass(frozen=True)
class Topology:
    """The shape of a U-Net for one patch; axes as the patch's.

    Attributes:
        patch: Voxels, padded up to a multiple of `divisor`.
        strides: For each stage the strides it enters with; the first are 1.
        kernels: For each stage its kernel; 1 along axes too coarse to look along.
    """

    patch: Axes
    strides: tuple[Axes, ...]
    kernels: tuple[Axes, ...]

    @property
    def stages(self) -> int:
        """Number of resolutions, bottleneck included."""
        return len(self.strides)

    @property
    def divisor(self) -> Axes:
        """Total downsampling along each axis."""
        total = [1] * len(self.patch)
        for stride in self.strides:
            total = [t * s for t, s in zip(total, stride, strict=True)]
        return tuple(total)

    @property
    def sizes(self) -> tuple[Axes, ...]:
        """Feature map edges of each stage, voxels."""
        size, found = self.patch, []
        for stride in self.strides:
            size = tuple(n // s for n, s in zip(size, stride, strict=True))
            found.append(size)
        return tuple(found)

    @property
    def voxels(self) -> int:
        """Voxels of the patch."""
        total = 1
        for edge in self.patch:
            total *= edge
        return total

    def as_3d(self) -> Topology:
        """A 2-D topology as a 3-D one whose first axis is 1; a 3-D one unchanged."""
        if len(self.patch) == 3:
            return self
        return Topology(
            patch=(1, *self.patch),
            strides=tuple((1, *stride) for stride in self.strides),
            kernels=tuple((1, *kernel) for kernel in self.kernels),
        )


def plan_topology(spacing: Sequence[float], patch: Sequence[float]) -> Topology:
    """Pool until no axis can be halved any more.

    Args:
        spacing: mm along each axis; two or three of them.
        patch: The wanted patch, voxels; half voxels come from medians and are rounded up.
    """
    spacing, size = list(spacing), list(patch)
    axes = range(len(size))
    kernel = [1] * len(size)
    strides: list[Axes] = [(1,) * len(size)]
    kernels: list[Axes] = []
    while pooled := _axes_to_pool(spacing, size):
        finest = min(spacing)
        kernel = [3 if spacing[a] < SAME_SCALE * finest else kernel[a] for a in axes]
        kernels.append(tuple(kernel))
        strides.append(tuple(2 if a in pooled else 1 for a in axes))
        for a in pooled:
            spacing[a] *= 2
            size[a] = ceil(size[a] / 2)
    kernels.append((3,) * len(size))  # the bottleneck looks everywhere
    multiples = [2 ** sum(stride[a] == 2 for stride in strides) for a in axes]
    padded = tuple(ceil(n / m) * m for n, m in zip(patch, multiples, strict=True))
    return Topology(patch=padded, strides=tuple(strides), kernels=tuple(kernels))


def _axes_to_pool(spacing: Sequence[float], size: Sequence[float]) -> list[int]:
    large = [a for a, n in enumerate(size) if n >= 2 * MIN_EDGE]
    if not large:
        return []
    finest = min(spacing[a] for a in large)
    chosen = [a for a in large if spacing[a] < SAME_SCALE * finest]
    if len(chosen) == 1 and size[chosen[0]] < 3 * MIN_EDGE:
        return []
    return chosen
