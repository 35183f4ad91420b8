"""How many kidneys a mask shows, which ones are looked at, and when a correction counts."""

from __future__ import annotations

from collections import deque
from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray

from renalplan.kidneys import (
    LEAST_ML,
    PAPER_SPACING,
    THRESHOLD_ML,
    count_kidneys,
    is_abnormal,
    is_better,
    separate_kidneys,
    split_by_midplane,
)

SPACING = (2.0, 2.0, 2.5)  # 0.01 ml a voxel
SHAPE = (20, 20, 30)
Mask = NDArray[np.bool_]


def _mask(*boxes: tuple[slice, slice, slice], shape: tuple[int, int, int] = SHAPE) -> Mask:
    mask = np.zeros(shape, bool)
    for box in boxes:
        mask[box] = True
    return mask


# 10 x 10 x 10 voxels are 10 ml, 5 x 5 x 5 are 1.25
RIGHT = (slice(2, 12), slice(2, 12), slice(2, 12))
LEFT = (slice(4, 14), slice(4, 14), slice(18, 28))
SMALL = (slice(15, 20), slice(15, 20), slice(0, 5))
ML = 5.0  # threshold


def _slow_components(mask: Mask) -> list[int]:
    """Voxels of each component by flood fill over all 26 neighbours, largest first."""
    left = {tuple(int(v) for v in p) for p in np.argwhere(mask)}
    steps = [s for s in product((-1, 0, 1), repeat=3) if any(s)]
    sizes = []
    while left:
        queue, size = deque([left.pop()]), 0
        while queue:
            here = queue.popleft()
            size += 1
            for step in steps:
                there = tuple(a + b for a, b in zip(here, step, strict=True))
                if there in left:
                    left.remove(there)
                    queue.append(there)
        sizes.append(size)
    return sorted(sizes, reverse=True)


