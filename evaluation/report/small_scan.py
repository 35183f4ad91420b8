"""A scan and its labels -> the small copies that the page's viewer shows.

Cut to the kidneys, laid on an upright grid (the viewer's slices are then the patient's planes, however
the scan is tilted) as fine as the page's size allows. Only for looking: nothing is measured on them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from renalplan.evaluation.surgery.frame import Frame
from renalplan.geometry import Box, Grid, box_slices, grow_box, margin_voxels, mask_box
from renalplan.images import write_volume

MARGIN_MM = 30.0  # of surroundings
MOST_VOXELS = 3_000_000  # about
MOST_BYTES = 2_000_000  # of the compressed scan
COARSER = 1.15  # per attempt, if it has more
GREYS = 150  # intensities between black and white that are told apart
BEYOND = 0.5  # of the window, kept on both sides, so that a reader may move it


@dataclass(frozen=True, kw_only=True)
class SmallScan:
    """What the viewer loads.

    Attributes:
        image: A gzipped NIfTI file.
        labels: The same for labels: 0, or the structure's place in the order of names, from 1.
        spacing_mm: Of both, along all axes.
    """

    image: bytes
    labels: bytes
    spacing_mm: float


def shrink(
    image: NDArray,
    structures: NDArray,
    centre: NDArray[np.bool_],
    frame: Frame,
    window: tuple[float, float],
) -> SmallScan:
    """Make the small copies.

    Args:
        image: Canonical (z, y, x) intensities.
        structures: (z, y, x) place of the structure, from 1, or 0.
        centre: (z, y, x) what the part is cut around, not empty.
        frame: Where the arrays lie in the patient.
        window: Intensities shown black and white.
    """
    box = mask_box(centre)
    assert box is not None  # callers have structures
    box = grow_box(box, margin_voxels(MARGIN_MM, frame.spacing), image.shape)
    part, place = image[box_slices(box)].astype(np.float32), frame.cut(box)
    low, high = _corners(box, place)
    step = max(min(frame.spacing), float(np.prod(high - low) / MOST_VOXELS) ** (1 / 3))
    while True:
        grid = _upright(low, high, step)
        content = _packed(_greys(_laid(_blurred(part, place, step), place, grid, 1), window), grid)
        if len(content) <= MOST_BYTES:
            break
        step *= COARSER
    labels = _laid(structures[box_slices(box)], place, grid, 0)
    return SmallScan(image=content, labels=_packed(labels, grid), spacing_mm=step)


def _corners(box: Box, place: Frame) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Least and largest LPS mm of a part's voxel centres."""
    last = np.array([stop - start - 1 for start, stop in box]) * place.spacing
    corners = place.to_lps(np.array(np.meshgrid(*((0.0, end) for end in last))).reshape(3, -1).T)
    return corners.min(axis=0), corners.max(axis=0)


def _upright(low: NDArray, high: NDArray, step: float) -> Grid:
    size = np.floor((high - low) / step).astype(int) + 1
    return Grid(
        size=tuple(int(n) for n in size),  # type: ignore[arg-type]
        spacing=(step, step, step),
        origin=tuple(float(value) for value in low),  # type: ignore[arg-type]
        direction=(1, 0, 0, 0, 1, 0, 0, 0, 1),
    )


def _blurred(part: NDArray, place: Frame, step: float) -> NDArray:
    """Against aliasing: what the coarser grid cannot show goes."""
    coarser = [max(step / fine, 1.0) for fine in place.spacing]
    return ndimage.gaussian_filter(part, [0.4 * (ratio**2 - 1) ** 0.5 for ratio in coarser])


def _laid(part: NDArray, place: Frame, grid: Grid, order: int) -> NDArray:
    """A part resampled onto an upright grid; 0 order keeps labels, beyond the scan is its least value."""
    # index (z, y, x) on the grid -> LPS (x, y, z) -> index in the part
    to_index = place.axes.T / np.array(place.spacing)[:, None]
    matrix = to_index[:, ::-1] * grid.spacing[0]
    offset = to_index @ (np.array(grid.origin) - place.origin)
    return ndimage.affine_transform(
        part, matrix, offset, grid.shape, order=order, mode="constant", cval=part.min()
    )


def _greys(image: NDArray, window: tuple[float, float]) -> NDArray:
    """Fewer intensities: noise is most of what does not compress."""
    low, high = window
    room = BEYOND * (high - low)
    step = (high - low) / GREYS
    if step >= 1:
        step = round(step)
        return (np.round(np.clip(image, low - room, high + room) / step) * step).astype(np.int16)
    return (np.round(np.clip(image, low - room, high + room) / step) * step).astype(np.float32)


def _packed(array: NDArray, grid: Grid) -> bytes:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "small.nii.gz"
        write_volume(path, array, grid)
        return path.read_bytes()
