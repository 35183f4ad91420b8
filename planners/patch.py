"""Spacing, shape and a memory test -> the largest patch that fits, and its topology.

Sources:
    [Isensee2021] nnU-Net, Nature Methods 18, supplement: start large, shrink where the patch
        covers most of the case.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import numpy as np

from renalplan.errors import PlanError
from renalplan.planners.memory import GB, Architecture, training_bytes
from renalplan.planners.topology import MIN_EDGE, Topology, plan_topology

START_VOXELS = {2: 2048**2, 3: 256**3}  # of the first patch tried, before clipping to the case
# a training process's CUDA context and convolution workspace: nnU-Net's published use of memory on
# KiTS exceeds an estimate some 8 % above `training_bytes` by 1.7 to 3.3 GB for its four presets
RESERVE_SHARE, RESERVE_GB = 0.25, 3.0
FRAGMENTS = 0.08  # those 8 %: what an allocator cannot use of the rest


def usable_gb(gpu_memory_gb: float) -> float:
    """What of a card's memory the tensors of training may fill."""
    return (1 - FRAGMENTS) * (gpu_memory_gb - min(RESERVE_SHARE * gpu_memory_gb, RESERVE_GB))


def largest_batch(topology: Topology, network: Architecture, gpu_memory_gb: float, cap: int) -> int:
    """The most patches a step that fit, at most `cap`; 0 if not even one fits."""
    limit = usable_gb(gpu_memory_gb) * GB
    fits = (n for n in range(cap, 0, -1) if training_bytes(topology, network, n) <= limit)
    return next(fits, 0)


def start_patch(spacing: Sequence[float], shape: Sequence[float]) -> tuple[float, ...]:
    """A patch as long in mm along every axis, no larger than the case."""
    fineness = 1 / np.asarray(spacing, float)
    edge = (START_VOXELS[len(spacing)] / fineness.prod()) ** (1 / len(spacing))
    return tuple(
        min(round(float(f * edge)), float(n)) for f, n in zip(fineness, shape, strict=True)
    )


def fit_patch(
    spacing: Sequence[float],
    shape: Sequence[float],
    fits: Callable[[Topology], bool],
    *,
    minimum: int = MIN_EDGE,
) -> Topology:
    """Shrink from `start_patch` until `fits` is true.

    Args:
        spacing: mm along each axis; two or three of them.
        shape: The median case, voxels.
        fits: Whether a network of this topology fits the memory.
        minimum: No axis is cut below this edge, voxels.

    Raises:
        PlanError: not even the smallest patch fits.
    """
    topology = plan_topology(spacing, start_patch(spacing, shape))
    while not fits(topology):
        smaller = _shrink(topology, spacing, shape, minimum)
        if smaller is None:
            raise PlanError(
                f"not even a patch of {' x '.join(map(str, topology.patch))} voxels fits the "
                "memory target; raise gpu_memory or lower base_features."
            )
        topology = smaller
    return topology


def _shrink(
    topology: Topology, spacing: Sequence[float], shape: Sequence[float], minimum: int
) -> Topology | None:
    """One step off the axis that sees most of the case; None if no axis may lose any more."""
    seen = [edge / n for edge, n in zip(topology.patch, shape, strict=True)]
    for axis in np.argsort(seen, kind="stable")[::-1]:
        patch = list(topology.patch)
        patch[axis] -= topology.divisor[axis]
        # the step is what the smaller patch has to be divisible by, which can be finer
        step = plan_topology(spacing, [max(1, n) for n in patch]).divisor[axis]
        coarse, fine = patch[axis], topology.patch[axis] - step
        for edge in (fine, coarse):
            if edge < minimum:
                continue
            patch[axis] = edge
            replanned = plan_topology(spacing, patch)
            # padding can bring the old patch back; then the next smaller edge is tried
            if prod(replanned.patch) < topology.voxels:
                return replanned
    return None
