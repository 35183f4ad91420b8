"""Signed distances of simple bodies, and how a distance becomes the covered share of a voxel.

Distances are in mm, negative inside. They are first-order: exact at the surface, where coverage is
decided, and only approximate far from it. Coordinates come as three arrays that broadcast.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Point = tuple[float, float, float]  # mm, (z, y, x)

_TINY = np.float32(1e-6)


def coverage(distance: NDArray, width_mm: float) -> Floats:
    """Share of a sample of this width that lies inside a surface at a signed distance.

    Args:
        distance: Any shape, mm, negative inside.
        width_mm: Edge length of the sample; a flat surface crossing it gives a linear ramp.

    Returns:
        Same shape, float32 in [0, 1].
    """
    share = distance * np.float32(-1.0 / width_mm)
    share += np.float32(0.5)
    result: Floats = np.clip(share, 0.0, 1.0, out=share)
    return result


def open_axes(z: NDArray, y: NDArray, x: NDArray) -> tuple[Floats, Floats, Floats]:
    """Three coordinate vectors as (Z, 1, 1), (1, Y, 1) and (1, 1, X) float32 arrays."""
    return (
        np.asarray(z, np.float32)[:, None, None],
        np.asarray(y, np.float32)[None, :, None],
        np.asarray(x, np.float32)[None, None, :],
    )


def ellipsoid_distance(z: NDArray, y: NDArray, x: NDArray, centre: Point, semi: Point) -> Floats:
    """Distance to an axis-parallel ellipsoid; the arrays broadcast, mm."""
    norm2: NDArray = np.zeros((), np.float32)
    slope2: NDArray = np.zeros((), np.float32)
    for axis, middle, half in zip((z, y, x), centre, semi, strict=True):
        scaled = (axis - np.float32(middle)) / np.float32(half)
        norm2 = norm2 + scaled * scaled
        slope2 = slope2 + np.square(scaled / np.float32(half))
    norm = np.sqrt(norm2)
    # (f - 1) / |grad f| with f the ellipsoid norm; at the centre both vanish
    result: Floats = (norm - 1) * (norm + _TINY) / np.sqrt(slope2 + _TINY * _TINY)
    return np.maximum(result, np.float32(-min(semi)))


def superellipsoid_distance(u: NDArray, v: NDArray, w: NDArray, semi: Point) -> Floats:
    """Distance to |u/a|^2.5 + |v/b|^2.5 + |w/c|^2.5 = 1, fuller than an ellipsoid, mm.

    The exponent 2.5 needs square roots only, which are cheap; the shape is the usual kidney's.
    """
    total: NDArray = np.zeros((), np.float32)
    slope2: NDArray = np.zeros((), np.float32)
    for axis, half in zip((u, v, w), semi, strict=True):
        scaled = np.abs(axis) * np.float32(1 / half)
        power = scaled * np.sqrt(scaled)  # ^1.5
        slope2 = slope2 + np.square(power * np.float32(1 / half))
        power = power * scaled  # ^2.5
        total = total + power
    total = total + _TINY
    norm = np.power(total, np.float32(0.4))
    # |grad f| = total^-0.6 * slope, and total^0.6 = total / norm
    result: Floats = (norm - 1) * (total / norm) / np.sqrt(slope2 + _TINY * _TINY)
    result = np.where(total > 1e-3, result, np.float32(-min(semi)))
    return np.maximum(result, np.float32(-min(semi)))


@dataclass(frozen=True, kw_only=True, eq=False)
class Tubes:
    """Straight pieces of tubes: vessels, calyces, bowel.

    Attributes:
        start: (N, 3) mm, (z, y, x).
        end: (N, 3) mm.
        start_radius: (N,) mm.
        end_radius: (N,) mm.
        level: (N,) branching level, 0 = trunk.
        line: (N,) number of the line a piece belongs to.
    """

    start: NDArray[np.float64]
    end: NDArray[np.float64]
    start_radius: NDArray[np.float64]
    end_radius: NDArray[np.float64]
    level: NDArray[np.int64]
    line: NDArray[np.int64]

    @property
    def count(self) -> int:
        """Number of straight pieces."""
        return len(self.start)

    @property
    def volume_ml(self) -> float:
        """Sum of the frusta's volumes; joints are counted twice by their small overlap."""
        length = np.linalg.norm(self.end - self.start, axis=1)
        first, second = self.start_radius, self.end_radius
        volume = np.pi / 3 * length * (first**2 + first * second + second**2)
        return float(volume.sum()) / 1000

    def box(self, piece: int) -> tuple[NDArray, NDArray]:
        """Corners (3,), (3,) in mm of the box around one piece."""
        radius = max(self.start_radius[piece], self.end_radius[piece])
        ends = np.stack([self.start[piece], self.end[piece]])
        return ends.min(axis=0) - radius, ends.max(axis=0) + radius

    def only(self, keep: NDArray[np.bool_]) -> Tubes:
        """The pieces for which `keep` (N,) is true."""
        return Tubes(
            start=self.start[keep],
            end=self.end[keep],
            start_radius=self.start_radius[keep],
            end_radius=self.end_radius[keep],
            level=self.level[keep],
            line=self.line[keep],
        )


