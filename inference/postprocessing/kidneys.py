"""There are at most two kidneys."""

from __future__ import annotations

import cc3d
import numpy as np
from numpy.typing import NDArray

from renalplan.inference.postprocessing.scene import Scene
from renalplan.pieces import number_pieces
from renalplan.postprocessing import AtMostTwoKidneys


def surplus(labels: NDArray, scene: Scene, rule: AtMostTwoKidneys) -> NDArray[np.bool_]:
    """Voxels of kidney and its lesions beyond the largest pieces.

    Kidney and lesions are one mask, so a tumor does not cut a kidney in two; a piece without kidney
    tissue is no kidney, and another rule's business. Voxels are connected by faces, edges, corners.

    Args:
        labels: (z, y, x).
        scene: Around them.
        rule: How many pieces stay.
    """
    organ = np.isin(labels, scene.roles.organ)
    pieces = number_pieces(organ)
    sizes = cc3d.statistics(pieces)["voxel_counts"].astype(np.int64)
    kidneys = np.unique(pieces[np.isin(labels, scene.roles.kidney)])
    by_size = kidneys[np.argsort(-sizes[kidneys], kind="stable")]  # of equal ones, the first stays
    gone = np.zeros(len(sizes), bool)
    gone[by_size[rule.at_most :]] = True
    result: NDArray[np.bool_] = gone[pieces]
    return result
