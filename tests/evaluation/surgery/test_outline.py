"""The kidney's former outline, on bodies whose intact surface is known: small and large tumors, everywhere."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from renalplan.evaluation.surgery import outline
from renalplan.evaluation.surgery.capsule import estimate_reach
from renalplan.evaluation.surgery.frame import Frame
from renalplan.evaluation.surgery.mesh import make_mesh
from renalplan.evaluation.surgery.outline import Outline, make_outline
from renalplan.geometry import Orientation
from renalplan.phantom.shapes import sphere_points

SEMI = np.array([26.0, 28.0, 54.0])  # half axes of the intact kidney, LPS mm
TURN = Rotation.from_euler("xyz", (20, -15, 35), degrees=True)
# where it grows, its radius, and how far its middle lies outside the surface, in radii
TUMORS = [
    (direction, radius, out)
    for direction in ((1, 0, 0), (0.2, 0, 1), (0.7, 0.4, 1))
    for radius in (10.0, 18.0, 30.0)
    for out in (-0.7, -0.2, 0.5)
]
WORST, TYPICAL = 0.2, 0.06  # docs/surgery.md
Inside = NDArray[np.bool_]


def place(direction: tuple[float, float, float], radius: float, out: float) -> NDArray:
    """The tumor's middle: over the kidney's surface in a direction, along the normal."""
    foot = np.array(direction) / np.linalg.norm(np.array(direction) / SEMI)
    normal = foot / SEMI**2
    return foot + out * radius * normal / np.linalg.norm(normal)


def true_share(centre: NDArray, radius: float) -> float:
    """Of a ball outside the intact ellipsoid, from random points."""
    points = np.random.default_rng(0).uniform(-1, 1, (60_000, 3))
    points = points[(points**2).sum(axis=1) < 1] * radius + centre
    return float((((points / SEMI) ** 2).sum(axis=1) > 1).mean())


def draw(drawing, centre, radius, turned=None, spacing=(2.0, 2.0, 2.0)):  # type: ignore[no-untyped-def]
    """Labels and frame of the kidney with one tumor, which takes the place of the parenchyma."""
    drawing.bodies.clear()
    drawing.ellipsoid("kidney", (0, 0, 0), tuple(SEMI))
    drawing.ball("tumor", tuple(centre), radius)
    low = np.minimum(-SEMI, centre - radius) - 4
    high = np.maximum(SEMI, centre + radius) + 4
    labels, grid = drawing.scan(tuple(low), tuple(high), spacing, turned)
    return np.ascontiguousarray(Orientation.of(grid).apply(labels)), Frame.of(grid)


def outline_of(labels: NDArray, frame: Frame, further: float = 0.0) -> Outline:
    mesh = make_mesh(labels == 1, frame.spacing)
    return make_outline(mesh, labels == 2, frame.spacing, further)


def share(labels: NDArray, frame: Frame, further: float = 0.0) -> float:
    voxels = np.argwhere(labels == 2) * frame.spacing
    return float((outline_of(labels, frame, further).depth(voxels) < 0).mean())


def test_the_exophytic_share_over_sizes_places_and_depths(drawing) -> None:  # type: ignore[no-untyped-def]
    errors, plain = [], []
    for direction, radius, out in TUMORS:
        centre = place(direction, radius, out)
        labels, frame = draw(drawing, centre, radius)
        true = true_share(centre, radius)
        errors.append(share(labels, frame) - true)
        hull = make_outline(make_mesh(labels == 1, frame.spacing), None, frame.spacing)
        voxels = np.argwhere(labels == 2) * frame.spacing
        plain.append((hull.depth(voxels) < 0).mean() - true)
    assert np.abs(errors).max() < WORST
    assert np.sqrt(np.mean(np.square(errors))) < TYPICAL
    # and the plain hull, which it replaces, is far worse
    assert np.sqrt(np.mean(np.square(plain))) > 1.7 * np.sqrt(np.mean(np.square(errors)))


def test_it_is_the_same_for_a_turned_scan_and_lies_between_its_own_bounds(drawing) -> None:  # type: ignore[no-untyped-def]
    centre = place((0.2, 0, 1), 20.0, -0.2)
    fine = (1.5, 1.2, 1.2)
    straight = draw(drawing, centre, 20.0, spacing=fine)
    turned = draw(drawing, centre, 20.0, TURN, fine)
    assert share(*turned) == pytest.approx(share(*straight), abs=0.02)
    further, nearer = share(*straight, further=1.0), share(*straight, further=-1.0)
    assert further < share(*straight) < nearer
    assert further < true_share(centre, 20.0) < nearer


def test_a_tumor_within_the_kidney_leaves_its_outline_as_it_is(drawing) -> None:  # type: ignore[no-untyped-def]
    labels, frame = draw(drawing, np.array([4.0, 0, 10]), 16.0)
    assert share(labels, frame) == 0
    whole = make_outline(make_mesh(labels > 0, frame.spacing), None, frame.spacing)
    found = outline_of(labels, frame)
    # a mesh with a hole keeps its volume a third of a millimetre further in
    assert found.volume_ml == pytest.approx(whole.volume_ml, rel=0.03)
    assert found.centre == pytest.approx(whole.centre, abs=0.3)


def test_an_ellipsoid_is_carried_on_where_nothing_is_known() -> None:
    directions = sphere_points(400)
    reach = np.linalg.norm(directions * SEMI, axis=1)
    known = directions[:, 2] < 0.6  # not its upper pole
    surface = directions * SEMI
    found = estimate_reach(directions[known], reach[known], directions[~known], surface[known])
    assert found is not None
    assert np.abs(found.likely - reach[~known]).max() < 2.5
    # what lies farther from all that is known is less sure
    assert np.corrcoef(directions[~known][:, 2], found.spread)[0, 1] > 0.9
    assert estimate_reach(directions[:5], reach[:5], directions[~known], surface) is None


def test_it_does_not_matter_where_the_directions_lie(drawing, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """They turn with the scan's axes; this kidney has a hilum, and stairs as slices of 4.5 mm leave them."""
    drawing.ellipsoid("kidney", (0, 0, 0), (26, 22, 48))
    drawing.bodies.append((0, lambda p: (((p - (26, 0, 0)) / (18, 30, 16)) ** 2).sum(axis=1) < 1))
    drawing.ball("tumor", (20, -8, 28), 12)
    labels, grid = drawing.scan((-40, -40, -64), (44, 40, 64), (4.5, 1.5, 1.5))
    labels = np.ascontiguousarray(Orientation.of(grid).apply(labels)).repeat(3, axis=0)
    spacing = (1.5, 1.5, 1.5)
    kidney, tumor = (make_mesh(labels == value, spacing) for value in (1, 2))
    depths = []
    for number in range(4):
        turn = Rotation.random(random_state=number).as_matrix()
        monkeypatch.setattr(outline, "sphere_points", lambda n, turn=turn: sphere_points(n) @ turn)
        depths.append(make_outline(kidney, labels == 2, spacing).depth(tumor.vertices).max())
    assert np.ptp(depths) < 0.01 * np.mean(depths)
