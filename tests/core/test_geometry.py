from collections.abc import Callable
from itertools import permutations, product

import numpy as np
import pytest

from renalplan.geometry import (
    Grid,
    Orientation,
    box_shape,
    box_slices,
    boxes_overlap,
    grow_box,
    laid_out,
    mask_box,
    merge_overlapping,
    resampled_shape,
    whole_box,
)


def test_equal_grids_do_not_differ(make_grid: Callable[..., Grid]) -> None:
    assert make_grid((3, 4, 5)).differences(make_grid((3, 4, 5))) == []


def test_rounding_of_a_header_is_no_difference(make_grid: Callable[..., Grid]) -> None:
    other = make_grid((3, 4, 5), spacing=(1.0005, 1.0, 1.0), origin=(0.005, 0.0, 0.0))
    assert make_grid((3, 4, 5)).differences(other) == []


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"spacing": (1.0, 2.5, 1.0)}, "spacing (1, 1, 1) against (1, 2.5, 1) mm"),
        ({"origin": (0.0, 0.0, -7.5)}, "origin (0, 0, 0) against (0, 0, -7.5) mm"),
        (
            {"direction": (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0)},
            "direction (1, 0, 0, 0, 1, 0, 0, 0, 1) against (-1, 0, 0, 0, -1, 0, 0, 0, 1)",
        ),
    ],
)
def test_a_difference_names_both_values(
    make_grid: Callable[..., Grid], changes: dict, sentence: str
) -> None:
    assert make_grid((3, 4, 5)).differences(make_grid((3, 4, 5), **changes)) == [sentence]


def test_all_differences_are_listed(make_grid: Callable[..., Grid]) -> None:
    other = make_grid((3, 4, 6), spacing=(2.0, 1.0, 1.0), origin=(1.0, 0.0, 0.0))
    found = make_grid((3, 4, 5)).differences(other)
    assert found[0] == "size (3, 4, 5) against (3, 4, 6) voxels"
    assert [line.split()[0] for line in found] == ["size", "spacing", "origin"]


def test_a_straight_grid_needs_no_turning(make_grid: Callable[..., Grid]) -> None:
    assert Orientation.of(make_grid((3, 4, 5))) == Orientation((0, 1, 2), (False, False, False))


def test_turning_and_turning_back_keeps_leading_axes() -> None:
    array = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    orientation = Orientation(order=(2, 0, 1), flipped=(True, False, True))
    turned = orientation.apply(array)
    assert turned.shape == (2, 5, 3, 4)
    np.testing.assert_array_equal(orientation.undo(turned), array)


def test_box_helpers_count_voxels() -> None:
    box = ((1, 3), (0, 4), (2, 5))
    assert box_shape(box) == (2, 4, 3)
    assert np.zeros((7, 6, 6, 6))[(..., *box_slices(box))].shape == (7, 2, 4, 3)
    assert whole_box((9, 2, 3, 4)) == ((0, 2), (0, 3), (0, 4))


def test_box_of_a_mask_is_tight() -> None:
    mask = np.zeros((6, 6, 6), bool)
    mask[1, 2, 3] = mask[4, 2, 5] = True
    assert mask_box(mask) == ((1, 5), (2, 3), (3, 6))


def test_an_empty_mask_has_no_box() -> None:
    assert mask_box(np.zeros((3, 3, 3), bool)) is None


def test_a_grown_box_stops_at_the_border() -> None:
    grown = grow_box(((1, 3), (4, 5), (0, 9)), (2, 1, 3), (10, 10, 10))
    assert grown == ((0, 5), (3, 6), (0, 10))


def test_boxes_that_touch_do_not_overlap() -> None:
    first = ((0, 2), (0, 2), (0, 2))
    beside = ((2, 4), (0, 2), (0, 2))
    assert not boxes_overlap(first, beside)
    assert not boxes_overlap(beside, first)
    assert boxes_overlap(first, ((1, 4), (1, 2), (0, 1)))


def test_overlapping_boxes_become_one() -> None:
    boxes = [((0, 3), (0, 3), (0, 3)), ((2, 5), (2, 5), (2, 5)), ((7, 8), (0, 1), (0, 1))]
    assert merge_overlapping(boxes) == [((0, 5), (0, 5), (0, 5)), ((7, 8), (0, 1), (0, 1))]


