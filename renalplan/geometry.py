"""Where voxels are in the patient: grids, canonical orientation and its exact inverse, boxes.

Arrays are (z, y, x) everywhere; a `Grid` keeps the header in ITK's (x, y, z) order because that is
what goes back into the file untouched. World coordinates are LPS millimetres.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

Spacing = tuple[float, float, float]  # mm, in the order of the array's axes
Shape = tuple[int, int, int]
Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]  # half-open, per array axis


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A voxel grid in patient space, as an image file's header states it.

    Attributes:
        size: Voxels along the file's axes (i, j, k), i.e. ITK's x, y, z.
        spacing: mm along the same axes.
        origin: LPS mm of the first voxel's centre.
        direction: Row-major 3x3 cosines; column a is the direction of file axis a.
    """

    size: tuple[int, int, int]
    spacing: tuple[float, float, float]
    origin: tuple[float, float, float]
    direction: tuple[float, ...]

    @property
    def shape(self) -> Shape:
        """Array shape in the file's own axis order (k, j, i)."""
        return (self.size[2], self.size[1], self.size[0])

    def differences(self, other: Grid, tolerance_mm: float = 1e-3) -> list[str]:
        """What differs between two grids, each named with both values.

        Spacing and origin are compared in mm, direction cosines to 1e-4 (a tilt of 0.006 degrees
        moves a point 300 mm away by 0.03 mm, far below a voxel).
        """
        found = []
        if self.size != other.size:
            found.append(f"size {self.size} against {other.size} voxels")
        for name, tolerance in (("spacing", tolerance_mm), ("origin", 10 * tolerance_mm)):
            mine, theirs = getattr(self, name), getattr(other, name)
            if not np.allclose(mine, theirs, rtol=0, atol=tolerance):
                found.append(f"{name} {_round(mine)} against {_round(theirs)} mm")
        if not np.allclose(self.direction, other.direction, rtol=0, atol=1e-4):
            found.append(f"direction {_round(self.direction)} against {_round(other.direction)}")
        return found


def _round(values: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{value + 0.0:.4g}" for value in values) + ")"  # + 0.0: no "-0"


@dataclass(frozen=True)
class Orientation:
    """How a file's array turns into the canonical one: transpose, then flip. Exactly invertible.

    Canonical means: array axis 0 runs most nearly to the head (S), axis 1 to the back (P), axis 2 to
    the patient's left (L). Nothing is interpolated: oblique scans stay oblique.

    Attributes:
        order: Canonical axis a is the file array's axis `order[a]`.
        flipped: Whether canonical axis a runs against the file's axis.
    """

    order: tuple[int, int, int]
    flipped: tuple[bool, bool, bool]

    @classmethod
    def of(cls, grid: Grid) -> Orientation:
        """The orientation whose axes lie nearest to S, P, L (largest sum of |cosine|)."""
        cosines = np.asarray(grid.direction, float).reshape(3, 3)
        # world axis (S, P, L) = LPS rows (2, 1, 0); file array axes (k, j, i) = columns (2, 1, 0)
        table = cosines[::-1, ::-1]  # [world axis z,y,x ; array axis k,j,i]
        order = max(
            permutations(range(3)), key=lambda p: sum(abs(table[a, p[a]]) for a in range(3))
        )
        flipped = tuple(bool(table[a, order[a]] < 0) for a in range(3))
        return cls(order=order, flipped=flipped)  # type: ignore[arg-type]

    def apply(self, array: NDArray) -> NDArray:
        """File array (..., k, j, i) -> canonical (..., z, y, x); a view, nothing is copied."""
        lead = array.ndim - 3
        array = array.transpose(*range(lead), *(lead + a for a in self.order))
        return array[(..., *(slice(None, None, -1) if f else slice(None) for f in self.flipped))]

    def undo(self, array: NDArray) -> NDArray:
        """Canonical array (..., z, y, x) -> the file's own axis order and direction; a view."""
        lead = array.ndim - 3
        array = array[(..., *(slice(None, None, -1) if f else slice(None) for f in self.flipped))]
        return array.transpose(*range(lead), *(lead + int(a) for a in np.argsort(self.order)))

    def spacing(self, grid: Grid) -> Spacing:
        """Spacing in mm of the canonical array's axes (z, y, x)."""
        by_array_axis = grid.spacing[::-1]
        return tuple(by_array_axis[a] for a in self.order)  # type: ignore[return-value]

    def shape(self, grid: Grid) -> Shape:
        """Shape of the canonical array (z, y, x)."""
        return tuple(grid.shape[a] for a in self.order)  # type: ignore[return-value]


