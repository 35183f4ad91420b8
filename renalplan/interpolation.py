"""Interpolation along one axis as a product with a narrow band of weights.

Voxel centres sit at half integers (the old and the new grid share their outer faces), values beyond
the border repeat the edge. NumPy alone: a process that only preprocesses need not load PyTorch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

ROWS = 64  # of new voxels computed by one matrix product
NEGLIGIBLE = 1e-7  # a cubic's weights fall by 0.27 a voxel: twelve voxels away they are nothing


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


@dataclass(frozen=True)
class Product:
    """New voxels `start` to `stop` from old voxels `first` to `last`: `weights` times these."""

    start: int
    stop: int
    first: int
    last: int
    weights: NDArray[np.float32]


Band = tuple[Product, ...]


def band(matrix: NDArray[np.float32]) -> Band:
    """A (new, old) matrix as products that leave out the zeros off its diagonal."""
    products = []
    for start in range(0, len(matrix), ROWS):
        rows = matrix[start : start + ROWS]
        used = np.flatnonzero((np.abs(rows) > NEGLIGIBLE).any(axis=0))
        first, last = (int(used[0]), int(used[-1]) + 1) if used.size else (0, 1)
        weights = np.ascontiguousarray(rows[:, first:last])
        products.append(Product(start, start + len(rows), first, last, weights))
    return tuple(products)


@lru_cache(maxsize=256)
def linear_band(size: int, new_size: int) -> Band:
    """`linear_matrix` as a band."""
    return band(linear_matrix(size, new_size))


@lru_cache(maxsize=256)
def cubic_band(size: int, new_size: int) -> Band:
    """`cubic_matrix` as a band."""
    return band(cubic_matrix(size, new_size))


def apply_along(volume: NDArray[np.float32], weights: Band, axis: int) -> NDArray[np.float32]:
    """Interpolate a contiguous (channel, z, y, x) array along one spatial axis."""
    channels, z, y, x = volume.shape
    size = weights[-1].stop
    if axis == 2:
        made = np.empty((channels * z * y, size), np.float32)
        rows = volume.reshape(-1, x)
        for p in weights:
            np.matmul(rows[:, p.first : p.last], p.weights.T, out=made[:, p.start : p.stop])
        return made.reshape(channels, z, y, size)
    # before the last axis every product is one of matrices that lie in memory row by row
    planes = volume if axis == 1 else volume.reshape(channels, z, y * x)
    made = np.empty((*planes.shape[:-2], size, planes.shape[-1]), np.float32)
    for p in weights:
        np.matmul(p.weights, planes[..., p.first : p.last, :], out=made[..., p.start : p.stop, :])
    return made.reshape(channels, -1, *((size, x) if axis == 1 else (y, x)))
