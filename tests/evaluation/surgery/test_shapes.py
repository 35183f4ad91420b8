"""Volumes, diameters, areas, contact and margins of balls, ellipsoids and planes."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from renalplan.evaluation.surgery.frame import Frame
from renalplan.evaluation.surgery.mesh import face_points, largest_distance, make_mesh
from renalplan.evaluation.surgery.outline import make_outline
from renalplan.evaluation.surgery.position import contact_area, gap_mm
from renalplan.evaluation.surgery.resection import resect
from renalplan.evaluation.surgery.shape import measure_shape
from renalplan.geometry import Orientation

SPACINGS = [(1.0, 1.0, 1.0), (1.0, 0.7, 0.7), (3.0, 0.8, 0.8)]
TURNS = [None, Rotation.from_euler("xyz", (25, -35, 50), degrees=True)]


def canonical(labels, grid):  # type: ignore[no-untyped-def]
    orientation = Orientation.of(grid)
    return np.ascontiguousarray(orientation.apply(labels)), Frame.of(grid)


@pytest.mark.parametrize("turned", TURNS, ids=["straight", "turned"])
@pytest.mark.parametrize("spacing", SPACINGS)
def test_an_ellipsoid_has_its_volume_diameters_and_area(drawing, spacing, turned) -> None:  # type: ignore[no-untyped-def]
    drawing.ellipsoid("tumor", (3, -2, 5), (18, 14, 22))
    labels, frame = canonical(*drawing.scan((-20, -20, -22), (26, 16, 32), spacing, turned))
    shape = measure_shape(labels == 2, make_mesh(labels == 2, frame.spacing), frame)
    thick = max(spacing)
    assert shape.volume.value == pytest.approx(4 / 3 * np.pi * 18 * 14 * 22 / 1000, rel=0.01)
    # Thomsen's formula for the area of an ellipsoid is right to 1 %
    a, b, c = 18**1.6075, 14**1.6075, 22**1.6075
    area = 4 * np.pi * ((a * b + a * c + b * c) / 3) ** (1 / 1.6075)
    assert shape.surface.value == pytest.approx(area, rel=0.025)
    assert shape.diameter.value == pytest.approx(44, abs=0.6 * thick)
    assert shape.axial_diameter.value == pytest.approx(36, abs=0.6 * thick)  # in x, at its widest
    assert shape.sphericity.value == pytest.approx(
        (36 * np.pi * (4 / 3 * np.pi * 18 * 14 * 22) ** 2) ** (1 / 3) / area, rel=0.03
    )


def test_a_ball_is_as_round_as_can_be(drawing) -> None:  # type: ignore[no-untyped-def]
    drawing.ball("tumor", (0, 0, 0), 15)
    labels, frame = canonical(*drawing.scan((-18,) * 3, (18,) * 3, (1.0, 0.8, 0.8)))
    shape = measure_shape(labels == 2, make_mesh(labels == 2, frame.spacing), frame)
    assert shape.sphericity.value == pytest.approx(1, abs=0.02)


def test_a_mesh_encloses_its_voxels_and_its_normals_point_out(drawing) -> None:  # type: ignore[no-untyped-def]
    drawing.ball("tumor", (4, 0, 0), 12)
    labels, frame = canonical(*drawing.scan((-12, -16, -16), (20, 16, 16), (2.0, 1.0, 1.0)))
    mesh = make_mesh(labels == 2, frame.spacing)
    assert mesh.volume_ml == pytest.approx((labels == 2).sum() * 2 / 1000, rel=0.02)
    away = frame.to_lps(mesh.centres) - (4, 0, 0)
    assert ((away @ frame.axes) * mesh.normals).sum(axis=1).min() > 0


def test_the_largest_distance_of_few_points() -> None:
    assert largest_distance(np.array([[0.0, 0, 0]])) == 0
    assert largest_distance(np.array([[0.0, 0, 0], [3, 4, 0], [3, 0, 0]])) == 5  # in one plane


def test_masks_that_touch_have_no_gap(drawing) -> None:  # type: ignore[no-untyped-def]
    drawing.box("tumor", (0, 0, 0), (8, 8, 8))
    drawing.box("renal_vein", (8, 0, 0), (12, 8, 8))
    labels, frame = canonical(*drawing.scan((-4,) * 3, (16,) * 3, (1.0, 0.5, 0.5)))
    tumor, vein = (face_points(labels == value, frame.spacing) for value in (2, 4))
    shared = {tuple(point) for point in tumor.round(6)} & {tuple(p) for p in vein.round(6)}
    assert len(shared) * 0.5 == pytest.approx(8 * 8, rel=0.05)


@pytest.mark.parametrize("gap", [2.0, 6.5, 15.0])
def test_the_gap_between_two_balls(drawing, gap) -> None:  # type: ignore[no-untyped-def]
    drawing.ball("tumor", (0, 0, 0), 10)
    drawing.ball("renal_sinus", (0, 16 + gap, 0), 6)
    labels, frame = canonical(*drawing.scan((-12, -12, -12), (12, 40, 12), (1.0, 0.8, 0.8)))
    meshes = [make_mesh(labels == value, frame.spacing) for value in (2, 5)]
    assert gap_mm(meshes[0], meshes[1].vertices) == pytest.approx(gap, abs=0.5)


@pytest.mark.parametrize("turned", TURNS, ids=["straight", "turned"])
@pytest.mark.parametrize("depth", [9.0, 15.0, 24.0])
def test_a_ball_in_a_plane_touches_it_with_its_cap(drawing, depth, turned) -> None:  # type: ignore[no-untyped-def]
    """Hsieh's 2 pi r d is exact for a ball in a flat kidney."""
    drawing.box("kidney", (-40, -40, -40), (40, 40, 0))
    drawing.ball("tumor", (0, 0, 15 - depth), 15)
    labels, frame = canonical(*drawing.scan((-18, -18, -28), (18, 18, 24), (1.0, 0.8, 0.8), turned))
    tumor = labels == 2
    contact = contact_area(make_mesh(tumor, frame.spacing), tumor, labels == 1, frame)
    assert contact == pytest.approx(2 * np.pi * 15 * depth, rel=0.05)


