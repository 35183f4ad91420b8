from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, label
from scipy.spatial.distance import cdist
from skimage.morphology import skeletonize

from renalplan.errors import DatasetError
from renalplan.evaluation.centerline import centerline_voxels, compare_centerlines, is_tubular
from renalplan.evaluation.surface import diagonal_mm

SPACING = (2.0, 0.7, 0.8)
Three = tuple[float, float, float]
SHAPE = (12, 24, 40)


def tube(y: float, radius: float = 2.3, z: float = 6) -> NDArray:
    """A straight tube along x from border to border; y and z in voxels."""
    rows = np.arange(SHAPE[1])[None, :, None] - y
    planes = np.arange(SHAPE[0])[:, None, None] - z
    return np.broadcast_to(rows**2 + planes**2 <= radius**2, SHAPE).copy()


def centerline_distance(first: NDArray, second: NDArray, spacing: Three, **more: Three) -> float:
    return compare_centerlines(first, second, spacing, **more).distance_mm  # type: ignore[arg-type]


def cldice(first: NDArray, second: NDArray) -> float:
    return compare_centerlines(first, second, SPACING).cldice


def test_a_shifted_tube_is_its_shift_away() -> None:
    assert centerline_distance(tube(6), tube(11), SPACING) == pytest.approx(5 * 0.7)
    assert centerline_distance(tube(6, z=4), tube(6, z=7), SPACING) == pytest.approx(3 * 2)


def test_width_does_not_matter() -> None:
    assert centerline_distance(tube(10, 1.2), tube(10, 4.2), SPACING) < 0.5


def test_a_stray_part_counts_by_its_share_of_the_line() -> None:
    line = np.zeros(SHAPE, bool)
    line[6, 10, :20] = True
    more = line.copy()
    more[6, 14, 0] = True  # 4 voxels of 0.7 mm beside, one of 21
    expected = 4 * 0.7 / 21
    assert centerline_distance(line, more, SPACING) == pytest.approx(expected)
    assert centerline_distance(more, line, SPACING) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(10))
def test_distances_are_as_brute_force_says(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(2, 12, 3))
    first, second = (rng.random(shape) < share for share in rng.choice([0.1, 0.4, 0.7], 2))
    first[0, 0, 0] = second[-1, -1, -1] = True
    lines = [np.argwhere(centerline_voxels(mask)) * SPACING for mask in (first, second)]
    table = cdist(*lines)
    expected = max(table.min(axis=1).mean(), table.min(axis=0).mean())
    assert centerline_distance(first, second, SPACING) == pytest.approx(expected, abs=1e-6)
    assert centerline_distance(second, first, SPACING) == centerline_distance(
        first, second, SPACING
    )


def test_the_line_is_scikit_images() -> None:
    mask = tube(10)
    np.testing.assert_array_equal(centerline_voxels(mask), skeletonize(mask))


@pytest.mark.parametrize("seed", range(10))
def test_parts_are_thinned_as_they_are_together(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = gaussian_filter(rng.normal(size=(16, 24, 30)), 1.5) > 0.12
    together = skeletonize(np.pad(mask, 1))[1:-1, 1:-1, 1:-1]
    parts, count = label(mask, np.ones((3, 3, 3)))
    with_line = np.isin(parts, np.unique(parts[together]))
    assert count > 1
    np.testing.assert_array_equal(centerline_voxels(mask) & with_line, together)


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 2, 2), (4, 4, 4), (2, 2, 20), (1, 6, 6)])
@pytest.mark.parametrize("margin", [0, 2])
def test_no_mask_is_without_a_line(shape: tuple[int, ...], margin: int) -> None:
    mask = np.pad(np.ones(shape, bool), margin)
    line = centerline_voxels(mask)
    assert line.any()
    assert not (line & ~mask).any()


def test_two_voxels_of_three_in_a_line_are_two_parts() -> None:
    mask = np.array([[[True, False, True]]])
    np.testing.assert_array_equal(centerline_voxels(mask), mask)
    assert centerline_distance(mask, mask, SPACING) == 0


def test_a_part_whose_line_vanishes_still_costs() -> None:
    mask = tube(4)
    more = mask.copy()
    more[2:4, 20:22, 10:12] = True  # scikit-image thins 2 x 2 x 2 voxels to nothing
    assert not skeletonize(more)[2:4].any()
    assert centerline_voxels(more)[2:4].sum() == 8
    assert centerline_distance(mask, more, SPACING) > 0.5


def test_empty_masks_have_stated_distances() -> None:
    nothing, mask = np.zeros(SHAPE, bool), tube(6)
    assert centerline_distance(nothing, nothing, SPACING) == 0
    for pair in ((nothing, mask), (mask, nothing)):
        assert centerline_distance(*pair, SPACING) == diagonal_mm(SHAPE, SPACING)
        whole = centerline_distance(*pair, SPACING, scan=(90, 90, 90))
        assert whole == diagonal_mm((90, 90, 90), SPACING)
    assert not centerline_voxels(nothing).any()


def test_cldice_of_empty_masks_is_as_stated() -> None:
    nothing, mask = np.zeros(SHAPE, bool), tube(6)
    assert cldice(nothing, nothing) == 1
    assert cldice(nothing, mask) == cldice(mask, nothing) == 0
    assert cldice(tube(6), tube(20)) == 0  # both there, nowhere near


def test_cldice_asks_for_the_course_not_the_width() -> None:
    assert cldice(tube(10, 1.2), tube(10, 4.2)) == 1
    half = tube(10)
    half[:, :, 20:] = False
    line = centerline_voxels(half)
    share = float(half[centerline_voxels(tube(10))].mean())
    assert (line & tube(10)).sum() == line.sum()
    assert cldice(tube(10), half) == pytest.approx(2 * share / (1 + share))


@pytest.mark.parametrize("seed", range(5))
def test_cldice_is_as_its_definition_says(seed: int) -> None:
    rng = np.random.default_rng(seed)
    first, second = (gaussian_filter(rng.normal(size=(14, 20, 24)), 1.5) > 0.1 for _ in range(2))
    lines = centerline_voxels(first), centerline_voxels(second)
    precision = (lines[1] & first).sum() / lines[1].sum()
    sensitivity = (lines[0] & second).sum() / lines[0].sum()
    expected = 2 * precision * sensitivity / (precision + sensitivity)
    assert cldice(first, second) == pytest.approx(expected)
    assert cldice(second, first) == pytest.approx(expected)


def test_different_shapes_are_refused() -> None:
    with pytest.raises(DatasetError, match="shape"):
        centerline_distance(tube(6), tube(6)[1:], SPACING)


@pytest.mark.parametrize(
    ("name", "tubular"),
    [
        ("renal artery", True),
        ("Renal_Arteries", True),
        ("leftVein", True),
        ("VEINS", True),
        ("vessels", True),
        ("ureter_left", True),
        ("kidney", False),
        ("tumor", False),
        ("label 1", False),
    ],
)
def test_tubes_are_told_by_name(name: str, tubular: bool) -> None:
    assert is_tubular(name) is tubular
