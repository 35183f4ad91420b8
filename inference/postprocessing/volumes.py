"""Pieces too small to be true."""

from __future__ import annotations

import cc3d
import numpy as np
from numpy.typing import NDArray

from renalplan.inference.postprocessing.scene import Scene
from renalplan.pieces import number_pieces
from renalplan.postprocessing import MinimumVolume

ROUNDING = 1e-9  # a piece of exactly the volume stays, whatever the order of multiplication


def small(labels: NDArray, scene: Scene, rule: MinimumVolume) -> NDArray[np.bool_]:
    """Voxels of a structure's pieces (26 neighbours) below the volume.

    Args:
        labels: (z, y, x).
        scene: Around them.
        rule: Which structure, and how many ml stay.
    """
    mask = np.isin(labels, scene.scheme.foreground[rule.structure])
    pieces = number_pieces(mask)
    volumes = cc3d.statistics(pieces)["voxel_counts"] * float(np.prod(scene.spacing)) / 1000
    gone = volumes < rule.ml * (1 - ROUNDING)
    gone[0] = False
    result: NDArray[np.bool_] = gone[pieces]
    return result
