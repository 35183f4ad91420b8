"""Volumes and label maps onto another number of voxels over the same extent.

Everything is separable: a narrow band of weights an axis, in float32, so no volume is ever copied to
64 bit and no label map becomes a one-hot volume.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from renalplan.geometry import Box, Shape, box_slices, mask_box
from renalplan.interpolation import (
    apply_along,
    band,
    cubic_band,
    linear_band,
    linear_matrix,
)
from renalplan.labels import values_in

ANISOTROPY = 3.0  # nnU-Net's threshold: coarser axes than this are not interpolated with cubics
EQUAL = np.float32(1e-6)  # weights no further apart than rounding are equal


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
    result = np.ascontiguousarray(image, np.float32)
    old = image.shape[1:]
    if old == tuple(shape):
        return result
    limits = [(channel.min(), channel.max()) for channel in result]
    del image  # of a caller who does not hold it either, it is gone after the first axis
    finest = min(spacing) if spacing else 1.0
    # the axis that shrinks most goes first: the later products then have less to do
    for axis in sorted(range(3), key=lambda a: shape[a] / old[a]):
        size = old[axis]
        if size == shape[axis]:
            continue
        coarse = spacing is not None and spacing[axis] > ANISOTROPY * finest
        weights = (linear_band if coarse else cubic_band)(size, shape[axis])
        result = apply_along(result, weights, axis)
    for made, (low, high) in zip(result, limits, strict=True):
        np.clip(made, low, high, out=made)
    return result


def resample_labels(labels: NDArray, shape: Shape) -> NDArray:
    """Resample a label map (z, y, x): each voxel takes the label of the largest linear weight.

    Equal to the arg max over linearly resampled one-hot volumes (ties go to the lower value), but
    each label is only computed inside its own box and nothing is stacked.
    """
    if labels.shape == tuple(shape):
        return np.ascontiguousarray(labels)
    result = np.zeros(shape, labels.dtype)
    if (box := mask_box(labels != 0)) is None:
        return result
    matrices = [linear_matrix(old, new) for old, new in zip(labels.shape, shape, strict=True)]
    reached = _reached(matrices, box)
    if reached is None:
        return result
    # what follows sees only the new voxels that some structure reaches
    matrices = [m[a:b, c:d] for m, (a, b), (c, d) in zip(matrices, reached, box, strict=True)]
    result[box_slices(reached)] = _largest(labels[box_slices(box)], matrices)
    return result


def _largest(labels: NDArray, matrices: list[NDArray[np.float32]]) -> NDArray:
    """`resample_labels` by given matrices; what their rows lack to one is background's."""
    shape = tuple(len(matrix) for matrix in matrices)
    result = np.zeros(shape, labels.dtype)
    best = np.zeros(shape, np.float32)
    total = np.zeros(shape, np.float32)
    for value in values_in(labels):
        if value == 0:
            continue
        mask = labels == value
        box = mask_box(mask)
        assert box is not None, "the value was counted"
        target = _reached(matrices, box)
        if target is None:
            continue  # thinner than the new voxels and between their centres
        weight = mask[box_slices(box)][None].astype(np.float32)
        for axis, (matrix, (a, b), (c, d)) in enumerate(zip(matrices, target, box, strict=True)):
            weight = apply_along(weight, band(matrix[a:b, c:d]), axis)
        place = box_slices(target)
        total[place] += weight[0]
        wins = weight[0] > best[place] + EQUAL
        np.copyto(best[place], weight[0], where=wins)
        np.copyto(result[place], value, where=wins)
    result[best <= 1 - total + EQUAL] = 0  # what no structure holds belongs to the background
    return result


def _reached(matrices: list[NDArray[np.float32]], box: Box) -> Box | None:
    """The new voxels that get anything from the old ones in a box, None if there are none."""
    reach = [np.flatnonzero(m[:, a:b].any(axis=1)) for m, (a, b) in zip(matrices, box, strict=True)]
    if any(len(rows) == 0 for rows in reach):
        return None
    return tuple((int(rows[0]), int(rows[-1]) + 1) for rows in reach)  # type: ignore[return-value]
