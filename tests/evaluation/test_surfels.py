"""The surface Dice by hand; test_peers has it against DeepMind's and MONAI's."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from renalplan.errors import DatasetError
from renalplan.evaluation import surface
from renalplan.evaluation.surfels import corner_codes, element_areas, surface_dice

SPACING = (5.0, 0.7, 0.8)


def slab(start: int, stop: int, shape: tuple[int, ...] = (12, 9, 8)) -> NDArray:
    mask = np.zeros(shape, bool)
    mask[start:stop] = True
    return mask


def test_empty_masks_are_as_stated() -> None:
    nothing, mask = slab(0, 0), slab(2, 4)
    assert surface_dice(nothing, nothing, SPACING, 1.0) == 1
    assert surface_dice(nothing, mask, SPACING, 1e9) == 0
    assert surface_dice(mask, nothing, SPACING, 1e9) == 0


def test_a_shift_counts_up_to_the_tolerance() -> None:
    first, second = slab(2, 3, (12, 1, 1)), slab(5, 6, (12, 1, 1))  # 15 mm apart
    assert surface_dice(first, second, SPACING, 15.0) == 1
    # of each voxel's eight corners four are 10 mm from the other one
    assert surface_dice(first, second, SPACING, 14.9) == 0.5
    assert surface_dice(first, second, SPACING, 9.9) == 0
    assert surface_dice(first, first, SPACING, 0.0) == 1


def test_a_tolerance_that_is_the_distance_counts_whatever_rounding_does() -> None:
    first, second = (slab(n, n + 1, (12, 1, 1)) for n in (0, 3))
    assert 3 * 0.1 > 0.3
    assert surface_dice(first, second, (0.1, 1.0, 1.0), 0.3) == 1


def test_areas_are_those_of_the_voxels_faces() -> None:
    areas = element_areas(SPACING)
    assert areas[0] == areas[255] == 0
    for half, face in ((0b00001111, 0.7 * 0.8), (0b00110011, 5 * 0.8), (0b01010101, 5 * 0.7)):
        assert areas[half] == pytest.approx(face)
        assert areas[255 - half] == pytest.approx(face)
    assert areas == pytest.approx(areas[::-1])  # a mask and its complement
    assert (areas[1:255] > 0).all()


def test_a_corner_knows_its_eight_voxels() -> None:
    mask = np.zeros((1, 1, 2), bool)
    mask[0, 0, 0] = True
    codes = corner_codes(mask)
    assert codes.shape == (2, 2, 3)
    assert codes[0, 0, 0] == 1 << 7  # only the last of its voxels is in the array
    assert codes[1, 1, 1] == 1
    assert codes[1, 1, 2] == 0


@pytest.mark.parametrize("few", [True, False])
def test_tree_and_transform_find_the_same(few: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    first, second = rng.random((2, 8, 10, 12)) < 0.1
    found = [surface_dice(first, second, SPACING, mm) for mm in (0.0, 0.7, 1.1, 5.0)]
    monkeypatch.setattr(surface, "_few", lambda *_: few)
    again = [surface_dice(first, second, SPACING, mm) for mm in (0.0, 0.7, 1.1, 5.0)]
    assert again == pytest.approx(found)


def test_different_shapes_are_refused() -> None:
    with pytest.raises(DatasetError, match="shape"):
        surface_dice(slab(0, 1), slab(0, 1)[1:], SPACING, 1.0)
