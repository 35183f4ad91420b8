"""Boxes: from labels and from the csv, on any stage's grid, and the shapes inscribed in them."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import numpy as np
import pytest

from renalplan.geometry import box_slices
from renalplan.store import ItemArrays, StoredItem
from renalplan.trainers.boxes import (
    inscribed_ellipsoid,
    inside_boxes,
    on_item,
    paint_ellipsoids,
    radius,
    to_scan,
)

ORDER = (0, 1, 2)


def item(box: tuple, shape: tuple[int, int, int]) -> ItemArrays:
    return ItemArrays(Path(), StoredItem(name="a.0", box=box, shape=shape, structures={}), "a")


@pytest.mark.parametrize("order", list(permutations(range(3))))
@pytest.mark.parametrize("scale", [1, 0.7, 1.9, 3])
def test_a_box_comes_back_from_the_scan_as_it_was(order: tuple, scale: float) -> None:
    shape = (9, 14, 23)
    canonical = [(0, 0)] * 3
    for axis, name in enumerate(order):
        canonical[name] = (5, 5 + max(1, round(scale * shape[axis])))
    stored = item(tuple(canonical), shape)
    rng = np.random.default_rng(0)
    for _ in range(50):
        low = [int(rng.integers(0, n)) for n in shape]
        high = [int(rng.integers(a + 1, n + 1)) for a, n in zip(low, shape, strict=True)]
        box = tuple(zip(low, high, strict=True))
        edges = to_scan(box, stored, order)
        assert on_item((edges,), stored, order) == (box,)


def test_a_voxel_belongs_to_a_box_by_its_centre() -> None:
    stored = item(((10, 50), (0, 40), (0, 4)), (10, 20, 4))  # steps 4, 2 and 1
    edges = ((17.9, 22.1), (3.1, 5.1), (0.0, 4.0))
    # z centres 12, 16, 20 ..; y centres 1, 3, 5 ..
    assert on_item((edges,), stored, ORDER) == (((2, 3), (2, 3), (0, 4)),)


def test_a_box_between_centres_keeps_the_voxel_it_lies_in() -> None:
    stored = item(((0, 40), (0, 40), (0, 40)), (10, 10, 10))
    edges = ((4.2, 5.1), (8.0, 12.0), (38.9, 40.0))
    assert on_item((edges,), stored, ORDER) == (((1, 2), (2, 3), (9, 10)),)


def test_boxes_are_cut_to_an_item_and_left_out_beside_it() -> None:
    stored = item(((10, 20), (10, 20), (10, 20)), (10, 10, 10))
    across = ((5.0, 13.0), (18.0, 30.0), (0.0, 99.0))
    beside = ((20.0, 25.0), (10.0, 20.0), (10.0, 20.0))
    before = ((10.0, 20.0), (2.0, 10.0), (10.0, 20.0))
    assert on_item((across, beside, before), stored, ORDER) == (((0, 3), (8, 10), (0, 10)),)


def test_the_radius_is_one_where_the_ellipsoid_ends() -> None:
    box, around = ((2, 6), (0, 2), (5, 11)), ((0, 8), (0, 3), (5, 12))
    found = radius(box, around)
    for z, y, x in np.ndindex(found.shape):
        wanted = (
            ((z + 0.5 - 4) / 2) ** 2 + ((y + 0.5 - 1) / 1) ** 2 + ((x + 5 + 0.5 - 8) / 3) ** 2
        ) ** 0.5
        assert found[z, y, x] == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 2, 2), (2, 2, 2), (3, 1, 5), (24, 30, 18)])
def test_an_ellipsoid_touches_all_sides_and_fills_half(shape: tuple[int, int, int]) -> None:
    box = tuple((3, 3 + n) for n in shape)
    mask = inscribed_ellipsoid(box, box)
    assert mask.shape == shape
    for axis in range(3):
        assert mask.any()
        assert np.array_equal(mask, np.flip(mask, axis))
    if min(shape) > 10:
        assert mask.mean() == pytest.approx(np.pi / 6, abs=0.01)


def test_painted_boxes_do_not_erase_each_other() -> None:
    boxes = (((0, 6), (0, 6), (0, 6)), ((4, 10), (4, 10), (4, 10)))
    painted = paint_ellipsoids(boxes, (10, 10, 10))
    wanted = np.zeros((10, 10, 10), bool)
    for box in boxes:
        wanted[box_slices(box)] |= inscribed_ellipsoid(box, box)
    assert np.array_equal(painted, wanted)
    assert inside_boxes(boxes, (10, 10, 10)).sum() == 2 * 6**3 - 2**3
    assert not paint_ellipsoids((), (3, 3, 3)).any()