@pytest.mark.parametrize("seed", range(5))
def test_what_is_counted_is_what_a_flood_fill_counts(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random((9, 8, 10)) < (0.02, 0.05, 0.1, 0.15, 0.3)[seed]
    threshold = 0.025  # more than 2 voxels of 0.01 ml
    found = count_kidneys(mask, SPACING, threshold)
    expected = [n for n in _slow_components(mask) if n > 2]
    assert [round(piece.ml / 0.01) for piece in found] == expected


def test_the_papers_10000_voxels_are_not_above_10000_voxels() -> None:
    assert pytest.approx(18.327, abs=0.001) == THRESHOLD_ML
    mask = np.zeros((50, 60, 60), bool)
    mask[:10, :40, :25] = True  # 10,000
    assert count_kidneys(mask, PAPER_SPACING) == []
    mask[10, 0, 0] = True
    assert len(count_kidneys(mask, PAPER_SPACING)) == 1
    # the same volume at another spacing: 8 times the voxels at half the edge
    fine = np.zeros((100, 120, 120), bool)
    fine[:20, :80, :50] = True
    half = tuple(s / 2 for s in PAPER_SPACING)
    assert count_kidneys(fine, half) == []  # type: ignore[arg-type]
    fine[20, 0, 0] = True
    assert len(count_kidneys(fine, half)) == 1  # type: ignore[arg-type]


def test_voxels_that_share_a_corner_are_one_kidney() -> None:
    corner = (slice(12, 17), slice(12, 17), slice(12, 17))
    (piece,) = count_kidneys(_mask(RIGHT, corner), SPACING, ML)
    assert piece.ml == pytest.approx(11.25)
    apart = (slice(13, 18), slice(13, 18), slice(13, 18))
    assert count_kidneys(_mask(RIGHT, apart), SPACING, ML)[0].ml == pytest.approx(10)


@pytest.mark.parametrize(
    ("boxes", "abnormal"),
    [
        ((RIGHT, LEFT), False),
        ((RIGHT, LEFT, SMALL), False),  # noise does not count
        ((RIGHT,), True),
        ((), True),
        ((SMALL,), True),
        ((RIGHT, LEFT, (slice(16, 20), slice(0, 15), slice(8, 18))), True),  # 6 ml: three
    ],
)
def test_exactly_two_is_normal(boxes: tuple, abnormal: bool) -> None:
    assert is_abnormal(count_kidneys(_mask(*boxes), SPACING, ML)) == abnormal


def test_two_kidneys_are_two_with_their_boxes_and_middles_largest_first() -> None:
    larger = (slice(4, 14), slice(4, 14), slice(18, 29))
    left, right = separate_kidneys(_mask(RIGHT, larger, SMALL), SPACING, ML)
    assert left.box == ((4, 14), (4, 14), (18, 29))
    assert right.box == ((2, 12), (2, 12), (2, 12))
    assert left.centre == pytest.approx((8.5, 8.5, 23.0))
    assert right.centre == pytest.approx((6.5, 6.5, 6.5))
    assert (left.ml, right.ml) == (pytest.approx(11), pytest.approx(10))


def test_a_single_kidney_is_one_wherever_it_lies() -> None:
    assert len(separate_kidneys(_mask(RIGHT), SPACING, ML)) == 1
    # it reaches over the middle by 4 ml, which is no kidney
    over = (slice(2, 12), slice(2, 12), slice(5, 19))
    (piece,) = separate_kidneys(_mask(over), SPACING, ML)
    assert piece.box == ((2, 12), (2, 12), (5, 19))


def test_touching_kidneys_are_split_by_the_mid_sagittal_plane() -> None:
    bridge = (slice(6, 8), slice(6, 8), slice(12, 18))
    mask = _mask(RIGHT, LEFT, bridge)
    assert len(count_kidneys(mask, SPACING, ML)) == 1
    first, second = sorted(separate_kidneys(mask, SPACING, ML), key=lambda p: p.box[2])
    assert first.box == ((2, 12), (2, 12), (2, 15))
    assert second.box == ((4, 14), (4, 14), (15, 28))
    # 1000 voxels at 6.5 and 12 of the bridge at 13: voxel centres
    assert first.centre[2] == pytest.approx((1000 * 6.5 + 12 * 13.0) / 1012)
    assert first.ml == second.ml == pytest.approx(10.12)


def test_splitting_looks_at_the_largest_component_alone() -> None:
    # a small piece on the other side must not make the kidney two
    (piece,) = separate_kidneys(
        _mask(RIGHT, (slice(15, 19), slice(1, 10), slice(20, 30))), SPACING, ML
    )
    assert piece.box == ((2, 12), (2, 12), (2, 12))
    (half,) = split_by_midplane(_mask(RIGHT), SPACING)
    assert half.box == ((2, 12), (2, 12), (2, 12))
    assert split_by_midplane(_mask(), SPACING) == []


def test_of_three_the_two_largest_are_looked_at() -> None:
    third = (slice(16, 20), slice(0, 15), slice(8, 18))  # 6 ml
    found = separate_kidneys(_mask(third, RIGHT, LEFT), SPACING, ML)
    assert sorted(p.box[2] for p in found) == [(2, 12), (18, 28)]


def test_if_nothing_is_large_enough_the_largest_piece_is_taken_but_no_speck() -> None:
    tiny = (slice(0, 3), slice(0, 3), slice(0, 1))  # 0.09 ml
    (piece,) = separate_kidneys(_mask(SMALL, tiny), SPACING, ML)
    assert piece.ml == pytest.approx(1.25)
    assert separate_kidneys(_mask(tiny), SPACING, ML) == []
    assert LEAST_ML == 0.1
    ten = (slice(0, 5), slice(0, 2), slice(0, 1))
    assert len(separate_kidneys(_mask(ten), SPACING, ML)) == 1
    assert separate_kidneys(_mask(), SPACING, ML) == []


@pytest.mark.parametrize(
    ("corrected", "coarse", "better"),
    [
        ((RIGHT, LEFT), (RIGHT,), True),
        ((RIGHT,), (RIGHT,), True),  # a solitary kidney: the correction's mask is used
        ((RIGHT,), (), True),
        ((), (RIGHT,), False),  # a kidney that was found is not thrown away
        ((SMALL,), (RIGHT,), False),
        ((SMALL,), (SMALL,), True),
        ((SMALL,), (), True),
        ((), (SMALL,), False),
        ((), (), False),
    ],
)
def test_a_correction_replaces_the_coarse_mask_unless_it_loses_every_kidney(
    corrected: tuple, coarse: tuple, better: bool
) -> None:
    assert is_better(_mask(*corrected), _mask(*coarse), SPACING, ML) == better