def test_a_merged_box_swallows_what_it_now_overlaps() -> None:
    # neither of the first two meets the third; what they make together does
    boxes = [
        ((0, 2), (0, 6), (0, 2)),
        ((1, 6), (0, 2), (0, 2)),
        ((4, 5), (4, 5), (0, 1)),
    ]
    assert merge_overlapping(boxes) == [((0, 6), (0, 6), (0, 2))]


def test_a_box_joins_all_that_it_meets_and_what_they_meet_then() -> None:
    apart = [((0, 1), (0, 1), (0, 9)), ((0, 1), (3, 4), (0, 9))]
    across = ((0, 2), (0, 5), (0, 1))
    assert merge_overlapping([*apart, across]) == [((0, 2), (0, 5), (0, 9))]
    # this one meets the first alone, but both together reach the second
    beside = ((0, 8), (0, 1), (8, 9))
    far = ((5, 6), (0, 1), (2, 3))
    assert merge_overlapping([apart[0], far, beside]) == [((0, 8), (0, 1), (0, 9))]


def test_the_spacing_turns_with_the_axes(make_grid: Callable[..., Grid]) -> None:
    grid = make_grid((2, 3, 4), spacing=(0.5, 0.75, 2.0))
    assert Orientation.of(grid).spacing(grid) == (2.0, 0.75, 0.5)
    assert Orientation((1, 0, 2), (True, False, False)).spacing(grid) == (0.75, 2.0, 0.5)
    assert Orientation((1, 0, 2), (True, False, False)).shape(grid) == (3, 4, 2)


def test_the_order_of_boxes_does_not_matter() -> None:
    boxes = [((5, 6), (0, 1), (0, 1)), ((0, 3), (0, 1), (0, 1)), ((2, 4), (0, 1), (0, 1))]
    assert merge_overlapping(boxes) == merge_overlapping(boxes[::-1])


def test_resampling_keeps_the_extent() -> None:
    # 10 x 3 mm = 30 mm = 20 x 1.5 mm;  5 x 1 mm = 2.5 x 2 mm -> 2 (round half to even)
    assert resampled_shape((10, 5, 7), (3.0, 1.0, 1.0), (1.5, 2.0, 1.0)) == (20, 2, 7)


def test_at_least_one_voxel_remains() -> None:
    assert resampled_shape((2, 2, 2), (0.1, 1.0, 1.0), (5.0, 1.0, 1.0)) == (1, 2, 2)


@pytest.mark.parametrize("order", list(permutations(range(3))))
@pytest.mark.parametrize("flips", list(product((1, -1), repeat=3)))
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_an_array_is_laid_out_as_it_is_turned(
    order: tuple[int, ...], flips: tuple[int, ...], dtype: type
) -> None:
    array = np.arange(2 * 3 * 5).reshape(2, 3, 5).astype(dtype)
    view = array.transpose(order)[tuple(slice(None, None, f) for f in flips)]
    found = laid_out(view)
    assert found.flags.c_contiguous
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, view)
    assert laid_out(array) is array


@pytest.mark.parametrize(
    ("name", "index", "allowed", "too_much"),
    [("spacing", 1, 0.0009, 0.0011), ("origin", 2, 0.009, 0.011), ("direction", 4, 9e-5, 1.1e-4)],
)
def test_how_much_is_a_difference(
    make_grid: Callable[..., Grid], name: str, index: int, allowed: float, too_much: float
) -> None:
    grid = make_grid((3, 4, 5))
    for by, count in ((allowed, 0), (-allowed, 0), (too_much, 1), (-too_much, 1)):
        values = list(getattr(grid, name))
        values[index] += by
        assert len(grid.differences(make_grid((3, 4, 5), **{name: tuple(values)}))) == count


def test_a_difference_is_shown_to_four_digits_without_a_negative_zero(
    make_grid: Callable[..., Grid],
) -> None:
    other = make_grid((3, 4, 5), origin=(-0.0, 123.456, 0.0))
    expected = ["origin (0, 0, 0) against (0, 123.5, 0) mm"]
    assert make_grid((3, 4, 5)).differences(other) == expected
