"""Distances, coverage, tubes, fields: values one can check by hand."""

import numpy as np
import pytest

from renalplan.phantom.canvas import Canvas, block_mean
from renalplan.phantom.fields import RandomField
from renalplan.phantom.shapes import (
    TubeBuilder,
    coverage,
    ellipsoid_distance,
    open_axes,
    sphere_points,
    superellipsoid_distance,
    tube_distance,
)
from renalplan.phantom.tissue import draw_values


def test_coverage_is_half_on_the_surface_and_linear_across_a_sample() -> None:
    distance = np.array([-2.0, -0.5, 0.0, 0.5, 2.0], np.float32)
    np.testing.assert_allclose(coverage(distance, 2.0), [1, 0.75, 0.5, 0.25, 0])


def test_distance_to_a_ball_is_exact() -> None:
    x = np.array([0.5, 5.0, 8.0], np.float32)
    zero = np.zeros(3, np.float32)
    found = ellipsoid_distance(zero, zero, x, (0.0, 0.0, 0.0), (5.0, 5.0, 5.0))
    np.testing.assert_allclose(found, [-4.5, 0, 3], atol=1e-3)


def test_superellipsoid_ends_where_its_half_axes_end() -> None:
    zero = np.zeros(3, np.float32)
    u = np.array([18.0, 20.0, 22.0], np.float32)
    found = superellipsoid_distance(u, zero, zero, (20.0, 10.0, 12.0))
    np.testing.assert_allclose(found, [-2, 0, 2], atol=1e-3)


def _tube() -> TubeBuilder:
    builder = TubeBuilder()
    builder.add([np.array([0.0, 0.0, 0.0]), np.array([10.0, 0.0, 0.0])], [2.0, 1.0], 0)
    return builder


def test_distance_to_a_tube_counts_from_its_wall() -> None:
    tubes = _tube().build()
    points = np.array([[0, 3, 0], [10, 3, 0], [5, 0, 0], [13, 0, 0]], np.float32)
    # radius 2 at the start, 1 at the end, 1.5 halfway; a round end of radius 1
    np.testing.assert_allclose(tube_distance(*points.T, tubes, 0), [1, 2, -1.5, 2], atol=1e-5)


def test_volume_of_a_tube_is_a_frustum() -> None:
    # pi / 3 * 10 * (4 + 2 + 1) = 73.3 mm3
    assert _tube().build().volume_ml == pytest.approx(0.0733, abs=1e-4)


def test_no_tubes_are_painted_nowhere() -> None:
    axis = np.arange(10.0)
    canvas = Canvas(axis, axis, axis, (1.0, 1.0, 1.0), draw_values(np.random.default_rng(0)), ())
    assert canvas.tubes(TubeBuilder().build()) is None


def test_painted_tube_has_its_volume() -> None:
    axis = np.arange(-6, 18, 0.5)
    values = draw_values(np.random.default_rng(0))
    canvas = Canvas(axis, axis, axis, (0.5, 0.5, 0.5), values, ("arterial",))
    found = canvas.tubes(_tube().build())
    assert found is not None
    # the frustum's 73.3 mm3 and two half balls: 2/3 pi (8 + 1) = 18.8 mm3
    assert found[1].sum() * 0.125 == pytest.approx(92.1, rel=0.02)
    canvas.paint(*found, "artery")
    assert canvas.hu["arterial"].max() == pytest.approx(values["artery"]["arterial"], rel=1e-4)


def test_window_outside_the_canvas_is_none() -> None:
    axis = np.arange(10.0)
    canvas = Canvas(axis, axis, axis, (1.0, 1.0, 1.0), {}, ())
    assert canvas.window((20, 0, 0), (30, 5, 5)) is None
    assert canvas.window((2, 0, 0), (4, 5, 5)) == (slice(1, 6), slice(0, 7), slice(0, 7))


def test_block_mean_averages_each_axis() -> None:
    array = np.arange(16, dtype=np.float32).reshape(2, 2, 4)
    # block of z 0..1, y 0..1, x 0..1: 0 1 4 5 8 9 12 13 -> 6.5
    np.testing.assert_allclose(block_mean(array, (2, 2, 2)), [[[6.5, 8.5]]])


def test_random_field_is_standard_and_the_same_on_any_window() -> None:
    field = RandomField(np.random.default_rng(2), 3.0)
    z, y, x = (np.arange(0, 120, 2.0) for _ in range(3))
    whole = field.on(z, y, x)
    assert whole.mean() == pytest.approx(0, abs=0.1)
    assert whole.std() == pytest.approx(1, abs=0.1)
    np.testing.assert_allclose(field.on(z[5:9], y[3:4], x[7:]), whole[5:9, 3:4, 7:], atol=1e-4)


def test_sphere_points_are_unit_vectors_without_a_direction() -> None:
    points = sphere_points(500)
    np.testing.assert_allclose(np.linalg.norm(points, axis=1), 1)
    np.testing.assert_allclose(points.mean(axis=0), 0, atol=0.01)


def test_open_axes_broadcast_to_a_box() -> None:
    z, y, x = open_axes(np.arange(2), np.arange(3), np.arange(4))
    assert (z + y + x).shape == (2, 3, 4)
