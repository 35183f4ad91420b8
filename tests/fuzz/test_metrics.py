"""Metrics of any two masks: who is the reference, how the scan lies, and in which unit, is all one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from renalplan.evaluation.centerline import compare_centerlines
from renalplan.evaluation.detection import detect_lesions
from renalplan.evaluation.overlap import overlap
from renalplan.evaluation.surface import (
    SurfaceDistances,
    diagonal_mm,
    surface_distances,
    surface_voxels,
)
from renalplan.evaluation.surfels import surface_dice
from renalplan.pieces import number_pieces

shapes = st.tuples(*[st.integers(1, 7)] * 3)
spacings = st.tuples(*[st.floats(0.1, 10)] * 3)
masks = shapes.flatmap(lambda shape: arrays(bool, shape))
pairs = shapes.flatmap(lambda shape: st.tuples(arrays(bool, shape), arrays(bool, shape)))
triples = shapes.flatmap(lambda shape: st.tuples(*[arrays(bool, shape)] * 3))

Pair = tuple[NDArray, NDArray]
Spacing = tuple[float, float, float]
CLOSE = {"rel": 1e-5, "abs": 1e-6}


def numbers(found: SurfaceDistances) -> list[float]:
    return [found.hausdorff_mm, found.hd95_mm, found.average_hausdorff_mm, found.assd_mm]


@given(pairs, spacings)
def test_overlap_is_symmetric_and_its_scores_hang_together(pair: Pair, spacing: Spacing) -> None:
    one, other = overlap(*pair, spacing), overlap(*pair[::-1], spacing)
    assert (one.dice, one.iou) == (other.dice, other.iou)
    assert (one.sensitivity, one.precision) == (other.precision, other.sensitivity)
    assert (one.reference_ml, one.predicted_ml) == (other.predicted_ml, other.reference_ml)
    assert one.true_positives == other.true_positives
    assert one.false_positives == other.false_negatives
    assert one.dice == pytest.approx(2 * one.iou / (1 + one.iou))
    assert 0 <= one.iou <= min(one.sensitivity, one.precision)
    assert max(one.sensitivity, one.precision) <= 1
    if one.dice:
        harmonic = 2 / (1 / one.sensitivity + 1 / one.precision)
        assert one.dice == pytest.approx(harmonic)
    assert (one.dice == 1) == np.array_equal(*pair)
    voxel = float(np.prod(spacing)) / 1000
    assert one.reference_ml == pytest.approx(pair[0].sum() * voxel)


@given(pairs, spacings)
def test_of_a_mask_and_what_is_not_in_it_nothing_agrees(pair: Pair, spacing: Spacing) -> None:
    mask = pair[0]
    found = overlap(mask, ~mask, spacing)
    assert [found.dice, found.iou, found.sensitivity, found.precision] == [0] * 4


@given(pairs, spacings)
def test_distances_are_symmetric_ordered_and_within_the_scan(pair: Pair, spacing: Spacing) -> None:
    found = numbers(surface_distances(*pair, spacing))
    assert numbers(surface_distances(*pair[::-1], spacing)) == pytest.approx(found, **CLOSE)
    largest, hd95, mean, pooled = found
    assert 0 <= pooled <= mean * (1 + 1e-6)
    assert mean <= largest * (1 + 1e-6)
    assert 0 <= hd95 <= largest * (1 + 1e-6)
    assert largest <= diagonal_mm(pair[0].shape, spacing) * (1 + 1e-6)


@given(pairs, spacings)
def test_centerlines_are_symmetric_and_a_tube_follows_itself(pair: Pair, spacing: Spacing) -> None:
    one, other = compare_centerlines(*pair, spacing), compare_centerlines(*pair[::-1], spacing)
    assert one.distance_mm == pytest.approx(other.distance_mm, **CLOSE)
    assert one.cldice == pytest.approx(other.cldice)
    assert 0 <= one.distance_mm <= diagonal_mm(pair[0].shape, spacing) * (1 + 1e-6)
    assert 0 <= one.cldice <= 1
    itself = compare_centerlines(pair[0], pair[0], spacing)
    assert (itself.distance_mm, itself.cldice) == (0, 1)


@given(pairs, spacings, st.floats(0, 10), st.floats(0, 10))
def test_surface_dice_is_symmetric_and_grows_with_the_tolerance(
    pair: Pair, spacing: Spacing, tolerance: float, more: float
) -> None:
    found = surface_dice(*pair, spacing, tolerance)
    assert 0 <= found <= surface_dice(*pair, spacing, tolerance + more) + 1e-12 <= 1 + 1e-9
    assert surface_dice(*pair[::-1], spacing, tolerance) == pytest.approx(found)
    assert surface_dice(pair[0], pair[0], spacing, 0) == pytest.approx(1)
    far = surface_dice(*pair, spacing, diagonal_mm(pair[0].shape, spacing))
    assert far == pytest.approx(float(pair[0].any() == pair[1].any()))


@given(pairs)
def test_every_lesion_is_found_missed_or_false(pair: Pair) -> None:
    found = detect_lesions(*pair)
    true, predicted = (int(number_pieces(mask).max(initial=0)) for mask in pair)
    assert found.found + found.missed == true
    assert found.found + found.false == predicted
    assert min(found.found, found.missed, found.false) >= 0
    assert detect_lesions(pair[0], pair[0]).found == true


@given(pairs, spacings)
def test_distances_are_nothing_for_equal_surfaces_alone(pair: Pair, spacing: Spacing) -> None:
    first, second = pair
    same = np.array_equal(surface_voxels(first), surface_voxels(second))
    assert (surface_distances(first, second, spacing).hausdorff_mm == 0) == same
    assert numbers(surface_distances(first, first, spacing)) == [0] * 4


@given(triples, spacings)
def test_hausdorff_takes_no_way_round(masks: tuple[NDArray, ...], spacing: Spacing) -> None:
    first, second, third = masks
    if not (first.any() and second.any() and third.any()):
        return  # a stated value is no distance
    way = surface_distances(first, second, spacing).hausdorff_mm
    way += surface_distances(second, third, spacing).hausdorff_mm
    assert surface_distances(first, third, spacing).hausdorff_mm <= way * (1 + 1e-5)


@given(pairs, spacings, st.permutations(range(3)), st.tuples(*[st.sampled_from((1, -1))] * 3))
def test_turning_the_scan_changes_no_distance(
    pair: Pair, spacing: Spacing, order: list[int], flips: tuple[int, ...]
) -> None:
    def turned(mask: NDArray) -> NDArray:
        return mask.transpose(order)[tuple(slice(None, None, f) for f in flips)]

    found = numbers(surface_distances(*pair, spacing))
    there: Spacing = tuple(spacing[a] for a in order)  # type: ignore[assignment]
    other = numbers(surface_distances(turned(pair[0]), turned(pair[1]), there))
    assert other == pytest.approx(found, **CLOSE)
    assert overlap(turned(pair[0]), turned(pair[1]), there).dice == overlap(*pair, spacing).dice
    near = surface_dice(turned(pair[0]), turned(pair[1]), there, 1)
    assert near == pytest.approx(surface_dice(*pair, spacing, 1))


@given(pairs, spacings, st.floats(0.1, 10))
def test_distances_grow_with_the_voxels(pair: Pair, spacing: Spacing, times: float) -> None:
    found = numbers(surface_distances(*pair, spacing))
    scaled: Spacing = tuple(times * s for s in spacing)  # type: ignore[assignment]
    other = numbers(surface_distances(*pair, scaled))
    assert other == pytest.approx([times * value for value in found], **CLOSE)


@given(pairs, spacings, st.tuples(*[st.tuples(*[st.integers(0, 3)] * 2)] * 3))
def test_room_around_the_masks_changes_no_distance(
    pair: Pair, spacing: Spacing, margin: tuple[tuple[int, int], ...]
) -> None:
    scan = tuple(n + sum(m) for n, m in zip(pair[0].shape, margin, strict=True))
    cut = numbers(surface_distances(*pair, spacing, scan=scan))  # type: ignore[arg-type]
    whole = numbers(surface_distances(*(np.pad(mask, margin) for mask in pair), spacing))  # type: ignore[misc]
    assert cut == pytest.approx(whole, **CLOSE)


@given(masks)
def test_surface_is_part_of_the_mask_and_the_rest_is_wrapped(mask: NDArray) -> None:
    surface = surface_voxels(mask)
    assert not (surface & ~mask).any()
    inner = np.pad(mask & ~surface, 1)
    around = np.pad(mask, 1)
    for axis in range(3):
        for step in (-1, 1):
            assert around[np.roll(inner, step, axis)].all()
    edges = np.ones(mask.shape, bool)
    edges[1:-1, 1:-1, 1:-1] = False
    np.testing.assert_array_equal(surface & edges, mask & edges)
