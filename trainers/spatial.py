"""Patches turned and scaled about their centre: linear for images, the weightiest label for labels.

Positions are voxels along (z, y, x); what lies beyond the region that was read counts as zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import islice
from math import ceil, cos, sin

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import grid_sample

from renalplan.geometry import Shape

Matrix = tuple[tuple[float, float, float], ...]
GROUP = 6  # volumes that are interpolated at once: what they take in memory is bounded
ROUNDING = 0.01  # voxels: a neighbour whose weight is only rounding need not be read


def turn_matrix(angles: NDArray[np.float64], scale: float) -> Matrix:
    """Turns about the first, then the second, then the third axis (radians), after scaling."""
    (c0, c1, c2), (s0, s1, s2) = np.cos(angles), np.sin(angles)
    first = np.array([[1, 0, 0], [0, c0, -s0], [0, s0, c0]])
    second = np.array([[c1, 0, s1], [0, 1, 0], [-s1, 0, c1]])
    third = np.array([[c2, -s2, 0], [s2, c2, 0], [0, 0, 1]])
    return tuple(tuple(row) for row in (scale * third @ second @ first).tolist())


def plane_matrix(angle: float, scale: float) -> Matrix:
    """A turn (radians) and scale within slices."""
    c, s = scale * cos(angle), scale * sin(angle)
    return (1.0, 0.0, 0.0), (0.0, c, -s), (0.0, s, c)


def reach(matrix: Matrix | None, patch: Shape) -> Shape:
    """Voxels beyond the patch on each side that it touches when it is turned and scaled."""
    if matrix is None:
        return (0, 0, 0)
    half = [(n - 1) / 2 for n in patch]
    z, y, x = (
        max(0, ceil(sum(abs(m) * h for m, h in zip(row, half, strict=True)) - own + ROUNDING))
        for row, own in zip(matrix, half, strict=True)
    )
    return z, y, x


def cut(values: Tensor, patch: Shape) -> Tensor:
    """The middle of (channels, Z, Y, X), as a view."""
    for axis, length in enumerate(patch, start=1):
        values = values.narrow(axis, (values.shape[axis] - length) // 2, length)
    return values


class Turn:
    """A turned and scaled patch, looked up in any number of volumes of one size.

    Args:
        size: Of the volumes, (Z, Y, X); their centre is the patch's.
        matrix: Offset from the patch's centre -> offset from the volumes', voxels.
        patch: Size that comes out.
        device: Where the volumes are.
    """

    def __init__(
        self, size: tuple[int, ...], matrix: Matrix, patch: Shape, device: torch.device
    ) -> None:
        self.patch, self.device = patch, device
        # a voxel of zeros on every side: positions beyond are moved there
        self.size = tuple(n + 2 for n in size)
        z, y, x = (torch.arange(n, device=device) - (n - 1) / 2 for n in patch)
        self.positions = [
            ((z * a + (n - 1) / 2)[:, None, None] + (y * b)[:, None] + x * c).clamp_(0, n - 1)
            for n, (a, b, c) in zip(self.size, matrix, strict=True)
        ]

    def linear(self, volumes: Iterable[Tensor]) -> Iterator[Tensor]:
        """Each volume (Z, Y, X) interpolated linearly, float32 (*patch); taken up some at a time."""
        remaining = iter(volumes)
        while group := list(islice(remaining, GROUP)):
            yield from self.look_up(torch.stack([self.padded(volume) for volume in group]))

    def nearest(self, volume: Tensor) -> Tensor:
        """(Z, Y, X) by nearest voxel: the numbers stay what they were -> (*patch)."""
        _, height, width = self.size
        z, y, x = (position.round().long() for position in self.positions)
        found = self.padded(volume).flatten()[(z * height + y) * width + x]
        return found.to(volume.dtype)

    def labels(self, volume: Tensor, values: tuple[int, ...]) -> Tensor:
        """The value that weighs most among the eight voxels around each position -> (*patch).

        Args:
            volume: (Z, Y, X) label values.
            values: Those that may occur besides 0.
        """
        result = torch.zeros(self.patch, dtype=volume.dtype, device=self.device)
        largest = torch.zeros(self.patch, device=self.device)
        rest = torch.ones(self.patch, device=self.device)  # background's share
        shares = self.linear(volume == value for value in values)
        for value, share in zip(values, shares, strict=True):
            result.masked_fill_(share > largest, value)
            torch.maximum(largest, share, out=largest)
            rest.sub_(share)
        return result.masked_fill_(rest >= largest, 0)

    def padded(self, volume: Tensor, kind: torch.dtype = torch.float32) -> Tensor:
        """(Z, Y, X) with the zeros around it."""
        result = torch.zeros(self.size, dtype=kind, device=self.device)
        result[1:-1, 1:-1, 1:-1] = volume
        return result

    def look_up(self, padded: Tensor) -> Tensor:
        """(volumes, Z, Y, X) -> (volumes, *patch): PyTorch's own sampling in 3-D."""
        found: Tensor = grid_sample(padded[None], self._grid, align_corners=True)[0]
        return found

    @cached_property
    def _grid(self) -> Tensor:
        pairs = zip(self.positions, self.size, strict=True)
        scaled = [position * (2 / (n - 1)) - 1 for position, n in pairs]
        return torch.stack(scaled[::-1], -1)[None]