def test_nothing_touches_without_parenchyma(drawing) -> None:  # type: ignore[no-untyped-def]
    drawing.ball("tumor", (0, 0, 0), 10)
    labels, frame = canonical(*drawing.scan((-8,) * 3, (12,) * 3, (1.0, 1.0, 1.0)))
    tumor = labels == 2  # cut by the scan's border as well
    assert contact_area(make_mesh(tumor, frame.spacing), tumor, labels == 1, frame) == 0


def test_depth_below_a_balls_outline(drawing) -> None:  # type: ignore[no-untyped-def]
    drawing.ball("kidney", (0, 0, 0), 25)
    labels, frame = canonical(*drawing.scan((-28,) * 3, (28,) * 3, (1.0, 1.0, 1.0)))
    outline = make_outline(make_mesh(labels == 1, frame.spacing), None, frame.spacing)
    points = frame.to_array(np.array([[0.0, 0, 0], [15, 0, 0], [0, 0, 30], [0, 25, 0]]))
    assert outline.depth(points) == pytest.approx([25, 10, -5, 0], abs=0.6)
    assert outline.volume_ml == pytest.approx(4 / 3 * np.pi * 25**3 / 1000, rel=0.03)
    assert frame.to_lps(outline.centre) == pytest.approx(np.zeros(3), abs=0.2)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.0, 0.8, 0.8)])
def test_a_margin_around_a_ball_is_a_shell(drawing, spacing) -> None:  # type: ignore[no-untyped-def]
    drawing.box("kidney", (-50,) * 3, (50,) * 3)
    drawing.ball("tumor", (0, 0, 0), 10)
    labels, frame = canonical(*drawing.scan((-28,) * 3, (28,) * 3, spacing))
    tumor, rest = labels == 2, labels == 1
    found = resect(make_mesh(tumor, frame.spacing), rest, frame, (0.0, 5.0, 10.0))
    before = rest.sum() * frame.voxel_ml
    for resection in found:
        shell = 4 / 3 * np.pi * ((10 + resection.margin_mm) ** 3 - 10**3) / 1000
        rim = 4 / 3 * np.pi * ((15 + resection.margin_mm) ** 3 - 10**3) / 1000
        assert resection.removed.value == pytest.approx(shell, rel=0.03)
        assert resection.remaining.value == pytest.approx(before - shell, rel=0.01)
        assert resection.remaining_share.value == pytest.approx(1 - shell / before, abs=0.005)
        assert resection.remaining_after_suture.value == pytest.approx(1 - rim / before, abs=0.008)
