"""Which tumor voxels count: connected to a kidney, by whom found, where the second network looks."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray

from renalplan.geometry import Box, box_slices
from renalplan.lesions import (
    BOTH,
    FALLBACK,
    NOTHING,
    Tumors,
    connected_to,
    decide_tumors,
    volumes_ml,
    within,
)

SPACING = (2.0, 2.0, 2.5)  # 0.01 ml a voxel
SHAPE = (16, 20, 24)
KIDNEY = (slice(4, 12), slice(4, 14), slice(4, 14))
SEARCH: list[Box] = [((1, 15), (1, 18), (1, 20))]
INSIDE = (slice(6, 10), slice(6, 10), slice(6, 10))  # 0.64 ml
OFF = (slice(2, 6), slice(2, 6), slice(16, 19))  # 0.48 ml, two voxels from the kidney
Floats = NDArray[np.float32]


def _kidney() -> NDArray[np.bool_]:
    mask = np.zeros(SHAPE, bool)
    mask[KIDNEY] = True
    return mask


def _map(*places: tuple[slice, slice, slice], value: float = 0.9, rest: float = 0.0) -> Floats:
    result = np.full(SHAPE, rest, np.float32)
    for place in places:
        result[place] = value
    return result


class Second:
    """The 2-D network: says what it was told, and remembers where it was asked to look."""

    def __init__(self, answer: Floats) -> None:
        self.answer = answer
        self.asked: list[list[Box]] = []

    def __call__(self, boxes: list[Box]) -> Floats:
        self.asked.append(boxes)
        return within(self.answer, boxes)


def _decide(first: Floats, second: Floats | Second, **values: float) -> Tumors:
    refine = second if isinstance(second, Second) else Second(second)
    return decide_tumors(first, refine, _kidney(), SEARCH, SPACING, **values)


def _slow_connected(lesions: NDArray[np.bool_], kidney: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Grows from the lesion voxels that overlap or touch the kidney, over 26 neighbours."""
    steps = list(product((-1, 0, 1), repeat=3))
    wanted = {tuple(int(v) for v in p) for p in np.argwhere(lesions)}
    kept = {p for p in wanted if any(_at(kidney, p, step) for step in steps)}
    front = set(kept)
    while front:
        front = {
            q
            for p in front
            for step in steps
            if (q := tuple(a + b for a, b in zip(p, step, strict=True))) in wanted and q not in kept
        }
        kept |= front
    result = np.zeros_like(lesions)
    for p in kept:
        result[p] = True
    return result


def _at(mask: NDArray[np.bool_], place: tuple[int, ...], step: tuple[int, ...]) -> bool:
    there = tuple(a + b for a, b in zip(place, step, strict=True))
    return all(0 <= v < n for v, n in zip(there, mask.shape, strict=True)) and bool(mask[there])


@pytest.mark.parametrize("seed", range(6))
def test_connected_lesions_are_those_a_flood_from_the_kidney_reaches(seed: int) -> None:
    rng = np.random.default_rng(seed)
    lesions = rng.random((10, 9, 11)) < (0.01, 0.05, 0.1, 0.2, 0.4, 0.0)[seed]
    kidney = np.zeros_like(lesions)
    kidney[3:6, 3:6, 3:6] = True
    kept, removed = connected_to(lesions, kidney)
    expected = _slow_connected(lesions, kidney)
    assert np.array_equal(kept, expected)
    assert np.array_equal(removed, lesions & ~expected)


@pytest.mark.parametrize(
    ("place", "connected"),
    [
        (INSIDE, True),
        ((slice(6, 8), slice(14, 16), slice(6, 8)), True),  # face to face
        ((slice(12, 14), slice(14, 16), slice(14, 16)), True),  # corner to corner
        ((slice(6, 8), slice(15, 17), slice(6, 8)), False),  # a voxel between
        ((slice(10, 16), slice(12, 18), slice(12, 18)), True),  # partly in it
    ],
)
def test_touching_by_a_corner_is_enough_and_a_gap_of_a_voxel_is_not(
    place: tuple[slice, slice, slice], connected: bool
) -> None:
    lesion = _map(place) > 0.5
    kept, removed = connected_to(lesion, _kidney())
    assert kept.any() == connected
    assert removed.any() != connected
    assert np.array_equal(kept | removed, lesion)


def test_without_a_kidney_nothing_is_connected() -> None:
    lesion = _map(INSIDE) > 0.5
    kept, removed = connected_to(lesion, np.zeros(SHAPE, bool))
    assert not kept.any()
    assert np.array_equal(removed, lesion)


def test_a_lesion_off_the_kidney_is_removed_and_reported() -> None:
    found = _decide(_map(INSIDE, OFF), _map())
    assert found.source == BOTH
    assert np.array_equal(found.probability > 0.5, _map(INSIDE) > 0.5)
    assert not found.probability[OFF].any()
    assert found.kept_ml == pytest.approx((0.64,))
    assert found.removed_ml == pytest.approx((0.48,))


