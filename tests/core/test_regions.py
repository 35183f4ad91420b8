import numpy as np
import pytest
from numpy.typing import NDArray

from renalplan.regions import find_pieces, region_boxes

SPACING = (2.0, 1.0, 1.0)  # mm: a voxel has 2 mm^3 = 0.002 ml


def kidneys(*pieces: tuple[slice, slice, slice]) -> NDArray[np.bool_]:
    mask = np.zeros((20, 20, 40), bool)
    for piece in pieces:
        mask[piece] = True
    return mask


RIGHT = (slice(8, 12), slice(5, 10), slice(5, 10))  # 4 x 5 x 5 = 100 voxels = 0.2 ml
LEFT = (slice(8, 12), slice(5, 10), slice(28, 33))
CRUMB = (slice(0, 1), slice(0, 1), slice(39, 40))  # 0.002 ml


def test_two_kidneys_give_two_boxes() -> None:
    # margin 4 mm = 2 voxels along z, 4 along y and x
    assert region_boxes(kidneys(LEFT, RIGHT), SPACING, margin_mm=4, minimum_ml=0) == [
        ((6, 14), (1, 14), (1, 14)),
        ((6, 14), (1, 14), (24, 37)),
    ]


def test_a_part_of_a_millimetre_counts_as_a_voxel() -> None:
    assert region_boxes(kidneys(RIGHT), SPACING, margin_mm=0.5, minimum_ml=0) == [
        ((7, 13), (4, 11), (4, 11))
    ]


def test_boxes_that_would_overlap_are_one() -> None:
    # margin 10 mm: x from 5 - 10 to 10 + 10 = 20 meets 28 - 10 = 18
    assert region_boxes(kidneys(LEFT, RIGHT), SPACING, margin_mm=10, minimum_ml=0) == [
        ((3, 17), (0, 20), (0, 40))
    ]


def test_small_pieces_open_no_box() -> None:
    boxes = region_boxes(kidneys(LEFT, RIGHT, CRUMB), SPACING, margin_mm=0, minimum_ml=0.1)
    assert boxes == [((8, 12), (5, 10), (5, 10)), ((8, 12), (5, 10), (28, 33))]
    assert len(region_boxes(kidneys(LEFT, RIGHT, CRUMB), SPACING, margin_mm=0, minimum_ml=0)) == 3


def test_a_piece_of_just_the_minimum_opens_a_box() -> None:
    mask = kidneys(LEFT, CRUMB)
    assert len(region_boxes(mask, SPACING, margin_mm=0, minimum_ml=0.002)) == 2


def test_if_all_are_small_the_largest_opens_a_box() -> None:
    boxes = region_boxes(kidneys(RIGHT, CRUMB), SPACING, margin_mm=0, minimum_ml=50)
    assert boxes == [((8, 12), (5, 10), (5, 10))]


def test_pieces_that_touch_at_a_corner_are_one() -> None:
    mask = kidneys((slice(0, 2),) * 3, (slice(2, 4),) * 3)
    assert region_boxes(mask, SPACING, margin_mm=0, minimum_ml=0) == [((0, 4), (0, 4), (0, 4))]


def test_nothing_found_gives_no_box() -> None:
    assert region_boxes(kidneys(), SPACING, margin_mm=20, minimum_ml=0) == []


def test_pieces_have_their_box_and_volume_in_order_of_position() -> None:
    right, left, crumb = (
        find_pieces(kidneys(piece), SPACING, 0)[0] for piece in (RIGHT, LEFT, CRUMB)
    )
    assert right.box == ((8, 12), (5, 10), (5, 10))
    assert right.ml == pytest.approx(0.2)
    assert crumb.ml == pytest.approx(0.002)
    assert find_pieces(kidneys(LEFT, RIGHT, CRUMB), SPACING, 0) == [crumb, right, left]


def test_small_pieces_are_left_out_unless_all_are_small() -> None:
    assert len(find_pieces(kidneys(LEFT, RIGHT, CRUMB), SPACING, 0.1)) == 2
    larger = (slice(8, 13), slice(5, 10), slice(28, 33))
    (found,) = find_pieces(kidneys(RIGHT, larger, CRUMB), SPACING, 50)
    assert found.box == ((8, 13), (5, 10), (28, 33))
    assert find_pieces(kidneys(), SPACING, 0) == []