def laid_out(view: NDArray) -> NDArray:
    """A turned (z, y, x) array, in memory as its axes say; itself if it lies so already.

    NumPy copies in the order of one of the two arrays, and jumps through the other. Plane by plane
    of the axis that is the fastest of neither, both stay in the processor's cache: a third of the time.
    """
    if view.flags.c_contiguous:
        return view
    fastest = int(np.argmin(np.abs(view.strides)))
    result = np.empty(view.shape, view.dtype)
    if fastest == 2:
        np.copyto(result, view)
        return result
    between = 1 - fastest
    for source, target in zip(
        np.moveaxis(view, between, 0), np.moveaxis(result, between, 0), strict=True
    ):
        np.copyto(target, source)
    return result


def whole_box(shape: tuple[int, ...]) -> Box:
    """The box that holds every voxel of an array of this (z, y, x) shape."""
    return tuple((0, int(n)) for n in shape[-3:])  # type: ignore[return-value]


def box_shape(box: Box) -> Shape:
    """Number of voxels of a box along each axis."""
    return tuple(stop - start for start, stop in box)  # type: ignore[return-value]


def box_slices(box: Box) -> tuple[slice, slice, slice]:
    """A box as slices; index as `array[(..., *box_slices(box))]`."""
    return tuple(slice(start, stop) for start, stop in box)  # type: ignore[return-value]


def mask_box(mask: NDArray) -> Box | None:
    """Smallest box around the true voxels of a (z, y, x) mask, None if there are none."""
    bounds = []
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        hit = np.flatnonzero(mask.any(axis=others))
        if hit.size == 0:
            return None
        bounds.append((int(hit[0]), int(hit[-1]) + 1))
    return tuple(bounds)  # type: ignore[return-value]


def margin_voxels(margin_mm: float, spacing: Spacing) -> Shape:
    """Voxels along each axis that cover at least so many mm."""
    z, y, x = (int(np.ceil(margin_mm / s)) for s in spacing)
    return z, y, x


def grow_box(box: Box, margin: tuple[int, ...], shape: tuple[int, ...]) -> Box:
    """Widen a box by `margin` voxels on both sides of each axis, clipped to an array's shape."""
    return tuple(  # type: ignore[return-value]
        (max(0, start - grow), min(int(size), stop + grow))
        for (start, stop), grow, size in zip(box, margin, shape, strict=True)
    )


def boxes_overlap(first: Box, second: Box) -> bool:
    """Whether two half-open boxes share a voxel."""
    return all(a0 < b1 and b0 < a1 for (a0, a1), (b0, b1) in zip(first, second, strict=True))


def merge_overlapping(boxes: list[Box]) -> list[Box]:
    """Join boxes that share voxels until none do; order by position, so the result is unique."""
    merged: list[Box] = []
    for box in sorted(boxes):
        joined = True
        while joined:
            joined = False
            for other in merged:
                if boxes_overlap(box, other):
                    merged.remove(other)
                    box = tuple(  # type: ignore[assignment]
                        (min(a0, b0), max(a1, b1))
                        for (a0, a1), (b0, b1) in zip(box, other, strict=True)
                    )
                    joined = True
                    break
        merged.append(box)
    return sorted(merged)


def resampled_shape(shape: tuple[int, ...], spacing: Spacing, target: Spacing) -> Shape:
    """Voxels that cover the same extent at another spacing; at least one along each axis."""
    return tuple(  # type: ignore[return-value]
        max(1, round(old / new * size))
        for size, old, new in zip(shape, spacing, target, strict=True)
    )
