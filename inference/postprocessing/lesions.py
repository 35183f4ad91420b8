"""A tumor of the kidney touches a kidney."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from renalplan.inference.postprocessing.scene import Scene
from renalplan.lesions import connected_to
from renalplan.postprocessing import LesionsTouchKidney


def loose(labels: NDArray, scene: Scene, rule: LesionsTouchKidney) -> NDArray[np.bool_]:
    """Voxels of lesions that touch no kidney tissue by a face, an edge or a corner.

    Where there is no kidney tissue nothing is removed: a tumor may have replaced it all.

    Args:
        labels: (z, y, x).
        scene: Around them.
        rule: Has no parameters.
    """
    lesions = np.isin(labels, scene.roles.lesion)
    kidney = np.isin(labels, scene.roles.kidney)
    if not kidney.any():
        return np.zeros_like(lesions)
    return connected_to(lesions, kidney)[1]
