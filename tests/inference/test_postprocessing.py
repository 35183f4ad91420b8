"""Rules on label maps: each against plain NumPy, and that two of what there can be two of stay."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
from scipy import ndimage

from renalplan.geometry import Grid, Orientation
from renalplan.inference.postprocessing.apply import Removed, apply_rules, as_decisions
from renalplan.labels import LabelScheme
from renalplan.postprocessing import (
    AtMostTwoKidneys,
    LesionsTouchKidney,
    MinimumVolume,
    Rule,
    VesselsReachAorta,
    misfit,
)

SPACING = (3.0, 1.5, 2.0)  # 9 microlitres a voxel
VOXEL_ML = 0.009
ALL = LabelScheme(
    names=("background", "kidney", "tumor", "artery"), values=((0,), (1,), (2,), (3,))
)
KITS = LabelScheme(
    names=("kidney", "masses", "tumor"), values=((1, 2, 3), (2, 3), (2,)), region_values=(1, 3, 2)
)
EVERYWHERE = np.ones((3, 3, 3), bool)
SHAPE = (40, 60, 100)


def ellipsoid(centre: tuple[float, ...], radii: tuple[float, ...]) -> np.ndarray:
    grid = np.indices(SHAPE).astype(float)
    result: np.ndarray = (
        sum(((g - c) / r) ** 2 for g, c, r in zip(grid, centre, radii, strict=True)) <= 1
    )
    return result


def box(*ranges: tuple[int, int]) -> tuple[slice, ...]:
    return tuple(slice(*r) for r in ranges)


@pytest.fixture
def abdomen() -> np.ndarray:
    """Two kidneys (28 ml), a tumor on the left one, an artery from near the middle to each."""
    labels = np.zeros(SHAPE, np.uint8)
    for x in (20, 78):
        labels[ellipsoid((20, 35, x), (10, 10, 8))] = 1
    labels[ellipsoid((20, 35, 87), (4, 4, 4))] = 2
    labels[box((19, 21), (34, 36), (26, 47))] = 3  # into the right kidney's hilum
    labels[box((19, 21), (34, 36), (52, 73))] = 3
    return labels


def run(
    labels: np.ndarray, *rules: Rule, scheme: LabelScheme = ALL
) -> tuple[np.ndarray, list[Removed]]:
    before = labels.copy()
    result, removed = apply_rules(labels, SPACING, scheme, rules)
    assert np.array_equal(labels, before), "the input must stay as it is"
    assert (result.dtype, result.shape) == (labels.dtype, labels.shape)
    return result, removed


EVERY_RULE = (
    AtMostTwoKidneys(), LesionsTouchKidney(), VesselsReachAorta(),
    MinimumVolume(structure="kidney", ml=5), MinimumVolume(structure="tumor", ml=0.1),
)  # fmt: skip


def test_nothing_is_removed_from_what_is_right(abdomen: np.ndarray) -> None:
    result, removed = run(abdomen, *EVERY_RULE)
    assert removed == []
    assert np.array_equal(result, abdomen)


def test_an_empty_map_stays_empty() -> None:
    result, removed = run(np.zeros(SHAPE, np.uint8), *EVERY_RULE)
    assert removed == []
    assert not result.any()


def test_two_kidneys_stay_and_a_third_goes_with_its_tumor(abdomen: np.ndarray) -> None:
    third = abdomen.copy()
    stray = ellipsoid((20, 10, 60), (4, 4, 4))
    third[stray] = 1
    third[box((19, 22), (9, 12), (59, 62))] = 2
    result, removed = run(third, AtMostTwoKidneys())
    assert np.array_equal(result, abdomen)
    (found,) = removed
    assert found.pieces_ml == pytest.approx([stray.sum() * VOXEL_ML])
    assert "1 piece removed" in found.sentence()
    kept, removed = run(third, AtMostTwoKidneys(at_most=3))
    assert np.array_equal(kept, third)


def test_the_pieces_that_stay_are_the_largest() -> None:
    rng = np.random.default_rng(0)
    labels = (ndimage.gaussian_filter(rng.normal(size=SHAPE), 2) > 0.05).astype(np.uint8)
    numbers, count = ndimage.label(labels, EVERYWHERE)
    assert count > 20
    sizes = np.bincount(numbers.ravel())[1:]
    largest = 1 + np.argsort(-sizes, kind="stable")[:2]
    result, _ = run(labels, AtMostTwoKidneys())
    assert np.array_equal(result > 0, np.isin(numbers, largest))


def test_a_kidney_that_a_tumor_cuts_in_two_is_one_kidney(abdomen: np.ndarray) -> None:
    abdomen[18:23][abdomen[18:23] == 1] = 2  # through both
    result, removed = run(abdomen, AtMostTwoKidneys())
    assert not removed
    assert np.array_equal(result, abdomen)


def test_lesions_without_kidney_go_and_those_that_touch_by_a_corner_stay(
    abdomen: np.ndarray,
) -> None:
    wanted = abdomen.copy()
    z, y, x = (int(v[0]) for v in np.nonzero(abdomen == 1))
    wanted[z - 1, y - 1, x - 1] = 2
    labels = wanted.copy()
    labels[box((2, 5), (5, 9), (40, 45))] = 2
    labels[box((30, 31), (5, 9), (40, 45))] = 2
    result, removed = run(labels, LesionsTouchKidney())
    assert np.array_equal(result, wanted)
    assert removed[0].pieces_ml == pytest.approx([60 * VOXEL_ML, 20 * VOXEL_ML])
    numbers, count = ndimage.label(labels == 2, EVERYWHERE)  # the same in other words
    grown = ndimage.binary_dilation(labels == 1, EVERYWHERE)
    touching = [n for n in range(1, count + 1) if (grown & (numbers == n)).any()]
    assert np.array_equal(result == 2, np.isin(numbers, touching))


def test_a_tumor_that_has_replaced_all_kidney_stays(abdomen: np.ndarray) -> None:
    abdomen[abdomen == 1] = 2
    result, removed = run(abdomen, LesionsTouchKidney())
    assert not removed
    assert np.array_equal(result, abdomen)


@pytest.mark.parametrize("scheme", [ALL, KITS], ids=["classes", "regions"])
def test_a_speck_becomes_what_surrounds_it(scheme: LabelScheme) -> None:
    labels = np.zeros(SHAPE, np.uint8)
    labels[ellipsoid((20, 35, 20), (10, 10, 8))] = 1
    wanted = labels.copy()
    labels[20, 35, 20:22] = 2  # in the kidney: becomes kidney
    labels[5, 5, 5] = 2  # in the fat: becomes background
    large = box((30, 34), (2, 6), (80, 84))
    labels[large] = wanted[large] = 2
    result, removed = run(labels, MinimumVolume(structure="tumor", ml=64 * VOXEL_ML), scheme=scheme)
    assert np.array_equal(result, wanted)  # a piece of exactly the volume stays
    assert removed[0].pieces_ml == pytest.approx([2 * VOXEL_ML, VOXEL_ML])
    gone, _ = run(labels, MinimumVolume(structure="tumor", ml=64.1 * VOXEL_ML), scheme=scheme)
    assert not (gone == 2).any()


def test_a_regions_pieces_are_those_of_all_its_values() -> None:
    labels = np.zeros(SHAPE, np.uint8)
    labels[box((5, 8), (5, 8), (5, 8))] = 2
    labels[box((8, 11), (5, 8), (5, 8))] = 3
    labels[30, 30, 30] = 3
    result, _ = run(labels, MinimumVolume(structure="masses", ml=50 * VOXEL_ML), scheme=KITS)
    labels[30, 30, 30] = 0
    assert np.array_equal(result, labels)


LATERAL = box((19, 21), (34, 36), (2, 8))  # beyond the right kidney
HILUM = box((19, 21), (34, 36), (14, 22))  # shut up in it
NEAR_BREAK = box((19, 21), (34, 36), (35, 36))  # one voxel of 2 mm out of the artery
WIDE_BREAK = box((19, 21), (34, 36), (26, 40))


def test_a_vessel_must_come_from_the_aortas_side(abdomen: np.ndarray) -> None:
    labels = abdomen.copy()
    labels[LATERAL] = 3
    labels[HILUM] = 3
    # the artery's own end lies in the hilum and is not part of that piece
    assert labels[20, 35, 22] == 1
    result, removed = run(labels, VesselsReachAorta())
    assert np.array_equal(result, abdomen)  # in the kidney it becomes kidney again
    assert len(removed[0].pieces_ml) == 2


def test_a_broken_vessel_is_one_across_a_small_gap(abdomen: np.ndarray) -> None:
    abdomen[HILUM] = 1
    for cut, stays in ((NEAR_BREAK, True), (WIDE_BREAK, False)):
        labels = abdomen.copy()
        labels[box((19, 21), (34, 36), (22, 47))] = 3
        labels[cut] = 0
        # what is left lateral of the wide break ends within the kidney
        result, _ = run(labels, VesselsReachAorta(gap_mm=5))
        assert (result[20, 35, 24] == 3) == stays
        assert result[20, 35, 45] == 3
    exact, _ = run(labels, VesselsReachAorta(gap_mm=30))
    assert np.array_equal(exact, labels)


def test_the_nearest_vessel_of_a_side_stays_whatever_it_is(abdomen: np.ndarray) -> None:
    abdomen[abdomen == 3] = 0
    abdomen[LATERAL] = 3
    result, removed = run(abdomen, VesselsReachAorta())
    assert not removed
    assert np.array_equal(result, abdomen)


def test_without_kidneys_a_vessel_must_come_as_near_to_the_middle_as_the_nearest() -> None:
    vessels = LabelScheme(names=("background", "vein"), values=((0,), (1,)))
    wanted = np.zeros(SHAPE, np.uint8)
    wanted[20, 30, 30:46] = 1
    wanted[25, 30, 30:41] = 1  # ends 10 mm further out
    wanted[20, 30, 60:80] = 1
    labels = wanted.copy()
    labels[25, 30, 20:30] = 0
    labels[10, 30, 20:30] = 1  # ends 32 mm further out
    result, _ = run(labels, VesselsReachAorta(reach_mm=20), scheme=vessels)
    assert np.array_equal(result, wanted)
    result, _ = run(labels, VesselsReachAorta(reach_mm=40), scheme=vessels)
    assert np.array_equal(result, labels)


def test_what_holds_the_aorta_stays(abdomen: np.ndarray) -> None:
    scheme = LabelScheme(names=(*ALL.names, "aorta"), values=(*ALL.values, (4,)))
    abdomen[LATERAL] = 3
    odd = abdomen.copy()
    odd[10, 34, 4:8] = 4
    odd[10:19, 34, 4] = 4
    for labels, stays in ((abdomen, False), (odd, True)):
        result, _ = run(labels, VesselsReachAorta(), scheme=scheme)
        assert (result[LATERAL] == 3).all() == stays
        assert (result == 4).sum() == (labels == 4).sum()


def test_one_kidney_is_judged_from_the_scans_middle(abdomen: np.ndarray) -> None:
    abdomen[..., 60:] = 0
    abdomen[LATERAL] = 3
    result, _ = run(abdomen, VesselsReachAorta())
    assert not result[LATERAL].any()
    assert (result[20, 35, 30:47] == 3).all()


def test_a_mirrored_patient_gives_the_mirrored_answer(abdomen: np.ndarray) -> None:
    labels = abdomen.copy()
    labels[LATERAL] = labels[HILUM] = 3
    for axes in ((2,), (0,), (0, 1, 2)):
        result, _ = run(np.flip(labels, axes), VesselsReachAorta())
        assert np.array_equal(np.flip(result, axes), abdomen)


@pytest.mark.parametrize("tilt", [0.0, 20.0])
def test_the_answer_is_the_same_in_all_48_orientations(abdomen: np.ndarray, tilt: float) -> None:
    labels = abdomen.copy()
    labels[LATERAL] = labels[HILUM] = 3
    labels[box((2, 5), (5, 9), (40, 45))] = 2
    labels[3, 50, 50] = 1
    angle = np.radians(tilt)
    turn = np.array(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    )
    for order in permutations(range(3)):
        for signs in product((1.0, -1.0), repeat=3):
            direction = turn @ (np.eye(3)[:, list(order)] * np.array(signs))
            spacing = tuple(SPACING[::-1][axis] for axis in order)
            size = tuple(SHAPE[::-1][axis] for axis in order)
            grid = Grid(
                size=size, spacing=spacing, origin=(1.0, 2.0, 3.0),
                direction=tuple(direction.ravel()),
            )  # type: ignore[arg-type]  # fmt: skip
            orientation = Orientation.of(grid)
            on_disk = np.ascontiguousarray(orientation.undo(labels))
            assert on_disk.shape == grid.shape
            seen = orientation.apply(on_disk)
            rules = (AtMostTwoKidneys(), LesionsTouchKidney(), VesselsReachAorta())
            result, removed = apply_rules(seen, orientation.spacing(grid), ALL, rules)
            assert np.array_equal(result, abdomen)
            assert [len(found.pieces_ml) for found in removed] == [1, 1, 2]


@pytest.mark.parametrize(
    ("rule", "names", "lacking"),
    [
        (LesionsTouchKidney(), ("kidney", "artery"), "no lesion among the labels kidney, artery"),
        (LesionsTouchKidney(), ("tumor",), "no kidney among the labels tumor"),
        (AtMostTwoKidneys(), ("renal_artery", "kidney_tumor"), "no kidney among"),
        (VesselsReachAorta(), ("kidney", "ureter"), "no vessel among"),
        (MinimumVolume(structure="cyst", ml=1), ("kidney",), "no structure 'cyst' among"),
        (LesionsTouchKidney(), ("Left Kidney", "Cyst"), ""),
        (AtMostTwoKidneys(), ("cortex", "medulla"), ""),
        (VesselsReachAorta(), ("Renal_Vein",), ""),
        (MinimumVolume(structure="ureter", ml=1), ("ureter",), ""),
    ],
)
def test_names_decide_where_a_rule_applies(
    rule: Rule, names: tuple[str, ...], lacking: str
) -> None:
    values = tuple((number,) for number in range(len(names) + 1))
    scheme = LabelScheme(names=("background", *names), values=values)
    reason = misfit(rule, scheme)
    assert reason.startswith(f"there is {lacking}") if lacking else reason == ""
    labels = np.random.default_rng(0).integers(0, len(values), (9, 9, 9)).astype(np.uint8)
    if lacking:
        result, removed = apply_rules(labels, SPACING, scheme, [rule])
        assert not removed
        assert np.array_equal(result, labels)


def test_what_was_removed_is_told(abdomen: np.ndarray) -> None:
    abdomen[3, 50, 50] = abdomen[3, 3, 3] = 2
    _, removed = run(abdomen, MinimumVolume(structure="tumor", ml=0.1))
    told = as_decisions(removed)
    assert told.values == {
        "removed": [
            {"rule": "minimum_volume", "structure": "tumor", "ml": 0.1, "pieces_ml": [0.009, 0.009]}
        ]
    }
    assert told.remarks == ("2 pieces of tumor removed (0.018 ml) by the rule minimum_volume",)