def test_the_second_network_adds_what_the_first_missed_within_its_lesions_box_only() -> None:
    # an L: its box has a corner that the 3-D network left out
    first = _map(
        (slice(6, 10), slice(6, 7), slice(6, 10)), (slice(6, 10), slice(6, 10), slice(6, 7))
    )
    second = Second(_map((slice(5, 12), slice(5, 12), slice(5, 12)), value=0.8))
    found = _decide(first, second)
    assert second.asked == [[((6, 10), (6, 10), (6, 10))]]
    assert np.array_equal(found.probability > 0.5, _map(INSIDE) > 0.5)
    # the more certain of the two counts
    assert found.probability[6, 6, 6] == pytest.approx(0.9)
    assert found.probability[8, 8, 8] == pytest.approx(0.8)
    assert found.source == BOTH
    assert found.kept_ml == pytest.approx((0.64,))


def test_each_lesion_has_a_box_of_its_own() -> None:
    other = (slice(6, 9), slice(11, 13), slice(11, 13))
    second = Second(_map())
    _decide(_map(INSIDE, other, OFF), second)
    assert second.asked == [[((6, 10), (6, 10), (6, 10)), ((6, 9), (11, 13), (11, 13))]]


def test_what_the_second_network_finds_in_a_lesions_box_but_off_the_kidney_is_removed() -> None:
    # the lesion reaches out of the kidney diagonally, so its box holds a corner far from it
    arm = tuple((slice(8, 10), slice(13 + n, 14 + n), slice(13 + n, 14 + n)) for n in range(5))
    corner = (slice(8, 10), slice(13, 14), slice(17, 18))
    first = _map(*arm)
    found = _decide(first, _map(corner), least_ml=0.05)
    assert np.array_equal(found.probability > 0.5, first > 0.5)
    assert found.removed_ml == pytest.approx((0.02,))


def test_if_the_first_finds_nothing_the_second_looks_through_the_whole_region() -> None:
    second = Second(
        _map(INSIDE, OFF, (slice(15, 16), slice(0, 1), slice(0, 1)), value=0.7, rest=0.2)
    )
    found = _decide(_map(), second)
    assert second.asked == [SEARCH]
    assert found.source == FALLBACK
    assert np.array_equal(found.probability > 0.5, _map(INSIDE) > 0.5)
    assert found.kept_ml == pytest.approx((0.64,))
    assert found.removed_ml == pytest.approx((0.48,))
    # what is below one half stays as probable as it is
    assert found.probability[3, 3, 12] == pytest.approx(0.2)


def test_a_handful_of_voxels_is_nothing_and_so_is_what_is_off_the_kidney() -> None:
    few = (slice(6, 7), slice(6, 9), slice(6, 9))  # 9 voxels, 0.09 ml
    for first in (_map(few), _map(OFF), _map(few, OFF)):
        second = Second(_map(INSIDE))
        found = _decide(first, second)
        assert second.asked == [SEARCH]
        assert found.source == FALLBACK
        assert np.array_equal(found.probability > 0.5, _map(INSIDE) > 0.5)
    second = Second(_map(INSIDE))
    ten = (slice(6, 7), slice(6, 8), slice(6, 11))
    assert _decide(_map(ten), second).source == BOTH
    assert second.asked == [[((6, 7), (6, 8), (6, 11))]]


def test_lesions_are_counted_together_before_they_are_nothing() -> None:
    one = (slice(6, 7), slice(6, 8), slice(6, 9))  # 6 voxels each
    two = (slice(6, 7), slice(10, 12), slice(6, 9))
    assert _decide(_map(one, two), _map()).source == BOTH


def test_if_neither_finds_anything_there_is_no_tumor_and_that_is_said() -> None:
    few = (slice(6, 7), slice(6, 9), slice(6, 9))
    for first, second in ((_map(), _map()), (_map(few), _map(few)), (_map(), _map(OFF))):
        found = _decide(first, second)
        assert found.source == NOTHING
        assert not (found.probability > 0.5).any()
        assert found.kept_ml == ()
    assert found.removed_ml == pytest.approx((0.48,))


def test_one_half_is_no_tumor() -> None:
    assert _decide(_map(INSIDE, value=0.5), _map(INSIDE, value=0.5)).source == NOTHING


def test_probabilities_stay_float32_and_within_cuts_boxes() -> None:
    found = _decide(_map(INSIDE), _map(INSIDE))
    assert found.probability.dtype == np.float32
    cut = within(np.ones(SHAPE, np.float32), [((0, 2), (0, 3), (0, 4)), ((1, 3), (0, 1), (0, 1))])
    assert cut.sum() == 2 * 3 * 4 + 1
    assert cut[box_slices(((0, 2), (0, 3), (0, 4)))].all()
    assert volumes_ml(np.zeros(SHAPE, bool), SPACING) == ()
