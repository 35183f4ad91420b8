"""How long and how wide a branch of a vessel is.

Length: of the centerline, smoothed, since a way from voxel to voxel is up to an eighth too long.
Radius: that of a round tube which holds the voxels nearest to the centerline, sqrt(V / (pi L)): the
voxels of a 2 mm vessel are too coarse to read a radius off one cross-section. The part of the
centerline within the vessel that the branch leaves, and the last radius before its end, do not count.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

SMOOTHING = 2.0  # points, standard deviation


def smooth_path(path: NDArray) -> NDArray[np.float64]:
    """A way (K, 3) from voxel to voxel as a smooth line of as many points, its ends where they were."""
    if len(path) < 3:
        return path.astype(float)
    # mirrored at the ends, and turned round there, so that a straight line stays one
    extra = min(len(path) - 1, 8)
    before = 2 * path[0] - path[extra:0:-1]
    after = 2 * path[-1] - path[-2 : -extra - 2 : -1]
    whole = gaussian_filter1d(np.concatenate([before, path, after]), SMOOTHING, axis=0)
    result: NDArray[np.float64] = whole[extra : extra + len(path)]
    return result


def arc(path: NDArray) -> NDArray[np.float64]:
    """(K,) mm along a way from its first point."""
    steps = np.linalg.norm(np.diff(path, axis=0), axis=1)
    return np.concatenate([[0.0], np.cumsum(steps)])


def tube_radius(path: NDArray, volumes: NDArray, inside_mm: float, wall_mm: float) -> float:
    """Radius in mm of a branch.

    Args:
        path: (K, 3) smooth centerline from the fork that the branch leaves.
        volumes: (K,) mm3 of the vessel's voxels that are nearest to each point.
        inside_mm: Radius of the vessel that the branch leaves; 0 at a root.
        wall_mm: Distance from the centerline to the wall: the answer for branches too short to say.
    """
    way = arc(path)
    weights = np.zeros(len(path))  # the length that each point stands for
    steps = np.diff(way)
    weights[:-1] += steps / 2
    weights[1:] += steps / 2
    used = (way > inside_mm) & (way < way[-1] - wall_mm)
    if inside_mm == 0:  # a root's first voxels include what lies before it
        used &= way > wall_mm
    length = float(weights[used].sum())
    if np.count_nonzero(used) < 3 or length <= 0:
        return wall_mm
    return float(np.sqrt(volumes[used].sum() / (np.pi * length)))
