"""Windows of fixed size on a grid: sized in mm, centred on something, whole slices shrunk.

Training and prediction of the coarse-to-fine system cut and shrink by these same rules.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from renalplan.geometry import Box, Shape


def window_voxels(mm: float, spacing: float, multiple: int) -> int:
    """The multiple of `multiple` that is nearest to so many mm; at least one."""
    return max(1, round(mm / spacing / multiple)) * multiple


def window_start(centre: float, size: int, length: int) -> int:
    """Where a window of `size` begins on an axis of `length` voxels, around the centre.

    It is moved to lie inside; if the axis is shorter than the window, the axis lies in its middle
    and the start is negative.
    """
    if size >= length:
        return (length - size) // 2
    return min(max(round(centre - (size - 1) / 2), 0), length - size)


def window_box(centre: tuple[float, float, float], size: Shape, shape: Shape) -> Box:
    """The window around a position (voxel centres are whole numbers), cut to the array."""
    sides = []
    for position, n, length in zip(centre, size, shape, strict=True):
        start = window_start(position, n, length)
        sides.append((max(0, start), min(length, start + n)))
    return tuple(sides)  # type: ignore[return-value]


def at_least(box: Box, size: Shape, shape: Shape) -> Box:
    """A box widened, where it is narrower, to the window around its middle."""
    middle = tuple((a + b - 1) / 2 for a, b in box)
    window = window_box(middle, size, shape)  # type: ignore[arg-type]
    return tuple(  # type: ignore[return-value]
        (min(a, c), max(b, d)) for (a, b), (c, d) in zip(box, window, strict=True)
    )


def shrink_slices(slices: Tensor, pixels: int) -> Tensor:
    """Whole slices, padded to squares with zeros, at a fixed size.

    Args:
        slices: (slices, C, y, x) float32.
        pixels: Edge of the result.

    Returns:
        (slices, C, pixels, pixels). Shrinking averages (no aliasing), enlarging interpolates.
    """
    edge, (top, left) = _square(slices.shape[2], slices.shape[3])
    padding = (left, edge - slices.shape[3] - left, top, edge - slices.shape[2] - top)
    return F.interpolate(
        F.pad(slices, padding),
        size=(pixels, pixels),
        mode="bilinear",
        align_corners=False,
        antialias=True,
    )


def restore_slices(shrunk: Tensor, shape: tuple[int, int]) -> Tensor:
    """The inverse of `shrink_slices` for maps (slices, K, pixels, pixels): (slices, K, y, x)."""
    edge, (top, left) = _square(*shape)
    whole = F.interpolate(shrunk, size=(edge, edge), mode="bilinear", align_corners=False)
    return whole[:, :, top : top + shape[0], left : left + shape[1]]


def _square(height: int, width: int) -> tuple[int, tuple[int, int]]:
    """Edge of the square around a slice, and where the slice begins in it."""
    edge = max(height, width)
    return edge, ((edge - height) // 2, (edge - width) // 2)
