"""How large and how round a tumor is.

Sources:
    Wadell 1935, "Volume, shape, and roundness of quartz particles": sphericity.
    methods.md, section 5: the largest diameter in 3-D and the one radiologists report, in axial slices.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from renalplan.evaluation.surgery.frame import UP, Frame
from renalplan.evaluation.surgery.mesh import Mesh, largest_distance
from renalplan.evaluation.surgery.numbers import ML, MM, MM2, RATIO, Number, measured
from renalplan.files import Record

PLANES = 64  # axial planes through a tumor that are measured


class Shape(Record):
    """Size and shape of one tumor.

    Attributes:
        volume: Voxels times voxel volume.
        diameter: The largest distance between two points of its surface.
        axial_diameter: The largest such distance within one axial plane of the patient.
        surface: Area.
        sphericity: 1 for a ball, less for anything else.
    """

    volume: Number
    diameter: Number
    axial_diameter: Number
    surface: Number
    sphericity: Number


def measure_shape(mask: NDArray[np.bool_], mesh: Mesh, frame: Frame) -> Shape:
    """Measure a tumor.

    Args:
        mask: (z, y, x), not empty.
        mesh: Its surface.
        frame: Where the array lies in the patient.
    """
    volume = float(np.count_nonzero(mask)) * frame.voxel_ml
    return Shape(
        volume=measured(volume, ML),
        diameter=measured(largest_distance(mesh.vertices), MM),
        axial_diameter=measured(axial_diameter(mesh, frame), MM),
        surface=measured(mesh.area_mm2, MM2),
        sphericity=measured(sphericity(volume, mesh.area_mm2), RATIO),
    )


def sphericity(volume_ml: float, area_mm2: float) -> float:
    """Area of the ball of the same volume over the area: (36 pi V^2)^(1/3) / A."""
    return float(np.cbrt(36 * np.pi * (volume_ml * 1000) ** 2) / area_mm2)


def axial_diameter(mesh: Mesh, frame: Frame) -> float:
    """The largest distance in mm between two points of a surface in one axial plane of the patient.

    The mesh is cut by planes, so that it does not matter how the scan's slices are tilted.
    """
    points = frame.to_lps(mesh.vertices)
    height = points @ UP
    edges = np.concatenate([mesh.triangles[:, [i, (i + 1) % 3]] for i in range(3)])
    edges = edges[edges[:, 0] < edges[:, 1]]  # each edge once; a closed mesh has both directions
    low, high = height[edges].min(axis=1), height[edges].max(axis=1)
    largest = 0.0
    for level in np.linspace(height.min(), height.max(), PLANES + 2)[1:-1]:
        cut = edges[(low <= level) & (high > level)]
        first, second = points[cut[:, 0]], points[cut[:, 1]]
        share = (level - height[cut[:, 0]]) / (height[cut[:, 1]] - height[cut[:, 0]])
        crossing = first + share[:, None] * (second - first)
        largest = max(largest, largest_distance(crossing[:, :2]))
    return largest
