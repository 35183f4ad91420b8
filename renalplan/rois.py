"""Regions of interest of a fixed size, one a kidney, as BiSC-UNet cuts them.

Training and prediction cut them by this one rule: around a piece's centre, 160 voxels of 0.78 mm in
plane (192 if the piece is wider), along z the next multiple of 16 above the piece's extent.

Sources:
    [BiSC] BiSC-UNet, sections 2.2 and 3.2. Its sizes are kept in mm (125 and 150), so that a plan of
    another spacing sees the same anatomy.
"""

from __future__ import annotations

from math import ceil, floor

import numpy as np
from numpy.typing import NDArray

from renalplan.geometry import Box, Shape, Spacing, box_shape, grow_box, margin_voxels
from renalplan.regions import Piece, find_pieces

IN_PLANE_MM = (125.0, 150.0)  # 160 and 192 voxels of 0.78125 mm
MULTIPLE = 16  # voxels; every side is a multiple of it
MOST_KIDNEYS = 2
ROUNDING = 1e-6  # voxels; 48 voxels of 0.7 mm are 47.999… of them when divided again


def roi_shape(extent_mm: Spacing, spacing: Spacing, slice_axis: int = 0) -> Shape:
    """Voxels of the region of interest of a piece this large.

    Args:
        extent_mm: The piece along each axis.
        spacing: Of the stage, mm along the same axes.
        slice_axis: The axis across the slices; the others lie in plane.
    """
    in_plane = [a for a in range(3) if a != slice_axis]
    widest = max(extent_mm[a] for a in in_plane)
    edge = next((mm for mm in IN_PLANE_MM if mm >= widest), widest)

    def voxels(axis: int) -> int:
        if axis == slice_axis:
            return _multiple_above(floor(extent_mm[axis] / spacing[axis] + ROUNDING) + 1)
        holding = _multiple_above(ceil(widest / spacing[axis] - ROUNDING))
        return max(holding, round(edge / spacing[axis] / MULTIPLE) * MULTIPLE)

    return voxels(0), voxels(1), voxels(2)


def roi_box(
    piece: Box,
    spacing: Spacing,
    stage_spacing: Spacing,
    within: Box,
    slice_axis: int = 0,
    least: Shape = (1, 1, 1),
) -> Box:
    """The region of interest around a piece, moved (or cut) to lie within bounds.

    Args:
        piece: The kidney's box, voxels.
        spacing: mm of these voxels.
        stage_spacing: mm of the stage that will look into it, which decides its size.
        within: Bounds, voxels; where the region is larger than they are, it is cut to them.
        slice_axis: The axis across the slices.
        least: The stage's window, voxels at its spacing: in a smaller region it would see nothing
            where there is something.
    """
    extents = box_shape(piece)
    extent_mm: Spacing = tuple(n * s for n, s in zip(extents, spacing, strict=True))  # type: ignore[assignment]
    wanted = roi_shape(extent_mm, stage_spacing, slice_axis)
    sides = []
    for axis in range(3):
        (a, b), (low, high) = piece[axis], within[axis]
        # rounded down, so that the stage sees no voxel more than a whole window; never cut a kidney
        seen = max(wanted[axis], least[axis])
        size = max(b - a, floor(seen * stage_spacing[axis] / spacing[axis] + ROUNDING))
        start = floor((a + b - size) / 2)
        start = max(low, min(start, high - size))
        sides.append((start, min(high, start + size)))
    return tuple(sides)  # type: ignore[return-value]


def largest_pieces(mask: NDArray[np.bool_], spacing: Spacing, minimum_ml: float) -> list[Piece]:
    """The at most two largest pieces of a mask, largest first; a solitary kidney is one."""
    pieces = find_pieces(mask, spacing, minimum_ml)
    return sorted(pieces, key=lambda piece: -piece.ml)[:MOST_KIDNEYS]


def kidney_rois(
    mask: NDArray[np.bool_],
    spacing: Spacing,
    stage_spacing: Spacing,
    *,
    margin_mm: float,
    minimum_ml: float,
    least: Shape = (1, 1, 1),
) -> list[Box]:
    """Regions of interest of the kidneys in a canonical (z, y, x) mask; they may overlap.

    Args:
        mask: Kidney and tumor against rest.
        spacing: mm along (z, y, x).
        stage_spacing: mm along (z, y, x) of the stage that will look into them.
        margin_mm: How far beyond a kidney its region may reach: what training has stored.
        minimum_ml: Smaller pieces are no kidney, unless there is no larger one.
        least: See `roi_box`.
    """
    margin = margin_voxels(margin_mm, spacing)
    return [
        roi_box(
            piece.box,
            spacing,
            stage_spacing,
            grow_box(piece.box, margin, mask.shape),
            least=least,
        )
        for piece in largest_pieces(mask, spacing, minimum_ml)
    ]


def _multiple_above(voxels: int) -> int:
    return -(-voxels // MULTIPLE) * MULTIPLE
