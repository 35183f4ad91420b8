"""Regions of interest: always around the whole kidney, of the paper's sizes where there is room."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from renalplan.geometry import Box, Spacing, box_shape, resampled_shape, whole_box
from renalplan.rois import kidney_rois, largest_pieces, roi_box, roi_shape

PAPER = (3.0, 0.78125, 0.78125)  # mm along (z, y, x)
EVEN = (2.0, 2.0, 2.0)


@pytest.mark.parametrize(
    ("in_plane_mm", "expected"),
    [
        ((60, 60), 160),
        ((125, 20), 160),  # 160 voxels exactly
        ((125.5, 60), 192),
        ((60, 125.5), 192),
        ((150, 60), 192),  # 192 voxels exactly
        ((151, 60), 208),  # 193.3 voxels
        ((170, 60), 224),  # 217.6 voxels
    ],
)
def test_the_papers_sizes_in_plane_and_larger_ones_for_wider_pieces(
    in_plane_mm: tuple[float, float], expected: int
) -> None:
    assert roi_shape((50, *in_plane_mm), PAPER)[1:] == (expected, expected)


@pytest.mark.parametrize(
    ("slices", "expected"), [(1, 16), (15, 16), (16, 32), (17, 32), (31, 32), (32, 48), (40, 48)]
)
def test_across_slices_the_next_multiple_of_16_above_the_extent(slices: int, expected: int) -> None:
    assert roi_shape((3.0 * slices, 60, 60), PAPER)[0] == expected
    assert roi_shape((3.0 * slices - 2.9, 60, 60), PAPER)[0] <= expected


@pytest.mark.parametrize("spacing", [0.7, 0.78, 0.8, 1.2, 1.3, 3.6445])
@pytest.mark.parametrize("voxels", [48, 96, 112, 192, 224])
def test_rounding_neither_loses_nor_adds_sixteen_voxels(spacing: float, voxels: int) -> None:
    # 48 * 0.7 / 0.7 is below 48, 48 * 0.8 / 0.8 above it
    extent = voxels * spacing
    assert roi_shape((extent, 200, 200), (spacing, 1, 1))[0] == voxels + 16
    if extent > 150:
        assert roi_shape((10, extent, 10), (1, spacing, spacing))[1] == voxels


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_any_axis_can_be_the_one_across_slices(order: tuple[int, int, int]) -> None:
    extent, spacing = (100.0, 60.0, 130.0), (3.0, 0.78125, 0.78125)
    expected = roi_shape(extent, spacing)
    assert expected == (48, 192, 192)
    turned = roi_shape(
        tuple(extent[a] for a in order),  # type: ignore[arg-type]
        tuple(spacing[a] for a in order),  # type: ignore[arg-type]
        order.index(0),
    )
    assert turned == tuple(expected[a] for a in order)


@pytest.mark.parametrize(
    ("spacing", "expected"),
    [
        ((5.0, 0.8, 0.8), (32, 160, 160)),  # 156.25 voxels
        ((1.0, 1.0, 1.0), (112, 128, 128)),
        ((2.0, 0.6, 1.25), (64, 208, 96)),  # 208.3 and 100 voxels
        ((6.0, 7.5, 7.5), (32, 16, 16)),
    ],
)
def test_other_spacings_see_about_the_same_anatomy(
    spacing: Spacing, expected: tuple[int, ...]
) -> None:
    assert roi_shape((100, 60, 60), spacing) == expected


@given(
    st.tuples(*[st.floats(1, 400)] * 3),
    st.tuples(*[st.floats(0.4, 8)] * 3),
    st.integers(0, 2),
)
def test_a_region_holds_its_piece_in_multiples_of_16(
    extent: Spacing, spacing: Spacing, slice_axis: int
) -> None:
    # 124 mm at 0.7 mm are 178 voxels, and the multiple nearest to 125 mm is only 176
    for n, mm, s in zip(roi_shape(extent, spacing, slice_axis), extent, spacing, strict=True):
        assert n % 16 == 0
        assert n * s >= mm - 1e-5 * s


SIDES = st.tuples(st.integers(0, 60), st.integers(1, 60))


@st.composite
def placed(draw: st.DrawFn) -> tuple[Box, Box]:
    """A piece and bounds around it."""
    piece, within = [], []
    for _ in range(3):
        start, length = draw(SIDES)
        start += 40
        piece.append((start, start + length))
        within.append((start - draw(st.integers(0, 40)), start + length + draw(st.integers(0, 40))))
    return tuple(piece), tuple(within)  # type: ignore[return-value]


@settings(max_examples=300)
@given(placed(), st.tuples(*[st.floats(0.4, 8)] * 3), st.integers(0, 2), st.booleans())
def test_a_box_holds_the_piece_lies_within_bounds_and_is_as_large_as_it_may(
    boxes: tuple[Box, Box], spacing: Spacing, slice_axis: int, same: bool
) -> None:
    piece, within = boxes
    stage: Spacing = spacing if same else (1.7, 0.9, 1.3)
    found = roi_box(piece, spacing, stage, within, slice_axis)
    extent: Spacing = tuple(n * s for n, s in zip(box_shape(piece), spacing, strict=True))  # type: ignore[assignment]
    wanted = roi_shape(extent, stage, slice_axis)
    seen = resampled_shape(box_shape(found), spacing, stage)
    for axis in range(3):
        (a, b), (p, q), (low, high) = found[axis], piece[axis], within[axis]
        assert low <= a <= p < q <= b <= high
        # never more than the network's window, unless the piece itself is that large
        alone = resampled_shape((q - p,) * 3, (spacing[axis],) * 3, (stage[axis],) * 3)[0]
        assert seen[axis] <= max(wanted[axis], alone)
        size = int(wanted[axis] * stage[axis] / spacing[axis] + 1e-6)
        assert b - a == min(max(q - p, size), high - low)
        if same and b - a < high - low:
            assert seen[axis] == wanted[axis]
        free = (p + q - (b - a)) // 2
        if low <= free and free + (b - a) <= high:
            assert a == free  # centred where the bounds allow


def test_a_box_is_moved_before_it_is_cut() -> None:
    piece: Box = ((0, 10), (20, 30), (90, 100))
    bounds = whole_box((24, 40, 100))
    # 2 mm: 16 slices; 125 mm are 62.5, so 64 voxels in plane
    assert roi_box(piece, EVEN, EVEN, bounds) == ((0, 16), (0, 40), (36, 100))


def test_a_region_is_not_smaller_than_the_window_that_looks_into_it() -> None:
    piece: Box = ((20, 30), (45, 55), (45, 55))
    bounds = whole_box((80, 100, 100))
    assert roi_box(piece, EVEN, EVEN, bounds) == ((17, 33), (18, 82), (18, 82))
    # 48 slices at 2 mm are 24 of 4 mm; the other sides are large enough
    least = (48, 64, 16)
    assert roi_box(piece, EVEN, EVEN, bounds, least=least) == ((1, 49), (18, 82), (18, 82))
    assert roi_box(piece, (4.0, 2.0, 2.0), EVEN, bounds, least=least)[0] == (13, 37)


def test_a_displaced_piece_beyond_the_bounds_still_gives_a_box_within_them() -> None:
    bounds: Box = ((10, 60), (10, 60), (10, 60))
    for shift in (-500, 500):
        piece: Box = tuple((20 + shift, 40 + shift) for _ in range(3))  # type: ignore[assignment]
        found = roi_box(piece, EVEN, EVEN, bounds)
        assert box_shape(found) == (32, 50, 50)
        assert all(a >= 10 and b <= 60 for a, b in found)


SHAPE = (30, 50, 120)
RIGHT = (slice(8, 20), slice(15, 35), slice(10, 30))
LEFT = (slice(9, 20), slice(15, 35), slice(85, 105))  # a slice smaller
SPECKS = ((slice(0, 1), slice(0, 2), slice(0, 2)), (slice(29, 30), slice(40, 42), slice(60, 62)))


def _mask(*pieces: tuple[slice, slice, slice]) -> NDArray[np.bool_]:
    mask = np.zeros(SHAPE, bool)
    for piece in pieces:
        mask[piece] = True
    return mask


def _rois(mask: NDArray[np.bool_], minimum_ml: float = 1.0, margin_mm: float = 45.0) -> list[Box]:
    return kidney_rois(mask, EVEN, EVEN, margin_mm=margin_mm, minimum_ml=minimum_ml)


def _holds(box: Box, piece: tuple[slice, slice, slice]) -> bool:
    return all(a <= s.start and s.stop <= b for (a, b), s in zip(box, piece, strict=True))


def test_two_kidneys_and_specks_give_two_regions_largest_first() -> None:
    right, left = _rois(_mask(RIGHT, LEFT, *SPECKS))
    # 12 slices -> 16, centred on 14; all 50 rows; 23 columns of margin leave less than 64
    assert right == ((6, 22), (0, 50), (0, 53))
    assert left == ((6, 22), (0, 50), (62, 120))


def test_a_single_kidney_is_one_region_and_nothing_is_none() -> None:
    assert len(_rois(_mask(LEFT))) == 1
    assert len(_rois(_mask(LEFT, *SPECKS))) == 1
    assert _rois(_mask()) == []


def test_of_three_large_pieces_the_two_largest_count() -> None:
    middle = (slice(9, 19), slice(15, 35), slice(50, 70))
    found = _rois(_mask(middle, LEFT, RIGHT))
    assert [_holds(found[0], RIGHT), _holds(found[1], LEFT)] == [True, True]
    pieces = largest_pieces(_mask(middle, LEFT, RIGHT), EVEN, 1.0)
    assert [p.ml for p in pieces] == pytest.approx([12 * 400 * 0.008, 11 * 400 * 0.008])


def test_touching_kidneys_are_one_larger_region() -> None:
    bridge = (slice(12, 14), slice(20, 22), slice(30, 85))
    (found,) = _rois(_mask(LEFT, RIGHT, bridge))
    assert _holds(found, LEFT)
    assert _holds(found, RIGHT)
    # 95 voxels of 190 mm: the next multiple of 16
    assert found[2][1] - found[2][0] == 96


def test_if_all_are_small_the_largest_is_taken_for_a_kidney() -> None:
    (found,) = _rois(_mask(LEFT, *SPECKS), minimum_ml=1000)
    assert _holds(found, LEFT)


def test_regions_stay_within_what_training_stored() -> None:
    (found,) = _rois(_mask(LEFT), margin_mm=5.0)  # 2.5 -> 3 voxels
    assert found == ((6, 22), (12, 38), (82, 108))


def test_regions_may_overlap() -> None:
    near = (slice(8, 20), slice(15, 35), slice(34, 54))
    first, second = _rois(_mask(RIGHT, near))
    assert first[2][1] > second[2][0]
