"""Meshes hold the volume of bodies whose volume is known, and lie where the bodies are, on any grid."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import trimesh
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from renalplan.evaluation.report.surfaces import make_surface
from renalplan.evaluation.surgery.frame import Frame
from renalplan.geometry import Grid

LOW, HIGH = (-45.0, -60.0, -70.0), (55.0, 40.0, 50.0)
TURN = Rotation.from_euler("xyz", (20, 35, -30), degrees=True)
FLIP = Rotation.from_matrix(np.diag([-1.0, -1.0, 1.0]))  # as RAS files are


def draw(shapes: SimpleNamespace, spacing, turned, *bodies) -> tuple[NDArray[np.bool_], Grid]:  # type: ignore[no-untyped-def]
    grid = shapes.grid_of(LOW, HIGH, spacing, turned)
    points = shapes.points_of(grid)
    return np.logical_or.reduce([body(points) for body in bodies]), grid


def surface_of(shapes: SimpleNamespace, mask: NDArray, grid: Grid, **options) -> trimesh.Trimesh:  # type: ignore[no-untyped-def]
    found = make_surface(shapes.canonical(mask, grid), Frame.of(grid), **options)
    assert found is not None
    return found


@pytest.mark.parametrize("turned", [None, TURN, FLIP], ids=["straight", "oblique", "flipped"])
@pytest.mark.parametrize("spacing", [(1.2, 1.2, 1.2), (3.0, 1.0, 1.0), (5.0, 0.9, 0.9)])
@pytest.mark.parametrize(
    "semi", [(30.0, 30.0, 30.0), (16.0, 24.0, 36.0)], ids=["ball", "ellipsoid"]
)
def test_volume_and_place_of_a_body(shapes, spacing, turned, semi) -> None:  # type: ignore[no-untyped-def]
    centre = (3.0, -9.0, -8.0)
    mask, grid = draw(shapes, spacing, turned, shapes.ball(centre, semi))
    surface = surface_of(shapes, mask, grid)
    true = 4 / 3 * np.pi * np.prod(semi)
    assert surface.is_watertight
    assert surface.volume == pytest.approx(true, rel=0.01)  # positive: it faces outwards
    assert surface.center_mass == pytest.approx(centre, abs=0.15)
    reach = np.abs(surface.vertices - centre).max(axis=0)
    # along the axes of a straight grid the ends lie between voxel centres
    assert reach == pytest.approx(semi, abs=0.6 * max(spacing))


@pytest.mark.parametrize("turned", [None, TURN], ids=["straight", "oblique"])
@pytest.mark.parametrize("spacing", [(1.25, 0.8, 0.8), (3.0, 0.8, 0.8)])
def test_a_thin_vessel_on_a_thick_one_stays_whole(shapes, spacing, turned) -> None:  # type: ignore[no-untyped-def]
    """Blurring alone would cut it off: the trunk's volume outweighs it."""
    tip = (42.0, -30.0, 20.0)
    trunk = shapes.tube((-20, 0, -60), (-20, 0, 40), 11.0)
    mask, grid = draw(shapes, spacing, turned, trunk, shapes.tube((-20, 0, 0), tip, 1.6))
    surface = surface_of(shapes, mask, grid)
    voxels = float(np.count_nonzero(mask) * np.prod(spacing))
    assert surface.volume == pytest.approx(voxels, rel=0.001)
    away = np.linalg.norm(surface.vertices - tip, axis=1).min()
    assert away < 1.6 + 1.5
    largest = max(surface.split(only_watertight=False), key=lambda part: len(part.faces))
    assert np.linalg.norm(largest.vertices - tip, axis=1).min() == pytest.approx(away)


def test_fewer_triangles_hold_the_same(shapes) -> None:  # type: ignore[no-untyped-def]
    mask, grid = draw(shapes, (1.0, 1.0, 1.0), None, shapes.ball((0, 0, 0), 30.0))
    whole, thinned = surface_of(shapes, mask, grid), surface_of(shapes, mask, grid, most=600)
    assert len(whole.faces) > 20 * 600
    assert len(thinned.faces) <= 600
    assert thinned.volume == pytest.approx(whole.volume, rel=0.001)
    assert thinned.area == pytest.approx(4 * np.pi * 30**2, rel=0.02)


def test_the_surface_is_smooth(shapes) -> None:  # type: ignore[no-untyped-def]
    """Around voxels it would have half as much again of a ball's area, and stairs of a voxel's height."""
    mask, grid = draw(shapes, (1.5, 1.0, 1.0), TURN, shapes.ball((0, 0, 0), 30.0))
    surface = surface_of(shapes, mask, grid)
    assert surface.area == pytest.approx(4 * np.pi * 30**2, rel=0.02)
    assert np.linalg.norm(surface.vertices, axis=1).std() < 0.15


def test_specks_have_no_surface() -> None:
    mask = np.zeros((9, 9, 9), bool)
    frame = Frame.plain((1, 1, 1))
    assert make_surface(mask, frame) is None
    mask[4, 4, 2:5] = True
    assert make_surface(mask, frame) is None


def test_a_body_at_the_border_of_the_scan_is_closed_there() -> None:
    mask = np.ones((12, 10, 8), bool)
    surface = make_surface(mask, Frame.plain((1, 1, 1)))
    assert surface is not None
    assert surface.is_watertight
    assert surface.volume == pytest.approx(12 * 10 * 8, rel=0.001)
