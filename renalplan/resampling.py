"""Volumes and label maps onto another number of voxels over the same extent.

Everything is separable: one small matrix an axis, applied by matrix products in float32, so no
volume is ever copied to 64 bit and no label map becomes a one-hot volume. Voxel centres sit at half
integers (both grids share their outer faces), values beyond the border repeat the edge.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from renalplan.geometry import Shape, box_slices, mask_box
from renalplan.labels import values_in

ANISOTROPY = 3.0  # nnU-Net's threshold: coarser axes than this are not interpolated with cubics


def source_positions(size: int, new_size: int) -> NDArray[np.float64]:
    """Where the centres of `new_size` voxels lie on the index axis of `size` voxels."""
    positions = (np.arange(new_size) + 0.5) * (size / new_size) - 0.5
    clipped: NDArray[np.float64] = np.clip(positions, 0, size - 1)
    return clipped


@lru_cache(maxsize=256)
def linear_matrix(size: int, new_size: int) -> NDArray[np.float32]:
    """(new_size, size) weights of linear interpolation; every row sums to one."""
    positions = source_positions(size, new_size)
    lower = np.minimum(np.floor(positions).astype(int), max(size - 2, 0))
    share = positions - lower
    matrix = np.zeros((new_size, size), np.float64)
    rows = np.arange(new_size)
    matrix[rows, lower] += 1 - share
    if size > 1:
        matrix[rows, lower + 1] += share
    return matrix.astype(np.float32)


@lru_cache(maxsize=256)
def cubic_matrix(size: int, new_size: int) -> NDArray[np.float32]:
    """(new_size, size) weights of cubic B-spline interpolation, prefilter included.

    With P the tridiagonal matrix that samples a cubic B-spline at its knots (mirrored ends) and B
    the basis at the new positions, the interpolant of samples f is B P^-1 f.
    """
    if size < 4:
        return linear_matrix(size, new_size)
    knots = np.zeros((size, size))
    index = np.arange(size)
    knots[index, index] = 4 / 6
    for neighbour in (index - 1, index + 1):
        np.add.at(knots, (index, _mirror(neighbour, size)), 1 / 6)
    positions = source_positions(size, new_size)
    start = np.floor(positions).astype(int) - 1
    basis = np.zeros((new_size, size))
    rows = np.arange(new_size)
    for tap in range(4):
        distance = np.abs(positions - (start + tap))
        weight = np.where(
            distance < 1,
            2 / 3 - distance**2 + distance**3 / 2,
            np.clip(2 - distance, 0, None) ** 3 / 6,
        )
        np.add.at(basis, (rows, _mirror(start + tap, size)), weight)
    return np.linalg.solve(knots.T, basis.T).T.astype(np.float32)


def _mirror(index: NDArray, size: int) -> NDArray:
    """Reflect indices at the first and last sample (period 2 size - 2)."""
    index = np.abs(index)
    return np.where(index >= size, 2 * size - 2 - index, index)


def resample_image(
    image: NDArray[np.float32], shape: Shape, spacing: tuple[float, float, float] | None = None
) -> NDArray[np.float32]:
    """Resample (channel, z, y, x) float32 to (channel, *shape) with cubic B-splines.

    What a cubic overshoots at an edge is cut off: no channel leaves its range.

    Args:
        image: Any axis order, as long as `shape` and `spacing` have the same.
        shape: New spatial shape.
        spacing: mm per axis of the input. An axis more than three times as coarse as the finest one
            is interpolated linearly: cubics ring across thick slices.
    """
    if image.shape[1:] == tuple(shape):
        return np.ascontiguousarray(image, np.float32)
    finest = min(spacing) if spacing else 1.0
    result = torch.from_numpy(np.ascontiguousarray(image, np.float32))
    # the axis that shrinks most goes first: the later products then have less to do
    for axis in sorted(range(3), key=lambda a: shape[a] / image.shape[1 + a]):
        size = image.shape[1 + axis]
        if size == shape[axis]:
            continue
        coarse = spacing is not None and spacing[axis] > ANISOTROPY * finest
        matrix = (linear_matrix if coarse else cubic_matrix)(size, shape[axis])
        result = apply_along(result, matrix, axis)
    for made, source in zip(result, image, strict=True):
        made.clamp_(float(source.min()), float(source.max()))
    array: NDArray[np.float32] = result.numpy()
    return array


def apply_along(volume: torch.Tensor, matrix: NDArray[np.float32], axis: int) -> torch.Tensor:
    """Multiply (new, old) onto one spatial axis of a contiguous (channel, z, y, x) tensor."""
    weights = torch.from_numpy(matrix)
    channels, z, y, x = volume.shape
    if axis == 2:
        return torch.matmul(volume, weights.T)
    if axis == 1:
        return torch.matmul(weights, volume)
    return torch.matmul(weights, volume.reshape(channels, z, y * x)).reshape(channels, -1, y, x)


def resample_labels(labels: NDArray, shape: Shape) -> NDArray:
    """Resample a label map (z, y, x): each voxel takes the label of the largest linear weight.

    Equal to the arg max over linearly resampled one-hot volumes (ties go to the lower value), but
    each label is only computed inside its own box and nothing is stacked.
    """
    if labels.shape == tuple(shape):
        return np.ascontiguousarray(labels)
    result = np.zeros(shape, labels.dtype)
    best = np.zeros(shape, np.float32)
    total = np.zeros(shape, np.float32)
    matrices = [linear_matrix(old, new) for old, new in zip(labels.shape, shape, strict=True)]
    for value in values_in(labels):
        if value == 0:
            continue
        mask = labels == value
        box = mask_box(mask)
        assert box is not None, "the value was counted"
        reach = [
            np.flatnonzero(m[:, a:b].any(axis=1)) for m, (a, b) in zip(matrices, box, strict=True)
        ]
        if any(len(rows) == 0 for rows in reach):
            continue  # thinner than the new voxels and between their centres
        target = tuple(slice(int(rows[0]), int(rows[-1]) + 1) for rows in reach)
        score = torch.from_numpy(mask[box_slices(box)][None].astype(np.float32))
        for axis, (matrix, rows, (a, b)) in enumerate(zip(matrices, target, box, strict=True)):
            score = apply_along(score, np.ascontiguousarray(matrix[rows, a:b]), axis)
        weight = score[0].numpy()
        total[target] += weight
        wins = weight > best[target]
        best[target][wins] = weight[wins]
        result[target][wins] = value
    result[best <= 1 - total + 1e-6] = 0  # what no structure holds belongs to the background
    return result


class Planes(Protocol):
    """A volume (channel, z, y, x) of which some slices are looked at, as a rule from first to last."""

    @property
    def depth(self) -> int:
        """Number of slices."""
        ...

    def planes(self, first: int, stop: int) -> torch.Tensor:
        """(channel, stop - first, y, x) float32."""
        ...


@dataclass(frozen=True)
class TensorPlanes:
    """`Planes` of a tensor (channel, z, y, x) of any floating type."""

    tensor: torch.Tensor

    @property
    def depth(self) -> int:
        """See `Planes`."""
        return self.tensor.shape[1]

    def planes(self, first: int, stop: int) -> torch.Tensor:
        """See `Planes`."""
        return self.tensor[:, first:stop].float()


def resample_planes(volume: Planes, rows: slice, shape: Shape) -> torch.Tensor:
    """Some slices of a linearly resampled volume, without making the rest.

    Args:
        volume: What to resample; only the slices around the wanted ones are asked for.
        rows: Which slices of the resampled volume's first axis.
        shape: The whole resampled spatial shape.

    Returns:
        (channel, rows, y, x) float32 of `shape`'s last two axes.
    """
    positions = source_positions(volume.depth, shape[0])[rows]
    lower = np.floor(positions).astype(int)
    upper = np.minimum(lower + 1, volume.depth - 1)
    first, last = int(lower[0]), int(upper[-1])
    needed = volume.planes(first, last + 1)
    share = torch.as_tensor(positions - lower, dtype=needed.dtype, device=needed.device)
    planes = torch.lerp(
        needed[:, torch.as_tensor(lower - first, device=needed.device)],
        needed[:, torch.as_tensor(upper - first, device=needed.device)],
        share[None, :, None, None],
    )
    if planes.shape[2:] == tuple(shape[1:]):
        return planes
    return torch.nn.functional.interpolate(
        planes, size=tuple(shape[1:]), mode="bilinear", align_corners=False
    )
