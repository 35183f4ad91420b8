"""Where a canonical array's voxels lie in the patient: array mm <-> LPS mm.

All measuring happens in "array mm": index times spacing, in the array's axis order (z, y, x). A scan
may be oblique, so what `up` and `front` are there follows from the grid's direction.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from renalplan.evaluation.space import canonical_grid
from renalplan.geometry import Box, Grid, Spacing

Point = tuple[float, float, float]  # LPS mm

LEFT, BACK, UP = np.eye(3)  # LPS unit vectors


@dataclass(frozen=True, eq=False)
class Frame:
    """A canonical array's place in the patient.

    Attributes:
        spacing: mm along (z, y, x).
        origin: (3,) LPS mm of the first voxel's centre.
        axes: (3, 3); column a is the LPS direction of array axis a.
    """

    spacing: Spacing
    origin: NDArray[np.float64]
    axes: NDArray[np.float64]

    @classmethod
    def of(cls, grid: Grid) -> Frame:
        """The frame of a file's array once it is canonical, see `geometry.Orientation`."""
        grid = canonical_grid(grid)
        columns = np.asarray(grid.direction, float).reshape(3, 3)
        return cls(grid.spacing[::-1], np.asarray(grid.origin, float), columns[:, ::-1])

    @classmethod
    def plain(cls, spacing: Spacing) -> Frame:
        """An upright array with its first voxel at the patient's origin."""
        return cls(spacing, np.zeros(3), np.eye(3)[:, ::-1])

    def cut(self, box: Box) -> Frame:
        """The frame of the array cut to a box."""
        start = np.array([low for low, _ in box]) * self.spacing
        return replace(self, origin=self.to_lps(start))

    def to_lps(self, points: NDArray) -> NDArray[np.float64]:
        """Array mm (..., 3) -> LPS mm (..., 3)."""
        result: NDArray[np.float64] = self.origin + points @ self.axes.T
        return result

    def to_array(self, points: NDArray) -> NDArray[np.float64]:
        """LPS mm (..., 3) -> array mm (..., 3)."""
        result: NDArray[np.float64] = (points - self.origin) @ self.axes
        return result

    def point(self, point: NDArray) -> Point:
        """One array point (3,) as LPS mm for the report, rounded to a tenth."""
        x, y, z = (round(float(value), 1) + 0.0 for value in self.to_lps(point))
        return x, y, z

    @property
    def voxel_ml(self) -> float:
        """Volume of a voxel."""
        return float(np.prod(self.spacing)) / 1000
