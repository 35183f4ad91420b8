"""Measured on voxels, a phantom's tumor is what it was before any voxel existed."""

from __future__ import annotations

import numpy as np
import pytest

from renalplan.evaluation.surgery.frame import Frame
from renalplan.evaluation.surgery.mesh import make_mesh
from renalplan.evaluation.surgery.position import contact_area
from renalplan.evaluation.surgery.shape import measure_shape
from renalplan.phantom.anatomy import draw_patient


@pytest.mark.parametrize("index", [0, 2, 3, 5])
@pytest.mark.parametrize("spacing", [(0.8, 0.8, 0.8), (2.0, 0.7, 0.7)])
def test_a_phantoms_tumor(index: int, spacing: tuple[float, float, float]) -> None:
    patient = draw_patient(0, index)
    tumor = patient.tumors[0]
    kidney = next(one for one in patient.kidneys if one.side == tumor.side)
    reach = tumor.reach_mm + 4
    axes = [
        (np.arange(-reach, reach, step) + centre).astype(np.float32)
        for step, centre in zip(spacing, tumor.centre, strict=True)
    ]
    points = np.meshgrid(*axes, indexing="ij")
    mask = tumor.distance(*points) < 0
    parenchyma = (kidney.parenchyma_distance(*kidney.bean(*points)) < 0) & ~mask
    frame = Frame.plain(spacing)
    mesh = make_mesh(mask, spacing)
    shape = measure_shape(mask, mesh, frame)
    assert shape.volume.value == pytest.approx(tumor.volume_ml, rel=0.02)
    assert shape.diameter.value == pytest.approx(tumor.diameter_mm, abs=0.6 * max(spacing))
    # the truth counts evenly spread directions; here it is area
    share = contact_area(mesh, mask, parenchyma, frame) / mesh.area_mm2
    assert share == pytest.approx(tumor.contact, abs=0.06)
