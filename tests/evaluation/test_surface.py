"""Surface distances against brute force, and what is known by hand."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from renalplan.errors import DatasetError
from renalplan.evaluation import surface
from renalplan.evaluation.surface import (
    SurfaceDistances,
    diagonal_mm,
    surface_distances,
    surface_voxels,
)

SPACING = (5.0, 0.7, 0.8)


def numbers(found: SurfaceDistances) -> list[float]:
    return [found.hausdorff_mm, found.hd95_mm, found.average_hausdorff_mm, found.assd_mm]


def slow_surface(mask: NDArray) -> NDArray:
    """Coordinates of the voxels that have a 6-neighbour outside, one voxel after the other."""
    steps = [s * np.eye(3, dtype=int)[axis] for axis in range(3) for s in (-1, 1)]

    def outside(place: NDArray) -> bool:
        inside_array = (place >= 0).all() and (place < mask.shape).all()
        return not inside_array or not mask[tuple(place)]

    return np.array([p for p in np.argwhere(mask) if any(outside(p + step) for step in steps)])


def slow_distances(
    reference: NDArray, prediction: NDArray, spacing: tuple[float, ...]
) -> list[float]:
    table = cdist(slow_surface(reference) * spacing, slow_surface(prediction) * spacing)
    there, back = table.min(axis=1), table.min(axis=0)
    return [
        max(there.max(), back.max()),
        max(np.percentile(there, 95), np.percentile(back, 95)),
        max(there.mean(), back.mean()),
        np.concatenate([there, back]).mean(),
    ]


def noise(rng: np.random.Generator, shape: tuple[int, ...], share: float) -> NDArray:
    mask = rng.random(shape) < share
    mask[tuple(rng.integers(0, shape))] = True  # never empty
    return mask


def box(*bounds: tuple[int, int], shape: tuple[int, ...] = (9, 12, 14)) -> NDArray:
    mask = np.zeros(shape, bool)
    mask[tuple(slice(*bound) for bound in bounds)] = True
    return mask


@pytest.mark.parametrize("seed", range(30))
def test_random_masks_are_as_brute_force_says(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = tuple(int(n) for n in rng.integers(1, 13, 3))
    spacing = tuple(float(s) for s in rng.uniform(0.3, 6, 3))
    first, second = (noise(rng, shape, share) for share in rng.choice([0.001, 0.05, 0.5, 0.95], 2))
    found = numbers(surface_distances(first, second, spacing))
    assert found == pytest.approx(slow_distances(first, second, spacing), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("seed", range(10))
def test_tree_and_transform_find_the_same(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(seed)
    first, second = (noise(rng, (9, 12, 14), share) for share in (0.001, 0.3))
    expected = slow_distances(first, second, SPACING)
    for few in (True, False):  # always the tree, always the transform
        monkeypatch.setattr(surface, "_few", lambda *_, few=few: few)
        found = numbers(surface_distances(first, second, SPACING))
        assert found == pytest.approx(expected, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (box((0, 9), (0, 12), (0, 14)), box((2, 7), (3, 9), (4, 10))),  # touches every border
        (box((4, 5), (0, 12), (0, 14)), box((0, 9), (6, 7), (0, 14))),  # sheets
        (box((4, 5), (5, 6), (0, 14)), box((0, 9), (5, 6), (3, 4))),  # lines
        (box((4, 5), (5, 6), (7, 8)), box((0, 1), (0, 1), (0, 1))),  # single voxels
        (box((4, 5), (5, 6), (7, 8)), box((1, 8), (1, 11), (1, 13))),  # a voxel in a block
        (box((0, 3), (0, 4), (0, 4)), box((6, 9), (8, 12), (10, 14))),  # far apart
    ],
)
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), SPACING])
def test_special_masks_are_as_brute_force_says(
    first: NDArray, second: NDArray, spacing: tuple[float, float, float]
) -> None:
    found = numbers(surface_distances(first, second, spacing))
    assert found == pytest.approx(slow_distances(first, second, spacing), rel=1e-6, abs=1e-6)
    assert numbers(surface_distances(second, first, spacing)) == pytest.approx(found)


def test_axes_may_be_flipped_and_swapped() -> None:
    rng = np.random.default_rng(0)
    first, second = noise(rng, (6, 8, 10), 0.1), noise(rng, (6, 8, 10), 0.1)
    found = numbers(surface_distances(first, second, SPACING))
    for order in permutations(range(3)):
        turned = [mask.transpose(order)[::-1, :, ::-1] for mask in (first, second)]
        spacing = tuple(SPACING[axis] for axis in order)
        assert numbers(surface_distances(*turned, spacing)) == pytest.approx(found)


def test_a_shifted_plane_is_its_shift_away() -> None:
    first, second = box((2, 3), (0, 12), (0, 14)), box((5, 6), (0, 12), (0, 14))
    assert numbers(surface_distances(first, second, SPACING)) == pytest.approx([15] * 4)


def test_a_stray_voxel_far_away_is_the_maximum_alone() -> None:
    mask = box((10, 20), (10, 20), (10, 20), shape=(90, 90, 90))
    stray = mask.copy()
    stray[89, 19, 19] = True
    found = surface_distances(mask, stray, (1, 1, 1))
    surface_count = 10**3 - 8**3 + 1
    both = 2 * surface_count - 1
    assert numbers(found) == pytest.approx([70, 0, 70 / surface_count, 70 / both])


def test_the_larger_direction_counts() -> None:
    # a line of 11 voxels and its first one: 0 mm one way, 0 to 10 mm the other
    line, start = box((0, 1), (0, 1), (0, 11)), box((0, 1), (0, 1), (0, 1))
    assert numbers(surface_distances(line, start, (1, 1, 1))) == pytest.approx(
        [10, 9.5, 5, 55 / 12]
    )


def test_cubes_of_one_centre() -> None:
    # of the inner cube's 26 surface voxels each is 2 voxels off; of the outer one's corners sqrt(12)
    inner, outer = box((3, 6), (3, 6), (3, 6)), box((1, 8), (1, 8), (1, 8))
    found = surface_distances(inner, outer, (1, 1, 1))
    assert found.hausdorff_mm == pytest.approx(12**0.5)
    assert found.average_hausdorff_mm > 2


def test_equal_masks_are_nowhere_apart() -> None:
    mask = noise(np.random.default_rng(1), (5, 6, 7), 0.4)
    assert numbers(surface_distances(mask, mask * 7, SPACING)) == [0] * 4


def test_surface_is_where_a_face_lies_open() -> None:
    mask = box((0, 3), (0, 3), (0, 3), shape=(3, 3, 3))
    assert surface_voxels(mask).sum() == 26  # beyond the array is outside
    mask[0, 0, 0] = False  # an open corner opens no face of the centre
    assert not surface_voxels(mask)[1, 1, 1]


def test_empty_masks_have_stated_distances() -> None:
    nothing, voxel = box((0, 0)), box((1, 2), (1, 2), (1, 2))
    diagonal = ((9 * 5) ** 2 + (12 * 0.7) ** 2 + (14 * 0.8) ** 2) ** 0.5
    assert numbers(surface_distances(nothing, nothing, SPACING)) == [0] * 4
    for pair in ((nothing, voxel), (voxel, nothing)):
        assert numbers(surface_distances(*pair, SPACING)) == pytest.approx([diagonal] * 4)
        whole = numbers(surface_distances(*pair, SPACING, scan=(30, 40, 50)))
        assert whole == pytest.approx([diagonal_mm((30, 40, 50), SPACING)] * 4)


def test_a_miss_is_farther_than_any_mask() -> None:
    first, second = box((0, 1), (0, 1), (0, 1)), box((8, 9), (11, 12), (13, 14))
    assert surface_distances(first, second, SPACING).hausdorff_mm < diagonal_mm(
        first.shape, SPACING
    )


def test_only_what_lies_around_both_masks_is_looked_at() -> None:
    first, second = box((2, 4), (3, 5), (1, 9)), box((3, 6), (4, 8), (5, 11))
    cut = surface.cut_to_both(first, second)
    for whole, part in zip((first, second), cut, strict=True):
        np.testing.assert_array_equal(part, whole[2:6, 3:8, 1:11])
        assert np.shares_memory(part, whole)  # a scan's masks are not copied for it


@pytest.mark.parametrize(
    ("voxels", "points", "by_tree"),
    [
        (10, 10, True),
        (10**5, 4 * 10**4, True),  # few, though all of a small scan
        (10**5, 6 * 10**4, False),  # together more than a tenth of a second's
        (9 * 10**6, 8 * 10**4, True),  # less than a fiftieth of a large scan
        (9 * 10**6, 10**5, False),
    ],
)
def test_many_points_in_little_room_go_by_transform(
    voxels: int, points: int, by_tree: bool
) -> None:
    mask = np.zeros(voxels, bool)
    mask[:points] = True
    assert surface._few(mask, mask) is by_tree


def test_different_shapes_are_refused() -> None:
    with pytest.raises(DatasetError, match="shape"):
        surface_distances(box((0, 1)), box((0, 1))[1:], SPACING)