class TubeBuilder:
    """Collects polylines and turns them into `Tubes`."""

    def __init__(self) -> None:
        self._pieces: list[tuple[NDArray, NDArray, float, float, int, int]] = []
        self._lines = 0

    def add(self, points: list[NDArray], radii: list[float], level: int) -> int:
        """Add a polyline through points (3,) mm with a radius at each; returns its number."""
        line = self._lines
        self._lines += 1
        for step in range(len(points) - 1):
            self._pieces.append(
                (points[step], points[step + 1], radii[step], radii[step + 1], level, line)
            )
        return line

    def add_curve(self, points: list[NDArray], radii: tuple[float, float], level: int) -> int:
        """Add a smooth curve through all points, its radius running linearly along it."""
        smooth = catmull_rom(points)
        return self.add(smooth, list(np.linspace(*radii, len(smooth))), level)

    def build(self) -> Tubes:
        """All pieces; empty arrays if nothing was added."""
        if not self._pieces:
            none = np.zeros((0, 3))
            flat = np.zeros(0)
            whole = np.zeros(0, np.int64)
            return Tubes(
                start=none, end=none, start_radius=flat, end_radius=flat, level=whole, line=whole
            )
        start, end, first, second, level, line = zip(*self._pieces, strict=True)
        return Tubes(
            start=np.array(start, float),
            end=np.array(end, float),
            start_radius=np.array(first, float),
            end_radius=np.array(second, float),
            level=np.array(level, np.int64),
            line=np.array(line, np.int64),
        )


def catmull_rom(points: list[NDArray], steps: int = 3) -> list[NDArray]:
    """Points on a smooth curve through all given points, `steps` pieces between neighbours."""
    if len(points) < 3:
        return points
    padded = [2 * points[0] - points[1], *points, 2 * points[-1] - points[-2]]
    curve = []
    for before, here, there, after in zip(padded, padded[1:], padded[2:], padded[3:], strict=False):
        for step in range(steps):
            t = step / steps
            curve.append(
                0.5
                * (
                    2 * here
                    + (there - before) * t
                    + (2 * before - 5 * here + 4 * there - after) * t**2
                    + (3 * here - before - 3 * there + after) * t**3
                )
            )
    return [*curve, points[-1]]


def tube_distance(z: NDArray, y: NDArray, x: NDArray, tubes: Tubes, piece: int) -> Floats:
    """Distance to one piece of a tube with round ends; the arrays broadcast, mm."""
    start, end = tubes.start[piece], tubes.end[piece]
    along = (end - start).astype(np.float32)
    dz, dy, dx = (axis - np.float32(origin) for axis, origin in zip((z, y, x), start, strict=True))
    length2 = np.float32(max(float(along @ along), 1e-9))
    t = np.clip((dz * along[0] + dy * along[1] + dx * along[2]) / length2, 0, 1)
    square = np.square(dz - t * along[0])
    square += np.square(dy - t * along[1])
    square += np.square(dx - t * along[2])
    first, second = tubes.start_radius[piece], tubes.end_radius[piece]
    result: Floats = np.sqrt(square) - (np.float32(first) + t * np.float32(second - first))
    return result


def sphere_points(count: int) -> NDArray[np.float64]:
    """Evenly spread unit vectors (count, 3) on the sphere (Fibonacci spiral)."""
    index = np.arange(count) + 0.5
    height = 1 - 2 * index / count
    angle = index * np.pi * (1 + 5**0.5)
    ring = np.sqrt(1 - height**2)
    return np.stack([height, ring * np.cos(angle), ring * np.sin(angle)], axis=1)
