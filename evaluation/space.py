"""Whether two files lie on the same voxels, however each of them stores its axes.

Two grids count as the same if they agree after transposing and flipping into canonical orientation:
nothing is interpolated, so such a pair can be compared voxel by voxel.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from renalplan.errors import DatasetError
from renalplan.geometry import Grid, Orientation


def canonical_grid(grid: Grid) -> Grid:
    """The grid of the canonical (z, y, x) array, i.e. with file axes near L, P, S.

    Args:
        grid: A file's grid, its axes in any order and direction.

    Returns:
        The same voxels, in the order that `Orientation.apply` brings them into.
    """
    orientation = Orientation.of(grid)
    columns = np.asarray(grid.direction, float).reshape(3, 3).T
    # file axes (i, j, k) that become canonical x, y, z; array axis a is file axis 2 - a
    axes = [2 - a for a in orientation.order[::-1]]
    flipped = orientation.flipped[::-1]
    origin = np.asarray(grid.origin, float)
    directions = []
    for axis, flip in zip(axes, flipped, strict=True):
        if flip:  # the voxel that was last along this axis comes first
            origin = origin + columns[axis] * grid.spacing[axis] * (grid.size[axis] - 1)
        directions.append(-columns[axis] if flip else columns[axis])
    return Grid(
        size=tuple(grid.size[a] for a in axes),  # type: ignore[arg-type]
        spacing=tuple(grid.spacing[a] for a in axes),  # type: ignore[arg-type]
        origin=tuple(float(o) for o in origin),  # type: ignore[arg-type]
        direction=tuple(float(d) for d in np.stack(directions, axis=1).ravel()),
    )


def require_same_space(path: Path, grid: Grid, other_path: Path, other: Grid) -> None:
    """Check that two files' canonical arrays can be compared voxel by voxel.

    Raises:
        DatasetError: the grids differ; the sentence names both files and what differs.
    """
    if canonical_grid(grid).differences(canonical_grid(other)):
        # told in the files' own axes, as any viewer shows them
        differences = grid.differences(other)
        raise DatasetError(
            f"{path} does not lie on the grid of {other_path}: {'; '.join(differences)}. "
            "Resample one onto the other before comparing them."
        )