class CpuTurn(Turn):
    """The same on a CPU, several times faster."""

    def look_up(self, padded: Tensor) -> Tensor:
        """See `Turn.look_up`; PyTorch vectorises sampling on CPUs in 2-D only.

        Planes lie below each other as one tall image. A position is looked up in the plane below it
        and, in the same image moved by one plane, in the one above. Rows are exact to about 1/500
        voxel.
        """
        count, depth, height, width = padded.shape
        plane = height * width
        shape = (2, count, (depth - 1) * height, width)
        pair = padded.as_strided(shape, (plane, depth * plane, width, 1))
        found = grid_sample(pair, self._grid, align_corners=True)
        lower, upper = found.reshape(2, count, *self.patch)
        return torch.lerp(lower, upper, self.positions[0] - self._below[0])

    @cached_property
    def _grid(self) -> Tensor:
        depth, height, width = self.size
        _, y, x = self.positions
        grid = torch.empty((*self.patch, 2))
        tall = torch.add(y, self._below[0], alpha=height)
        torch.mul(tall, 2 / ((depth - 1) * height - 1), out=grid[..., 1])
        torch.mul(x, 2 / (width - 1), out=grid[..., 0])
        return grid.sub_(1).reshape(1, -1, self.patch[2], 2).expand(2, -1, -1, -1)

    @cached_property
    def _below(self) -> list[Tensor]:
        """The voxel before each position along each axis; it has one after it."""
        pairs = zip(self.positions, self.size, strict=True)
        return [position.floor().clamp_(max=n - 2) for position, n in pairs]

    def labels(self, volume: Tensor, values: tuple[int, ...]) -> Tensor:
        """See `Turn.labels`; voxels are only weighed where the eight are not all alike."""
        kind, mixed = (torch.uint8, 255) if max(values, default=0) < 255 else (torch.int32, -1)
        padded = self.padded(volume, kind)
        _, height, width = self.size
        z, y, x = (place.int() for place in self._below)
        first = z.mul_(height).add_(y).mul_(width).add_(x).flatten()
        result = _cells(padded, mixed).flatten().index_select(0, first)
        border = (result == mixed).nonzero()[:, 0]
        corners = padded.flatten()[first[border].long() + self._corners()[:, None]]
        result[border] = _heaviest(corners, self._weights(border))
        return result.reshape(self.patch).to(volume.dtype)

    def _weights(self, chosen: Tensor) -> Tensor:
        """(8, n) what the voxels around some positions weigh."""
        result = torch.ones((1, len(chosen)))
        for position, below in zip(self.positions, self._below, strict=True):
            after = position.flatten()[chosen] - below.flatten()[chosen]
            result = torch.cat([result * (1 - after), result * after])
        return result

    def _corners(self) -> Tensor:
        """Offsets of the eight voxels in a flat padded volume, in the order of `_weights`."""
        _, height, width = self.size
        result = torch.zeros(1, dtype=torch.long)
        for stride in (height * width, width, 1):
            result = torch.cat([result, result + stride])
        return result


def make_turn(size: tuple[int, ...], matrix: Matrix, patch: Shape, device: torch.device) -> Turn:
    """The fastest for this device."""
    kind = CpuTurn if device.type == "cpu" else Turn
    return kind(size, matrix, patch, device)


def _cells(padded: Tensor, mixed: int) -> Tensor:
    """Each voxel's label if the seven after it are like it, `mixed` if one is not."""
    low = high = padded
    for axis in range(3):
        n = padded.shape[axis] - 1
        low = torch.minimum(low.narrow(axis, 0, n), low.narrow(axis, 1, n))
        high = torch.maximum(high.narrow(axis, 0, n), high.narrow(axis, 1, n))
    result = padded.clone()
    result[:-1, :-1, :-1].masked_fill_(low != high, mixed)
    return result


def _heaviest(corners: Tensor, weights: Tensor) -> Tensor:
    """(n) the value with the largest sum of weights in (8, n) corners; the lowest of equals."""
    result = torch.zeros(corners.shape[1], dtype=corners.dtype)
    largest = torch.zeros(corners.shape[1])
    for value in corners.unique().tolist():
        share = torch.where(corners == value, weights, 0.0).sum(0)
        result.masked_fill_(share > largest, value)
        torch.maximum(largest, share, out=largest)
    return result
